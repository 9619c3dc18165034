"""Adapter families, one module each, and the registry that finds them."""
