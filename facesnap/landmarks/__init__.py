"""The Landmark Predictor: face shape of the reference, pose and expression of a driver (numpy only).

Vectors handed to the renderers are fractions of the picture (x of its width, y of its height), so that one
vector serves every pass size.
"""

from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import Detection, LandmarkDetector
from facesnap.landmarks.fitting import Fit, Observation, fit
from facesnap.landmarks.pose import View
from facesnap.landmarks.predictor import LandmarkPredictor, Landmarks
from facesnap.landmarks.recombination import PoseSpec, recombine
from facesnap.landmarks.render import render_five_points, render_landmarks

__all__ = [
    "Basis",
    "Detection",
    "Fit",
    "LandmarkDetector",
    "LandmarkPredictor",
    "Landmarks",
    "Observation",
    "PoseSpec",
    "View",
    "fit",
    "recombine",
    "render_five_points",
    "render_landmarks",
]
