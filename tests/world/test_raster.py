"""The rasteriser against a pixel-by-pixel one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.world.raster import FAR, rasterise

SIZE = 24


def brute(points: np.ndarray, faces: np.ndarray, two_sided: np.ndarray) -> np.ndarray:
    """Depth of the nearest triangle at each pixel centre, in float64."""
    depths = np.full((SIZE, SIZE), np.inf)
    for triangle, both in zip(faces, two_sided, strict=True):
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[triangle].astype(np.float64)
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(area) < 1e-9 or (area > 0 and not both):
            continue
        for row in range(SIZE):
            for column in range(SIZE):
                x, y = column + 0.5, row + 0.5
                b = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area
                c = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
                if min(b, c, 1 - b - c) >= 0:
                    depths[row, column] = min(depths[row, column], 1 / ((1 - b - c) / az + b / bz + c / cz))
    return depths


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), reach=st.sampled_from([3.0, 12.0, 40.0]))
def test_depths_are_those_of_a_pixel_by_pixel_rasteriser(seed, count, reach):
    rng = np.random.RandomState(seed)
    middle = rng.uniform(0, SIZE, (count, 1, 2))
    points = np.concatenate([middle + rng.uniform(-reach, reach, (count, 3, 2)), rng.uniform(1, 2, (count, 3, 1))], 2)
    points = points.reshape(-1, 3).astype(np.float32)
    faces, both = np.arange(3 * count).reshape(-1, 3), rng.uniform(size=count) < 0.5
    found = rasterise(points, faces, SIZE, two_sided=both)
    depths = found.depths.reshape(SIZE, SIZE)
    wanted = brute(points, faces, both)
    # A pixel centre on a triangle's very edge may fall to either side.
    disagree = (depths >= FAR) != np.isinf(wanted)
    assert disagree.sum() <= 1
    shown = (depths < FAR) & np.isfinite(wanted)
    close = np.abs(depths[shown] - wanted[shown]) < 2e-3
    assert close.mean() >= 0.98 if close.size else True
    assert len(found.pixel) == (depths < FAR).sum() and (np.diff(found.pixel) > 0).all()
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=1e-4)
    mixed = (points[faces[found.triangle], 2] * found.weights).sum(1)
    np.testing.assert_allclose(mixed, found.depths[found.pixel], atol=1e-3)


def test_nothing_in_the_picture_is_an_empty_answer():
    points = np.array([[100, 100, 1], [110, 100, 1], [100, 110, 1]], np.float32)
    found = rasterise(points, np.array([[0, 2, 1]]), SIZE, two_sided=np.ones(1, bool))
    assert len(found.pixel) == 0 and (found.depths == FAR).all()


def test_cut_out_fragments_show_what_lies_behind():
    square = np.array([[0, 0], [24, 0], [0, 24], [24, 24]], np.float32)
    points = np.concatenate([np.c_[square, np.full(4, 1.0)], np.c_[square, np.full(4, 2.0)]]).astype(np.float32)
    faces = np.array([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]])
    front = np.array([True, True, False, False])
    everything = rasterise(points, faces, SIZE, two_sided=np.ones(4, bool))
    np.testing.assert_allclose(everything.depths, 1, atol=1e-5)
    cut = rasterise(
        points, faces, SIZE, two_sided=np.ones(4, bool), tested=front,
        keep=lambda triangle, weights: triangle == 0,
    )  # fmt: skip
    grid = cut.depths.reshape(SIZE, SIZE)
    assert grid[2, 2] == pytest.approx(1) and grid[21, 21] == pytest.approx(2)
