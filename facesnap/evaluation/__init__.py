"""Evaluation: what adapters are worth on people that they never saw, measured by networks that they never met."""
