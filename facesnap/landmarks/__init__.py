"""The Landmark Predictor: face shape of the reference, pose and expression of a driver (numpy only).

Vectors handed to the renderers are fractions of the picture (x of its width, y of its height), so that one
vector serves every pass size.
"""
