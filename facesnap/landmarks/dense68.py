"""A 68-point ONNX that insightface ignores, run on several crops of the face whose answers are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from facesnap.errors import PackError
from facesnap.landmarks.scheme import MIRROR, five_points, from_ibug68, outer_eye_distance

# Crops as (shift right, shift down) in crop sides; each is read as it is and mirrored. Such nets move by 1 %
# of the outer-eye distance with every shift of the box, and that part of their error averages out.
_SHIFTS = ((0.0, 0.0), (0.04, 0.0), (-0.04, 0.0), (0.0, 0.04), (0.0, -0.04))
_CROP = 1.05  # of the box's longer side
# How nets write coordinates: fractions of the crop, pixels of the input, or -1..1.
_CONVENTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "fractions": lambda values, side: values,
    "pixels": lambda values, side: values / side,
    "centred": lambda values, side: (values + 1) / 2,
}
_WORST_AGREEMENT = 0.5  # outer-eye distances between the net's five points and the face detector's


class Dense68:
    """Runs one 68-point session. Input: grey or RGB in 0..1 (n / 256), square."""

    def __init__(self, session: Any, name: str, cv2: Any) -> None:
        self._session, self._name, self._cv2 = session, name, cv2
        first = session.get_inputs()[0]
        self._input, self._channels, self._side = first.name, int(first.shape[1]), int(first.shape[2])
        self._batched = not isinstance(first.shape[0], int)
        self._convention: str | None = None

    def find(self, picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> tuple[np.ndarray, float]:
        """(72, 2) pixels and the standard error of the mean over the crops, in outer-eye distances."""
        frames = [self._frame(box, kps, shift) for shift in _SHIFTS]
        crops = [self._crop(picture, frame) for frame in frames]
        raw = self._run(np.concatenate([np.stack(crops), np.stack(crops)[..., ::-1]]))  # (2 N, 68, 2)
        if self._convention is None:
            self._convention = self._recognise(raw[0], frames[0], kps)
        fractions = _CONVENTIONS[self._convention](raw, self._side)
        answers = []
        for index, frame in enumerate(frames):
            answers.append(self._place(from_ibug68(fractions[index]), frame))
            mirrored = from_ibug68(fractions[len(frames) + index])[list(MIRROR)] * (-1, 1) + (1, 0)
            answers.append(self._place(mirrored, frame))
        points = np.mean(answers, axis=0)
        spread = np.std(answers, axis=0).mean() / outer_eye_distance(points) / np.sqrt(len(_SHIFTS))
        return points, float(spread)

    def _frame(self, box: np.ndarray, kps: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
        """(2, 3) matrix from crop fractions to picture pixels: a square about the box, along the eyes."""
        side = _CROP * max(box[2] - box[0], box[3] - box[1])
        eyes = kps[1] - kps[0]
        along = eyes / max(float(np.hypot(*eyes)), 1e-6)
        axes = np.stack([along, [-along[1], along[0]]], axis=1) * side  # (2, 2), columns right and down
        centre = (box[:2] + box[2:]) / 2 + axes @ shift
        return np.column_stack([axes, centre - axes @ (0.5, 0.5)])

    def _crop(self, picture: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """(C, side, side) float32 in 0..1, averaged down by warping at a multiple of the side."""
        cv2, side = self._cv2, self._side
        factor = int(np.clip(np.ceil(np.hypot(*frame[:, 0]) / side), 1, 8))
        large = side * factor
        warped = cv2.warpAffine(
            picture,
            np.column_stack([frame[:, :2] / large, frame[:, 2]]),
            (large, large),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        small = cv2.resize(warped, (side, side), interpolation=cv2.INTER_AREA)
        if self._channels == 1:
            return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[None].astype(np.float32) / 256
        return small.transpose(2, 0, 1).astype(np.float32) / 256

    def _run(self, crops: np.ndarray) -> np.ndarray:
        """(N, C, side, side) to (N, 68, 2), one by one where the graph has a fixed batch."""
        crops = np.ascontiguousarray(crops)
        batches = [crops] if self._batched else [crop[None] for crop in crops]
        outputs = [self._session.run(None, {self._input: batch})[0] for batch in batches]
        return np.concatenate([np.asarray(o, dtype=np.float64).reshape(-1, 68, 2) for o in outputs])

    def _place(self, fractions: np.ndarray, frame: np.ndarray) -> np.ndarray:
        return fractions @ frame[:, :2].T + frame[:, 2]

    def _recognise(self, raw: np.ndarray, frame: np.ndarray, kps: np.ndarray) -> str:
        """The convention whose points agree best with the face detector's five."""
        eyes = max(float(np.hypot(*(kps[1] - kps[0]))), 1e-6) * 1.4  # eye centres to outer corners
        distances = {}
        for name, decode in _CONVENTIONS.items():
            points = self._place(from_ibug68(decode(raw, self._side)), frame)
            distances[name] = float(np.hypot(*(five_points(points) - kps).T).mean()) / eyes
        best = min(distances, key=lambda name: distances[name])
        if not distances[best] < _WORST_AGREEMENT:
            raise PackError(
                f"{self._name} has the shapes of a 68-point model, but its points are not on the face.",
                expected="68 iBUG points as fractions, pixels or -1..1 of a crop about the face's box.",
                remedy="Remove the file from the pack folder; five points are used then.",
            )
        return best
