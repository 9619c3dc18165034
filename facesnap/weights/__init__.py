"""Weights on the disk: the catalogue and its downloads, folders, adapters, saved identities, and the doctor."""
