"""Ranges of what a run asks of the sampler: seeds, pictures in all and at a time."""

from __future__ import annotations

import random

from facesnap.errors import SettingsError
from facesnap.settings.field_types import wrong

RANDOM = -1  # in the place of a seed, as in the WebUIs
LAST_SEED = 2**32 - 1
MOST_PICTURES = 100_000  # of one run
MOST_AT_ONCE = 64


def whole(value: int, name: str, low: int, high: int) -> int:
    """A whole number of a range. Raises SettingsError, which calls it by its name in this door."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(name, value, f"a whole number from {low} to {high}")
    return value


def counted(count: int, batch: int, names: tuple[str, str] = ("count", "batch")) -> tuple[int, int]:
    """Pictures in all and at a time, checked. Raises SettingsError."""
    return whole(count, names[0], 1, MOST_PICTURES), whole(batch, names[1], 1, MOST_AT_ONCE)


def first_seed(seed: int, count: int = 1, name: str = "seed") -> int:
    """Seed of the first of `count` pictures, each of which takes the next one; -1 draws it at random.

    Raises:
        SettingsError: it is neither -1 nor 0..4294967295, or the last picture's would be larger.
    """
    last = LAST_SEED - (count - 1)
    if seed == RANDOM:
        return random.SystemRandom().randint(0, last)
    whole(seed, name, RANDOM, LAST_SEED)
    if seed > last:
        raise SettingsError(
            f"{name} is {seed}, and the last of {count} pictures would have the seed {seed + count - 1}.",
            expected=f"a last seed of at most {LAST_SEED}, so {name} up to {last}, or {RANDOM} for a random one",
            remedy=f"correct {name}, or ask for fewer pictures",
        )
    return seed
