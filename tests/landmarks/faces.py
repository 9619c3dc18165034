"""Faces made from the basis, for tests that need to know the truth."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from facesnap.landmarks.basis import Basis
from facesnap.landmarks.pose import rotation

SIZE = (640, 480)
angles = st.tuples(st.floats(-50, 50), st.floats(-25, 25), st.floats(-40, 40))
seeds = st.integers(0, 10_000)


def coefficients(basis: Basis, seed: int, spread: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """A random person's identity and expression."""
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=len(basis.identity)), spread * rng.normal(size=len(basis.expression))


def project(
    basis: Basis,
    a: np.ndarray,
    b: np.ndarray,
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0),
    *,
    scale: float = 120.0,
    place: tuple[float, float] = (310.0, 250.0),
    dims: int = 2,
) -> np.ndarray:
    """(72, dims) pixels of a face in a pose."""
    shape = basis.shape(a, basis.expression_offset(b))
    points = scale * shape @ rotation(*pose).T
    return points[:, :dims] + np.array([*place, 0.0][:dims])
