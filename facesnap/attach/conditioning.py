"""Conditioning: everything that one person contributes to one generation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from facesnap.errors import SettingsError
from facesnap.models.projections import SiteKV


class Rule(str, Enum):
    """How the ID output o joins the text output h (as in PuLID, arXiv 2404.16022, attention_processor.py).

    ADD: h + w o (IP-Adapter, InstantID). ORTHO: h + w (o - P). ORTHO_V2: h + w (o + (m - 1) P), with P the part of o
    parallel to h and m the attention that the first five ID tokens get (PuLID's style and fidelity modes).
    """

    ADD = "add"
    ORTHO = "ortho"
    ORTHO_V2 = "ortho_v2"


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One person's part of a generation.

    Attributes:
        cond: keys and values per site for cond rows.
        uncond: the same for uncond rows; None adds nothing to them, as some adapters' rule says.
        strength: weight of the ID output, 0..10; 0 adds nothing at all.
        start, end: window of the sampling's progress, active where start <= progress < end (end 1 is inclusive).
        block_strengths: further factors 0..10 by prefix of the site's name ("input", "input.4", "middle",
            "output.3.1.0"); the longest prefix that matches counts, others are 1.
        region: (H, W) soft map over the whole picture, 0..1, any size, or None for everywhere.
        pictures: indices of the batch's pictures that the person is in; None for all.
        rule: see `Rule`.
        zero_tokens: zero vectors that join keys and values as an attention sink (PuLID: 8 or 16).

    Raises:
        SettingsError: a value out of its range.
    """

    cond: SiteKV
    uncond: SiteKV | None = None
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    block_strengths: Mapping[str, float] = field(default_factory=dict)
    region: Tensor | None = None
    pictures: frozenset[int] | None = None
    rule: Rule = Rule.ADD
    zero_tokens: int = 0

    def __post_init__(self) -> None:
        require_range("strength", self.strength, 0.0, 10.0)
        require_range("start", self.start, 0.0, 1.0)
        require_range("end", self.end, 0.0, 1.0)
        for name, value in self.block_strengths.items():
            require_range(f"block strength {name}", value, 0.0, 10.0)
        if self.zero_tokens < 0:
            require_range("zero_tokens", self.zero_tokens, 0, 64)
        if self.region is not None:
            require_region(self.region)

    def active(self, progress: float) -> bool:
        """Whether the window holds the progress (0..1) and the strength is not 0."""
        inside = self.start <= progress and (progress < self.end or (self.end == 1.0 and self.start < 1.0))
        return self.strength != 0.0 and inside

    def weight(self, site: str) -> float:
        """strength times the block strength of the longest matching prefix."""
        parts = site.split(".")
        for n in range(len(parts), 0, -1):
            prefix = ".".join(parts[:n])
            if prefix in self.block_strengths:
                return self.strength * self.block_strengths[prefix]
        return self.strength


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise a SettingsError unless the value is a finite number from low to high."""
    if not (math.isfinite(value) and low <= value <= high):
        raise SettingsError(f"{name} is {value}.", expected=f"a number from {low} to {high}", remedy=f"correct {name}")


def require_region(region: Tensor) -> None:
    """Raise a SettingsError unless the map is (H, W) with finite values from 0 to 1."""
    ok = region.ndim == 2 and min(region.shape) > 0 and bool(torch.isfinite(region).all())
    if not ok or float(region.min()) < 0 or float(region.max()) > 1:
        raise SettingsError(
            f"The region map has shape {tuple(region.shape)} or values outside 0..1.",
            expected="a (height, width) map with finite values from 0 to 1",
            remedy="give a soft mask as one grey picture",
        )
