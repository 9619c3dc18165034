"""The state of one UNet call that the hooks share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from facesnap.attach.rows import Row
from facesnap.attach.topology import Site
from facesnap.errors import AttachError


@dataclass
class Query:
    """Input and output of a site's to_q, kept until the same site's to_out."""

    input: Tensor  # (b, N, C)
    q: Tensor  # (b, N, width)


@dataclass
class UNetCall:
    """One call of the UNet inside the attachment.

    Attributes:
        rows: roles of the batch's entries, B of them.
        progress: fraction of the sampling that is done.
        latent: (height, width) of the UNet's input.
        input: of the attn2 that runs, with the site's name: the whole (B, N, C) that it was called with.
        normed: the same of the layer before it. One site's at a time: all of them would be hundreds of MB.
        queries: per site, the query that waits for its to_out.
        fired: sites whose to_out took part in this call.
    """

    rows: tuple[Row, ...]
    progress: float
    latent: tuple[int, int]
    input: tuple[str, Tensor] | None = None
    normed: tuple[str, Tensor] | None = None
    queries: dict[str, Query] = field(default_factory=dict)
    fired: set[str] = field(default_factory=set)

    def rows_of(self, site: Site, query: Query) -> tuple[Row, ...]:
        """Roles of the rows that a site's query holds.

        Extensions such as Regional Prompter call to_q with a slice of the batch: its place is known by its storage
        inside the site's whole input, or, where it was copied, by its values. Forge Couple calls it with the cond
        rows repeated, once for each of its prompts.

        Raises:
            AttachError: the slice cannot be placed.
        """
        n, whole = len(query.input), _of(site, self.input)
        if n == len(self.rows):
            return self.rows
        if whole is not None and len(whole) == len(self.rows) and n < len(whole):
            by_storage = _by_storage(whole, query.input)
            offsets = _by_value(whole, query.input) if by_storage is None else by_storage
            places = {self.rows[o : o + n] for o in offsets}
            if len(places) == 1:
                return places.pop()
        normed = _of(site, self.normed)
        if normed is not None and len(normed) == len(self.rows) and n > len(self.rows):
            for at in _repeated(self.rows, n):
                if torch.equal(query.input[: len(at)], normed[at]):
                    return tuple(self.rows[i] for i in at) + (self.rows[-1],) * (n - len(at))
        raise AttachError(
            f"Cross-attention {site.name} was called with {n} rows out of {len(self.rows)} that cannot be placed.",
            expected="the whole batch, a slice of the site's own input, or the cond rows repeated",
            remedy="switch off the extension that re-arranges the batch inside the attention, or report its name",
        )


def _of(site: Site, kept: tuple[str, Tensor] | None) -> Tensor | None:
    return kept[1] if kept is not None and kept[0] == site.name else None


def _repeated(rows: tuple[Row, ...], n: int) -> Iterator[list[int]]:
    """Which rows n rows may stand for where each chunk of cond rows comes several times.

    A chunk holds all pictures once. One row without a meaning may follow: some attentions want an even number.
    """
    size = len({(row.picture, row.tile) for row in rows})
    chunks = [range(start, start + size) for start in range(0, len(rows), size)]
    conds = sum(row.cond for row in rows)
    for spare in (0, 1):
        times, rest = divmod(n - spare - len(rows) + conds, conds) if conds else (1, n - spare - len(rows))
        if not rest and not len(rows) % size:
            yield [i for chunk in chunks for _ in range(times if rows[chunk.start].cond else 1) for i in chunk]


def _by_storage(whole: Tensor, part: Tensor) -> list[int] | None:
    """First row of a view in its base tensor; None where it is no view of it."""
    step = whole.stride(0)
    same = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    if not same or part.stride() != whole.stride() or step == 0:
        return None
    offset, rest = divmod(int(part.storage_offset()) - int(whole.storage_offset()), step)
    return [offset] if rest == 0 and 0 <= offset <= len(whole) - len(part) else None


def _by_value(whole: Tensor, part: Tensor) -> list[int]:
    """All places where a slice equals rows of the whole; several where rows are alike."""
    if part.shape[1:] != whole.shape[1:]:
        return []
    n = len(part)
    return [o for o in range(len(whole) - n + 1) if bool((whole[o : o + n] == part).all())]
