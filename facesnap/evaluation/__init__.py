"""Evaluation: adapters on people that they were not trained on, measured by independent networks."""
