"""Random choices by counter: what is drawn depends on (seed, purpose, step, slot) and on nothing else.

A slot is a place in the global batch. So the number of processes, of loader workers and of interruptions changes no
draw: one process with batch 4 sees what two processes with batch 2 see, and a resumed run what an unbroken one sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler


class Purpose(IntEnum):
    """Purpose of a generator; different purposes never share a stream."""

    ORDER = 0
    REFERENCE = 1
    NOISE = 2
    DROPS = 3
    AUGMENT = 4
    JUDGE = 5
    PROMPT = 6


def generator(seed: int, purpose: Purpose, *counter: int) -> np.random.Generator:
    """The generator of one purpose at one place, for example `generator(seed, Purpose.NOISE, step, slot)`."""
    return np.random.default_rng([seed, int(purpose), *counter])


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> np.ndarray:
    return generator(seed, Purpose.ORDER, epoch).permutation(count)


def sample_at(seed: int, count: int, number: int) -> int:
    """Index of the training's number-th sample among `count`: each epoch is a permutation of its own."""
    epoch, place = divmod(number, count)
    return int(_order(seed, count, epoch)[place])


class Slots(Sampler[list[tuple[int, int]]]):
    """The (step, slot) keys of one process, micro-batch by micro-batch.

    Args:
        start, end: steps of the optimiser.
        batch: of one process in one micro-batch. accumulation: micro-batches a step.
        rank, processes: this process's place.
    """

    def __init__(self, start: int, end: int, batch: int, accumulation: int = 1, rank: int = 0, processes: int = 1):
        self.start, self.end, self.batch = start, end, batch
        self.accumulation, self.rank, self.processes = accumulation, rank, processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.end):
            for part in range(self.accumulation):
                first = (part * self.processes + self.rank) * self.batch
                yield [(step, first + i) for i in range(self.batch)]
