"""Reasons to doubt that photos are good references of one person, in one place for every door."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

STRANGERS = 0.2  # cosine below which two photos hardly show one person, with any of the usual recognisers


def likeness(vectors: np.ndarray) -> np.ndarray:
    """Cosines (R, R) between embeddings (R, D) of any length."""
    normed = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed @ normed.T


def different_people(vectors: np.ndarray, names: Sequence[str]) -> list[str]:
    """A sentence without full stop for every two of R photos that seem to show different people.

    Args:
        vectors: their faces' embeddings (R, D). names: what the photos are called, R of them.
    """
    cosines = likeness(vectors)
    return [
        f"{names[a]} and {names[b]} seem to show different people (cosine {cosines[a, b]:.2f})"
        for a, b in combinations(range(len(names)), 2)
        if cosines[a, b] < STRANGERS
    ]
