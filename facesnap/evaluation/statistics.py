"""Means over people with bootstrap intervals, and paired differences between two rows of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over people, its percentile bootstrap interval (95 %), and how many people it stands on."""

    mean: float
    low: float
    high: float
    people: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def estimate(values: np.ndarray, seed: int = 0) -> Estimate | None:
    """The mean of people's values (P,), NaN where a person has none; None where all lack one.

    People are drawn with replacement: pictures of one person are not independent, people are.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    rng = np.random.default_rng(seed)
    means = known[rng.integers(0, len(known), (RESAMPLES, len(known)))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(known.mean()), float(low), float(high), len(known))


def difference(first: np.ndarray, second: np.ndarray) -> Estimate | None:
    """First - second, person by person, over the people who have both values."""
    return estimate(np.asarray(first, np.float64) - np.asarray(second, np.float64))


def person_means(values: np.ndarray) -> np.ndarray:
    """Values (P, K) of K pictures a person -> (P,) means of those that are known; NaN for none."""
    known = np.isfinite(values)
    count = known.sum(1)
    total = np.where(known, values, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
