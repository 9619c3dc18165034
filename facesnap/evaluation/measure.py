"""Measurements on one picture, by judges that had no part in making it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.evaluation.attribute_judge import AttributeJudge, obedience
from facesnap.evaluation.cases import Case
from facesnap.evaluation.landmark_judge import LandmarkJudge, nme
from facesnap.evaluation.recognisers import Recogniser
from facesnap.faces.align import aligned_crop
from facesnap.faces.analyser import FaceAnalyser
from facesnap.files import write_atomically
from facesnap.pipeline.pipeline import SCORE_STEPS

HOG = {"orientations": 8, "pixels_per_cell": (16, 16), "cells_per_block": (1, 1)}  # of the aligned crop of 112 px


@dataclass
class Judges:
    """Networks that measure; `points` and `attributes` know the synthetic world alone."""

    analyser: FaceAnalyser
    recogniser: Recogniser
    points: LandmarkJudge | None = None
    attributes: AttributeJudge | None = None

    @property
    def key(self) -> str:
        """A digest of what measurements depend on besides the picture."""
        digest = hashlib.sha256(f"{self.analyser.recogniser} {self.recogniser.sha256} {HOG}".encode())
        for judge in (self.points, self.attributes):
            for name, tensor in sorted(judge.state_dict().items()) if judge is not None else ():
                digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def look(self, picture: np.ndarray, case: Case | None = None) -> dict[str, Any]:
        """Measure a picture (H, W, 3) uint8 RGB.

        Returns:
            `found`; where a face was found its `embedding` and `hog`, and with a case that asks for points `nme72`;
            with a case that has attributes `right`, attribute -> 1 or 0, only those that the prompt names.
        """
        out: dict[str, Any] = {"found": False}
        if case is not None and case.attributes is not None and self.attributes is not None:
            right = obedience(self.attributes.values(picture[None]), [case.attributes])
            out["right"] = {name: float(value[0]) for name, value in right.items() if np.isfinite(value[0])}
        place = self.analyser.place(picture, most_steps=SCORE_STEPS)
        if place is None:
            return out
        box, kps = place
        out["found"] = True
        out["embedding"] = self.recogniser.embed(picture, box, kps).tolist()
        out["hog"] = np.round(hog_of(aligned_crop(picture, kps)), 6).tolist()
        if case is not None and case.points is not None and self.points is not None:
            found = self.points.points(picture[None], np.asarray(box, np.float64)[None])
            out["nme72"] = float(nme(found, case.points[None])[0])
        return out


def hog_of(crop: np.ndarray) -> np.ndarray:
    """Histogram of oriented gradients of an aligned crop (112, 112, 3) uint8 RGB, of length 1."""
    from skimage.feature import hog

    found = hog(crop.astype(np.float64).mean(2) / 255, **HOG)
    return found / max(float(np.linalg.norm(found)), 1e-9)


def diversity(hogs: list[np.ndarray]) -> float:
    """Mean pairwise cosine distance of vectors of length 1; NaN for fewer than two."""
    if len(hogs) < 2:
        return float("nan")
    cosine = np.stack(hogs) @ np.stack(hogs).T
    return max(0.0, float(1 - cosine[np.triu_indices(len(hogs), 1)].mean()))


def copying(made: np.ndarray, truth: np.ndarray, reference: np.ndarray) -> float:
    """M_CP of WithAnyone (2025), -1..1: 1 copies the reference, 0 is as near to another true picture.

    (angle to the truth - angle to the reference) / angle of the two, of the recogniser's vectors.
    """
    unit = [vector / np.linalg.norm(vector) for vector in (made, truth, reference)]

    def angle(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.arccos(np.clip(a @ b, -1, 1)))

    return (angle(unit[0], unit[1]) - angle(unit[0], unit[2])) / max(angle(unit[1], unit[2]), 1e-3)


def measured(judges: Judges, key: str, picture: np.ndarray, case: Case | None, sidecar: Path) -> dict[str, Any]:
    """`judges.look`, kept beside the picture: done again only where the picture or the judges are others."""
    mark = hashlib.sha256(picture.tobytes()).hexdigest() + key
    if sidecar.is_file():
        try:
            kept = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError:  # a damaged one is as good as none
            kept = {}
        if kept.get("of") == mark:
            return kept["measured"]
    found = judges.look(picture, case)
    text = json.dumps({"of": mark, "measured": found})
    write_atomically(sidecar, lambda part: part.write_text(text, encoding="utf-8"))
    return found
