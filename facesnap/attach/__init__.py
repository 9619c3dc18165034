"""Conditionings put on a live UNet and taken off again (torch only)."""
