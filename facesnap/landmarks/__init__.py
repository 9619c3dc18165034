"""The Landmark Predictor: face shape of the reference, pose and expression of a driver (numpy only)."""
