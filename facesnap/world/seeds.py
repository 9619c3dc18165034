"""Random streams of the world: one a person, one a picture, none shared."""

from __future__ import annotations

import zlib

import numpy as np


def stream(purpose: str, *numbers: int) -> np.random.RandomState:
    """numpy's frozen generator, seeded from a purpose and numbers; it depends on nothing else."""
    entropy = [zlib.crc32(purpose.encode()), *numbers]
    return np.random.RandomState(np.random.SeedSequence(entropy).generate_state(8))
