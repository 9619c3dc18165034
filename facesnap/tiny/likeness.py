"""A person's looks as numbers: the truth that the world knows of every face in it.

A few thousand people teach a network little when all that it hears is "the same" and "another"; where each of a
person's landmarks lies, and which colours the person has, says in which way they differ.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from facesnap.world.head import head_model
from facesnap.world.person import SyntheticPerson

PLACES = 216  # 72 points x 3
TRAITS = 18


def likeness(people: np.ndarray) -> np.ndarray:
    """The person of each picture as numbers.

    Args:
        people: (N,) seeds.

    Returns:
        (N, 234) float32: where the 72 points of the head without expression lie, from their middle, in units of
        the head's size; then tone, skin, eyes, lips, brows, blush, freckles and the gender slider.

    Raises:
        SettingsError: a seed belongs to no split. MissingDependencyError: anny is not installed.
    """
    seeds, rows = np.unique(people, return_inverse=True)
    return np.stack([_of(int(seed)) for seed in seeds])[rows]


def standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (234,) of likenesses (N, 234): one deviation for all places, so that a millimetre counts the
    same everywhere, one for each trait."""
    deviation = values.std(0)
    deviation[:PLACES] = np.sqrt(np.square(deviation[:PLACES]).mean())
    return values.mean(0), np.maximum(deviation, 1e-6)


@lru_cache(maxsize=4096)
def _of(seed: int) -> np.ndarray:
    person, model = SyntheticPerson.sample(seed), head_model()
    points = model.points(model.neutral(person.head))  # (72, 3) m
    points = points - points.mean(0)
    brows = person.brows
    numbers = [
        person.tone, *person.skin, *person.eye, *person.lips, brows.thickness, brows.arch, brows.inner_lift,
        brows.tail, brows.density, person.blush, person.freckles, person.masculine,
    ]  # fmt: skip
    return np.concatenate([(points / np.sqrt(np.square(points).mean())).reshape(-1), numbers]).astype(np.float32)
