"""One detected face, its quality, and the choice among several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facesnap.errors import NoFaceError, SettingsError
from facesnap.faces.align import RECOGNISER_SIZE, aligned_crop, misfit
from facesnap.faces.looks import GOOD_MISFIT, GOOD_SCORE, SURE_SCORE
from facesnap.remedies import remedy
from facesnap.settings.words import FACES

Choice = str | int
# Variance of the Laplacian of a 112 px crop (grey 0..255) at which sharpness counts one half: a face that is
# visibly out of focus lies below it, an ordinary portrait several times above.
HALF_SHARPNESS = 60.0
EYE_DISTANCE = 35.2  # px in the 112 template; a face whose eyes are closer is enlarged for the recogniser
NO_FACE_MISFIT = 0.5  # five points that deviate so much from a face are scattered; profiles are near 0.3
NOT_SEEN_AGAIN = 0.5  # of the detector's score where a second, close look saw no face
DOUBTFUL = 0.4  # a part of the quality below this is worth a word to the person who chose the photo


@dataclass(frozen=True)
class Quality:
    """Quality of a reference; every part is 0..1.

    Attributes:
        detection: the detector's score; below 0.75 it falls faster, to 0 at 0.5, and it is halved where a second
            look saw no face.
        sharpness: v / (v + 60), v the variance of the Laplacian of the 112 px crop.
        frontalness: 1 when the nose lies half-way between the eyes, 0 in profile.
        size: eye distance in the picture over that of the recogniser's template, at most 1.
        landmarks: 1 where the five points make a face, 0 where they are scattered.
    """

    detection: float
    sharpness: float
    frontalness: float
    size: float
    landmarks: float = 1.0

    @property
    def score(self) -> float:
        """Geometric mean of the first four parts times the last, 0..1: no bad part is bought off by the others."""
        return float((self.detection * self.sharpness * self.frontalness * self.size) ** 0.25 * self.landmarks)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons to doubt a reference, for people to read; empty where there are none."""
        said = {
            "detection": "hardly recognisable as a face",
            "sharpness": "blurred",
            "frontalness": "turned away",
            "size": "small in the photo",
            "landmarks": "hidden or no face: its points do not fit one",
        }
        return tuple(f"the face is {word}" for part, word in said.items() if getattr(self, part) < DOUBTFUL)

    def json(self) -> dict[str, float]:
        """Score and parts, rounded."""
        parts = ("score", "detection", "sharpness", "frontalness", "size", "landmarks")
        return {part: round(float(getattr(self, part)), 4) for part in parts}


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one picture. Coordinates are pixels of the upright picture, pixel centres at whole numbers.

    Attributes:
        box: (4,) float32, left, top, right, bottom.
        kps: (5, 2) float32, eyes, nose, mouth corners, in the template's order.
        score: the detector's, 0..1.
        embedding: (512,) float32, as the recogniser gives it (not normalised).
        recogniser: sha256 of the recogniser's ONNX file.
        alias: name of the pack the recogniser came from.
        picture_size: (width, height).
        found_by: the step of the detection ladder, such as "640", "padded 640" or "turned 90, 640".
        source: what the picture is called.
        picture: the picture (H, W, 3) RGB uint8, shared, for crops.
    """

    box: np.ndarray
    kps: np.ndarray
    score: float
    embedding: np.ndarray
    recogniser: str
    alias: str
    picture_size: tuple[int, int]
    quality: Quality
    found_by: str
    source: str
    picture: np.ndarray = field(repr=False)

    @property
    def normed_embedding(self) -> np.ndarray:
        """(512,) float32 of length 1."""
        return self.embedding / np.linalg.norm(self.embedding)

    @property
    def area(self) -> float:
        """Of the box, px^2."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    def crop(self, size: int = RECOGNISER_SIZE) -> np.ndarray:
        """Aligned crop (size, size, 3) RGB uint8, upright however the face lies in the picture."""
        return aligned_crop(self.picture, self.kps, size)

    def json(self) -> dict[str, Any]:
        """The face as numbers that JSON has."""
        return {
            "box": [round(float(value), 2) for value in self.box],
            "points": [[round(float(value), 2) for value in point] for point in self.kps],
            "score": round(self.score, 4),
            "found_by": self.found_by,
            "embedding_norm": round(float((self.embedding**2).sum() ** 0.5), 4),
            "quality": self.quality.json(),
            "doubts": list(self.quality.doubts),
        }


def quality_of(crop: np.ndarray, kps: np.ndarray, score: float, seen_again: bool | None = None) -> Quality:
    """Quality from the 112 px crop (RGB uint8), the five points in the picture and the detector's score.

    Args:
        seen_again: whether a second, close look saw the face; None where there was none.
    """
    import cv2

    laplacian = cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F)
    sharpness = float(laplacian.var())
    left, right, nose = kps[0].astype(np.float64), kps[1].astype(np.float64), kps[2].astype(np.float64)
    eyes = right - left
    distance = float(np.linalg.norm(eyes))
    along = float(np.dot(nose - left, eyes)) / max(distance**2, 1e-6)  # 0.5 when the nose is in the middle
    sure = score if score >= GOOD_SCORE else GOOD_SCORE * (score - SURE_SCORE) / (GOOD_SCORE - SURE_SCORE)
    spread = (NO_FACE_MISFIT - misfit(kps)) / (NO_FACE_MISFIT - GOOD_MISFIT)
    return Quality(
        detection=float(np.clip(sure * (NOT_SEEN_AGAIN if seen_again is False else 1.0), 0, 1)),
        sharpness=sharpness / (sharpness + HALF_SHARPNESS),
        frontalness=float(np.clip(1 - 2 * abs(along - 0.5), 0, 1)),
        size=min(1.0, distance / EYE_DISTANCE),
        landmarks=float(np.clip(spread, 0, 1)),
    )


def choose_face(faces: Sequence[Face], choose: Choice = "largest") -> Face:
    """One of several faces: "largest", "leftmost", "central", or an index from the largest (0) down.

    "first" is the one that the detector is surest of, which it lists first.

    Raises:
        NoFaceError: there are not so many faces.
        SettingsError: the choice is none of these.
    """
    if isinstance(choose, str) and choose.lstrip("-").isdigit():
        choose = int(choose)
    if not faces or (isinstance(choose, int) and not 0 <= choose < len(faces)):
        raise NoFaceError(
            f"Face {choose} of {faces[0].source if faces else 'a picture'} was asked for, which has {len(faces)}.",
            expected=f"an index from 0 (the largest) to {len(faces) - 1}.",
            remedy=remedy("see the faces"),
        )
    by_size = sorted(faces, key=lambda face: -face.area)
    if isinstance(choose, int):
        return by_size[choose]
    if choose == "largest":
        return by_size[0]
    if choose == "leftmost":
        return min(by_size, key=lambda face: float(face.box[0]))
    if choose == "central":
        return min(by_size, key=_distance_to_centre)
    if choose == "first":
        return max(faces, key=lambda face: face.score)
    raise SettingsError(
        f"Choice of face '{choose}'.",
        expected=f"{', '.join(FACES)} or an index.",
        remedy="use one of these.",
    )


def _distance_to_centre(face: Face) -> float:
    width, height = face.picture_size
    centre = (face.box[:2] + face.box[2:]) / 2
    return float(np.hypot(centre[0] - (width - 1) / 2, centre[1] - (height - 1) / 2))
