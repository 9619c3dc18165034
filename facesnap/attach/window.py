"""Schedule and place of a contribution to a generation, the same for ID tokens, FFRNet and LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from facesnap.errors import SettingsError


@dataclass(frozen=True, eq=False, kw_only=True)
class Windowed:
    """Base of what is attached with a strength, during a window of the sampling, in a region of the picture.

    Attributes:
        strength: 0..10; 0 adds nothing at all.
        start, end: window of the sampling's progress, active where start <= progress < end (end 1 is inclusive);
            an empty window adds nothing at all.
        region: (H, W) soft map over the whole picture, 0..1, any size, or None for everywhere.

    Raises:
        SettingsError: a value out of its range.
    """

    NAME: ClassVar[str] = ""  # in messages, before the attribute's own name

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    region: Tensor | None = None

    def __post_init__(self) -> None:
        require_range(f"{self.NAME}strength", self.strength, 0.0, 10.0)
        require_range(f"{self.NAME}start", self.start, 0.0, 1.0)
        require_range(f"{self.NAME}end", self.end, 0.0, 1.0)
        if self.region is None:
            return
        ok = self.region.ndim == 2 and min(self.region.shape) > 0 and bool(torch.isfinite(self.region).all())
        if not ok or float(self.region.min()) < 0 or float(self.region.max()) > 1:
            raise SettingsError(
                f"The region map has shape {tuple(self.region.shape)} or values outside 0..1.",
                expected="a (height, width) map with finite values from 0 to 1",
                remedy="give a soft mask as one grey picture",
            )

    @property
    def dormant(self) -> bool:
        """Whether it is never active."""
        return self.strength == 0.0 or self.start >= self.end

    def active(self, progress: float) -> bool:
        """Whether the window holds the progress (0..1) and the strength is not 0."""
        return not self.dormant and self.start <= progress and (progress < self.end or self.end == 1.0)


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise a SettingsError unless the value is a finite number from low to high."""
    if not (math.isfinite(value) and low <= value <= high):
        raise SettingsError(f"{name} is {value}.", expected=f"a number from {low} to {high}", remedy=f"correct {name}")
