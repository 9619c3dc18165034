"""Owners of the UNet: one module a host."""
