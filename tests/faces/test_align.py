"""The similarity transform and the aligned crop."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facesnap.errors import SettingsError
from facesnap.faces.align import aligned_crop, apply, misfit, similarity, template

angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.05, 20)
shifts = st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000))


@given(angles, scales, shifts)
def test_recovers_any_similarity(angle: float, scale: float, shift: tuple[float, float]) -> None:
    points = template(112).astype(np.float64)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = points @ turn.T + shift
    matrix = similarity(points, moved)
    assert np.allclose(matrix[:, :2], turn, atol=1e-6 * max(scale, 1)) and np.allclose(
        matrix[:, 2], shift, atol=1e-4
    )
    assert np.allclose(apply(matrix, points), moved, atol=1e-4)
    assert misfit(moved) < 1e-6


@given(st.integers(0, 1000), angles)
def test_is_the_least_squares_rotation(seed: int, angle: float) -> None:
    """No other similarity of the same kind fits better, and it is never a mirror image."""
    random = np.random.default_rng(seed)
    source, target = random.normal(size=(5, 2)) * 50, random.normal(size=(5, 2)) * 50
    matrix = similarity(source, target)
    assert np.linalg.det(matrix[:, :2]) >= 0
    best = np.sum((apply(matrix, source) - target) ** 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    other = matrix.copy()
    other[:, :2] = turn @ matrix[:, :2]
    other[:, 2] = target.mean(axis=0) - other[:, :2] @ source.mean(axis=0)
    assert best <= np.sum((apply(other, source) - target) ** 2) + 1e-6


@pytest.mark.parametrize("size", [112, 128, 224, 256, 336])
def test_equals_insightface_to_the_pixel(size: int, astronaut: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from insightface.utils import face_align
    random = np.random.default_rng(size)
    base = np.array([[200, 100], [240, 100], [220, 125], [205, 150], [235, 150.0]])
    for _ in range(20):
        kps = (base + random.normal(0, 5, (5, 2))).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            theirs = face_align.norm_crop(astronaut, kps, size)
        assert np.array_equal(aligned_crop(astronaut, kps, size), theirs)
    assert (theirs != aligned_crop(astronaut, kps + 0.5, size)).any()


def test_sizes_of_the_two_families() -> None:
    assert np.allclose(template(224), 2 * template(112))
    assert np.allclose(template(256), 2 * template(112) + [16, 0])
    for size in (0, -112, 100, 250):
        with pytest.raises(SettingsError):
            template(size)


def test_degenerate_points() -> None:
    for points in (np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), np.inf)):
        assert misfit(points) == float("inf")
        with pytest.raises(SettingsError):
            similarity(points, template(112))
