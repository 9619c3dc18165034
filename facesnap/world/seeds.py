"""Random streams of the world: one a person, one a picture, none shared."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np


def stream(purpose: str, *numbers: int) -> np.random.RandomState:
    """numpy's frozen generator, seeded from a purpose and numbers; it depends on nothing else."""
    entropy = [zlib.crc32(purpose.encode()), *numbers]
    return np.random.RandomState(np.random.SeedSequence(entropy).generate_state(8))


def pick(rng: np.random.RandomState, table: Mapping[str, float | tuple[float, str]]) -> str:
    """One of a table's keys; their values are, or begin with, their odds."""
    return str(rng.choice(list(table), p=[row[0] if isinstance(row, tuple) else row for row in table.values()]))
