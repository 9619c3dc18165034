"""The Landmark Predictor as a whole: pictures of a person in, their landmarks in another pose out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import Detection, LandmarkDetector
from facesnap.landmarks.fitting import Fit, fit
from facesnap.landmarks.recombination import PoseSpec, recombine
from facesnap.landmarks.scheme import five_points


class FaceLike(Protocol):
    """The part of a detected face that the predictor needs (facesnap.faces.Face has it)."""

    @property
    def picture(self) -> np.ndarray: ...
    @property
    def box(self) -> np.ndarray: ...
    @property
    def kps(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Landmarks to draw and what else follows from them; all in fractions of the picture.

    Attributes:
        points: (72, 2).
        five: (5, 2), InstantID's five points.
        box: left, top, right, bottom of the 72 points.
    """

    points: np.ndarray

    @property
    def five(self) -> np.ndarray:
        return five_points(self.points)

    @property
    def box(self) -> tuple[float, float, float, float]:
        low, high = self.points.min(0), self.points.max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


class LandmarkPredictor:
    """Detection, fit and recombination with one basis and one detector."""

    def __init__(self, detector: LandmarkDetector, basis: Basis | None = None) -> None:
        self.detector = detector
        self.basis = Basis.load() if basis is None else basis

    def detect(self, face: FaceLike) -> Detection:
        """The landmarks of one face in its picture."""
        return self.detector.detect(face.picture, face.box, face.kps)

    def fit(self, faces: FaceLike | Sequence[FaceLike]) -> Fit:
        """One person's shape from one or several faces. Raises LandmarkError where no fit is possible."""
        several = list(faces) if isinstance(faces, Sequence) else [faces]
        return fit(self.basis, [self.detect(face).observation for face in several])

    def predict(self, source: Fit, driver: Fit | PoseSpec, size: tuple[int, int], **options: Any) -> Landmarks:
        """The source's landmarks in the driver's pose and expression; options as those of `recombine`."""
        return Landmarks(recombine(self.basis, source, driver, size=size, **options))
