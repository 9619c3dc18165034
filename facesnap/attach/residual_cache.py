"""Reuse of FFRNet's residuals from one sigma to the next.

The residuals of an encoder change little from one sigma to the next (Faster-Diffusion), so every second
distinct sigma may take those of the one before. Not in the first fifth of the sampling, where the layout is
made, nor in the last, where the details are, nor with 8 steps or fewer, where neighbours are far apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from facesnap.attach.rows import RowPlan

T = TypeVar("T")

FEWEST_STEPS = 9
FIRST, LAST = 0.2, 0.8


def may_reuse(progress: float, steps: int | None) -> bool:
    """Whether reuse is allowed at this place of the sampling.

    Args:
        progress: fraction of the sampling that is done, 0..1.
        steps: number of steps of the sampling; None where the host does not say: never.
    """
    return steps is not None and steps >= FEWEST_STEPS and FIRST <= progress < LAST


@dataclass(frozen=True)
class _Kept(Generic[T]):
    visit: int
    t: tuple[float, ...]
    value: T


class ResidualCache(Generic[T]):
    """Remembers results of UNet calls by kind and gives them back at every second distinct sigma.

    A kind is whatever makes two calls comparable (rows, size, who is active). Hosts split a sigma into
    several calls of one kind (tiles, AND) and second-order samplers visit a sigma twice, so calls are paired
    by their number within the visit to a sigma: the second call of a kind at one sigma never gets what the
    first gave at the sigma before. What was itself reused is not reused again, and never across a step
    that goes up in sigma (Restart, a new pass) nor across a call of the sampler in which an accelerator left
    the UNet out.

    Attributes:
        computed, reused: how many calls were which.
    """

    def __init__(self) -> None:
        self.computed = 0
        self.reused = 0
        self._visit = 0
        self._t: tuple[float, ...] | None = None
        self._step: int | None = None
        self._calls: Counter[Hashable] = Counter()
        self._kept: dict[Hashable, _Kept[T]] = {}

    def get(
        self,
        kind: Hashable,
        t: tuple[float, ...],
        plan: RowPlan,
        compute: Callable[[], T],
    ) -> T:
        """The value for a UNet call: that of the sigma before where allowed, else ``compute()``.

        Args:
            kind: what the call has in common with those it may be paired with.
            t: timesteps of its rows (they grow with sigma); equal timesteps are one sigma.
            plan: says where in the sampling the call is.
        """
        if plan.step is not None:
            left_out = max(plan.step - self._step - 1, 0) if self._step is not None else 0
            self._visit, self._step = self._visit + left_out, plan.step
        if t != self._t:
            self._visit, self._t = self._visit + 1, t
            self._calls.clear()
        key = (kind, self._calls[kind])
        self._calls[kind] += 1
        kept = self._kept.get(key)
        lower = kept is not None and len(t) == len(kept.t) and all(a < b for a, b in zip(t, kept.t, strict=True))
        if may_reuse(plan.progress, plan.steps) and kept is not None and lower and kept.visit == self._visit - 1:
            self.reused += 1
            return kept.value
        self._kept = {k: v for k, v in self._kept.items() if v.visit >= self._visit - 1}
        self.computed += 1
        value = compute()
        self._kept[key] = _Kept(self._visit, t, value)
        return value

    def forget(self) -> None:
        """Drop everything kept, as between two samplings."""
        self._kept.clear()
        self._calls.clear()
        self._t = self._step = None
