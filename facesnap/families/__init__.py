"""Adapter families, one module each, and the registry that finds them (`base` says how a new one is made)."""
