"""The detection ladder: the sizes, paddings and turns that are tried until a face is found well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from facesnap.faces.align import misfit

Size = tuple[int, int]
Detector = Callable[[np.ndarray, Size], tuple[np.ndarray, np.ndarray]]

SIZES = (640, 320, 160, 1024, 2048)
PADDING = 0.5  # of the longer side, on every side
GOOD_SCORE = 0.75  # below, the ladder goes on and the best step wins: tight close-ups give poor hits of about 0.7
GOOD_MISFIT = 0.2  # 400 portraits stay below 0.15; in profile all steps are compared
SHORTEST_SIDE = 16  # px that the shorter side must keep in the detector's input


@dataclass(frozen=True)
class Step:
    """One way to look at the picture: the detector's input size, padded or not, quarter turns to the left."""

    size: Size
    padded: bool = False
    turns: int = 0

    def __str__(self) -> str:
        width, height = self.size
        size = str(width) if width == height else f"{width} x {height}"
        turned = f"turned {90 * self.turns}, " if self.turns else ""
        return f"{turned}{'padded ' if self.padded else ''}{size}"


@dataclass(frozen=True)
class Hits:
    """Detections of one step, in px of the picture, largest first: boxes (N, 4), kps (N, 5, 2), scores (N,)."""

    step: Step
    boxes: np.ndarray
    kps: np.ndarray
    scores: np.ndarray

    @property
    def merit(self) -> float:
        """Of the largest face: its score, less what its points deviate from a face."""
        return float(self.scores[0]) * (1.0 - min(misfit(self.kps[0]), 1.0))

    @property
    def turns_needed(self) -> int:
        """Quarter turns to the left of the picture that bring the largest face nearest to upright."""
        return round(roll(self.kps[0]) / 90) % 4

    @property
    def upright(self) -> bool:
        """The detector saw the largest face as nearly upright as quarter turns allow."""
        return self.turns_needed == self.step.turns

    @property
    def good(self) -> bool:
        """The largest face is found surely and upright, and its points make a face."""
        return self.upright and bool(self.scores[0] >= GOOD_SCORE) and misfit(self.kps[0]) <= GOOD_MISFIT


def roll(kps: np.ndarray) -> float:
    """Lean of a face, -180..180 degrees, clockwise positive: the direction from left eye to right."""
    across = kps[1] - kps[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def steps(width: int, height: int, fixed: Size | None = None) -> Iterator[Step]:
    """The ladder for a picture: sizes from the one that fits it best, then padding, then turns.

    Args:
        fixed: the detector's only input size, if its graph has no free axes.
    """
    longer = max(width, height)
    if fixed is not None:
        sizes: list[Size] = [fixed]
    else:
        # Enlarging a small picture to 640 makes its face too large for the detector's anchors.
        first = 160 if longer <= 160 else 320 if longer <= 400 else 640
        allowed = [size for size in SIZES if size <= 640 or size / 2 < longer]
        sizes = [(size, size) for size in sorted(allowed, key=lambda size: size != first)]
    yield from (Step(size) for size in sizes)
    yield from (Step(size, padded=True) for size in sizes[:2])
    small = [size for size in sizes if max(size) <= 640] or sizes
    for turns in (1, 3, 2):
        yield from (Step(size, turns=turns) for size in small)
        yield Step(sizes[0], padded=True, turns=turns)
    for turns in (1, 3, 2):  # the dearest steps come last
        yield from (Step(size, turns=turns) for size in sizes if size not in small)


def climb(
    picture: np.ndarray, detect: Detector, fixed: Size | None = None, most: int | None = None
) -> tuple[Hits | None, list[Step]]:
    """Climb until a step finds its largest face well; else the step of greatest merit.

    A face that leans by more than 45 degrees is looked at again with the picture turned at once, since
    detectors place the five points of a lying face poorly.

    Args:
        picture: (H, W, 3) uint8.
        detect: picture, (width, height) of the input -> (N, 5) boxes with score, (N, 5, 2) points.
        most: how many steps of the ladder may be tried; all where None.

    Returns:
        what was found, or None, and the steps that were tried.
    """
    height, width = picture.shape[:2]
    tried: list[Step] = []
    best: Hits | None = None
    for step in itertools.islice(steps(width, height, fixed), most):
        if step in tried:
            continue
        tried.append(step)
        hits = look(picture, detect, step)
        if hits is not None and not hits.upright:
            turned = replace(step, turns=hits.turns_needed)
            if turned not in tried:
                tried.append(turned)
                hits = _better(hits, look(picture, detect, turned))
        best = _better(best, hits)
        if best is not None and best.good:
            break
    return best, tried


def look(picture: np.ndarray, detect: Detector, step: Step) -> Hits | None:
    """Detect in the picture as the step says; coordinates are those of the picture itself."""
    view = np.rot90(picture, step.turns)
    margin = round(PADDING * max(view.shape[:2])) if step.padded else 0
    view = np.pad(view, ((margin, margin), (margin, margin), (0, 0))) if margin else np.ascontiguousarray(view)
    height, width = view.shape[:2]
    if min(height, width) * min(step.size[0] / width, step.size[1] / height) < SHORTEST_SIDE:
        return None
    found, kps = detect(view, step.size)
    if len(found) == 0:
        return None
    height, width = picture.shape[:2]
    boxes = found[:, :4].reshape(-1, 2, 2) - margin  # (N, 2 corners, xy)
    corners = unturn(boxes, step.turns, width, height)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)  # (N, 4)
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    return Hits(
        step,
        boxes[order].astype(np.float32),
        unturn(kps - margin, step.turns, width, height)[order].astype(np.float32),
        found[order, 4].astype(np.float32),
    )


def unturn(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Points (..., 2) of np.rot90(picture, turns) -> points of the picture, which is width x height."""
    x, y = points[..., 0], points[..., 1]
    if turns % 4 == 1:
        x, y = width - 1 - y, x
    elif turns % 4 == 2:
        x, y = width - 1 - x, height - 1 - y
    elif turns % 4 == 3:
        x, y = y, height - 1 - x
    return np.stack([x, y], axis=-1)


def _better(first: Hits | None, second: Hits | None) -> Hits | None:
    if first is None or second is None:
        return first or second
    if first.upright != second.upright:
        return first if first.upright else second
    return second if second.merit > first.merit else first
