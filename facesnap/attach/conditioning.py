"""Conditioning: everything that one person contributes to one generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from facesnap.attach.window import Windowed, require_range
from facesnap.models.projections import SiteKV


class Rule(str, Enum):
    """Rule by which the ID output o joins the text output h (as in PuLID, arXiv 2404.16022, attention_processor.py).

    ADD: h + w o (IP-Adapter, InstantID). ORTHO: h + w (o - P). ORTHO_V2: h + w (o + (m - 1) P), with P the part of o
    parallel to h and m the attention that the first five ID tokens get (PuLID's style and fidelity modes).
    """

    ADD = "add"
    ORTHO = "ortho"
    ORTHO_V2 = "ortho_v2"


@dataclass(frozen=True, eq=False)
class Conditioning(Windowed):
    """One person's ID tokens in a generation; strength, window and region as in `Windowed`.

    Attributes:
        cond: keys and values per site for cond rows.
        uncond: the same for uncond rows; None adds nothing to them, as some adapters' rule says.
        block_strengths: further factors 0..10 by prefix of the site's name ("input", "input.4", "middle",
            "output.3.1.0"); the longest prefix that matches counts, others are 1.
        pictures: indices of the batch's pictures that the person is in; None for all.
        rule: see `Rule`.
        zero_tokens: zero vectors that join keys and values as an attention sink (PuLID: 8 or 16).
    """

    cond: SiteKV
    uncond: SiteKV | None = None
    block_strengths: Mapping[str, float] = field(default_factory=dict)
    pictures: frozenset[int] | None = None
    rule: Rule = Rule.ADD
    zero_tokens: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.block_strengths.items():
            require_range(f"block strength {name}", value, 0.0, 10.0)
        if self.zero_tokens < 0:
            require_range("zero_tokens", self.zero_tokens, 0, 64)

    def weight(self, site: str) -> float:
        """strength times the block strength of the longest matching prefix."""
        prefixes = [prefix for prefix in self.block_strengths if f"{site}.".startswith(f"{prefix}.")]
        return self.strength * self.block_strengths[max(prefixes, key=len)] if prefixes else self.strength
