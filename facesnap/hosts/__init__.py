"""Who owns the UNet: one module a host."""
