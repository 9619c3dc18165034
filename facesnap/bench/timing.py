"""Paired timing: several variants in every round, in alternating order, ratios within the round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call, with the GPU's work done."""
    _finish()
    began = time.perf_counter()
    function()
    _finish()
    return time.perf_counter() - began


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Variant:
    """A function to time, and the context (not timed) in which it runs."""

    function: Callable[[], object]
    context: Callable[[], AbstractContextManager[object]] = nullcontext


def rounds(
    variants: Mapping[str, Variant], count: int, warm_up: int = 1, on_round: Callable[[], object] | None = None
) -> dict[str, np.ndarray]:
    """Seconds (count,) of every variant, one a round; the order turns, so that drift meets all alike."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm_up + count):
        shifted = names[turn % len(names) :] + names[: turn % len(names)]
        for name in shifted if turn % 2 == 0 else shifted[::-1]:
            with variants[name].context():
                taken = timed(variants[name].function)
            if turn >= warm_up:
                seconds[name].append(taken)
        if on_round is not None:
            on_round()
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Median and quartiles of the per-round ratios a / b."""
    low, median, high = np.percentile(a / b, (25, 50, 75))
    return {"median": round(float(median), 4), "q1": round(float(low), 4), "q3": round(float(high), 4)}
