"""Measurements that users can repeat: speed, memory and error against reference implementations."""
