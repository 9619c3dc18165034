"""The ID branch of one site: attention to one person's token groups, joined to the text output by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.attach.conditioning import Rule
from facesnap.models.layers import attend, split_heads
from facesnap.models.projections import GroupKV

SINK_TOKENS = 5  # ORTHO_v2 weighs by the attention to the first five ID tokens (PuLID)


@dataclass(frozen=True)
class RowsKV:
    """One token group for several rows: k, v (B, T, width), bias (B, T) or None, gate as in GroupKV."""

    k: Tensor
    v: Tensor
    bias: Tensor | None
    gate: float


def stack_rows(groups: Sequence[GroupKV], zero_tokens: int, like: Tensor) -> RowsKV:
    """Stack one group of several rows, on q's device and in its dtype; `zero_tokens` zero vectors join at the end.

    Args:
        groups: one entry a row, all with the same number of tokens and the same gate.
        like: q, (B, N, width).
    """
    k = torch.stack([g.k for g in groups]).to(like.device, like.dtype)  # (B, T, width)
    v = torch.stack([g.v for g in groups]).to(like.device, like.dtype)
    bias = None
    if any(g.bias is not None for g in groups):
        rows = [g.bias if g.bias is not None else g.k.new_zeros(len(g.k)) for g in groups]
        bias = F.pad(torch.stack(rows), (0, zero_tokens)).to(like.device, like.dtype)
    return RowsKV(F.pad(k, (0, 0, 0, zero_tokens)), F.pad(v, (0, 0, 0, zero_tokens)), bias, groups[0].gate)


class Joined:
    """The text output of a site, to which people's ID outputs are added.

    Where it may, it adds in place: rows that concern no person are then neither copied nor read, and a person in
    contiguous rows costs one kernel beside the attention. It may not where a backward pass, a later person's rule or
    an overlapping layout needs the text as it was.

    Args:
        text: (B, N, width), the attention's output before to_out.
        expendable: whether no rule of the call reads the text again.

    Attributes:
        text: as given. out: (B, N, width), the text with what has been added so far.
    """

    def __init__(self, text: Tensor, expendable: bool) -> None:
        self.text = self.out = text
        sealed = text.is_inference() and not torch.is_inference_mode_enabled()
        self._in_place = expendable and text.is_contiguous() and not torch.is_grad_enabled() and not sealed

    def add(self, o: Tensor, at: slice | Tensor, weight: float) -> None:
        """Add weight * o, (b, N, width), to the b rows at an index."""
        o = o.to(self.out.dtype)
        if len(o) == len(self.out):  # an index holds every row once: all rows are a slice in their order
            self.out = torch.add(self.out, o, alpha=weight)
            return
        if self.out is self.text and not self._in_place:
            self.out = self.text.clone()
        if isinstance(at, slice):
            self.out[at].add_(o, alpha=weight)
        else:
            self.out.index_add_(0, at, o, alpha=weight)


def id_output(q: Tensor, text: Tensor | None, groups: Sequence[RowsKV], heads: int, rule: Rule) -> Tensor:
    """The addition, before its weight, to the text output of a site.

    Args:
        q: (B, N, width) queries of the site.
        text: (B, N, width), its attention output before to_out; None for ADD, which does not read it.
        groups: the person's token groups, each with a softmax of its own.

    Returns:
        (B, N, width).
    """
    out: Tensor | None = None
    for group in groups:
        o = attend(q, group.k, group.v, heads, group.bias)
        if rule is not Rule.ADD:
            assert text is not None
            factor = -1.0 if rule is Rule.ORTHO else _attention_to_first(q, group, heads) - 1
            o = _orthogonal(o, text, factor)
        if group.gate != 1.0:
            o = o * group.gate
        out = o if out is None else out + o
    assert out is not None
    return out


def _orthogonal(o: Tensor, text: Tensor, factor: Tensor | float) -> Tensor:
    """o + factor * P with P = h <h, o> / <h, h>, sums over the query positions, per channel, in float32."""
    h, o = text.float(), o.float()
    norm = (h * h).sum(-2, keepdim=True)  # (B, N, C) -> (B, 1, C)
    parallel = (h * o).sum(-2, keepdim=True) / torch.where(norm > 0, norm, 1.0) * h
    return o + factor * parallel


def _attention_to_first(q: Tensor, group: RowsKV, heads: int) -> Tensor:
    """m: softmax(q k^T), without 1/sqrt(d), averaged over heads, summed over the first tokens -> (B, N, 1)."""
    logits = split_heads(q, heads) @ split_heads(group.k, heads).transpose(-2, -1)  # (B, heads, N, T)
    if group.bias is not None:
        logits = logits + group.bias[:, None, None, :]
    return logits.softmax(-1).mean(1)[..., :SINK_TOKENS].sum(-1, keepdim=True).float()
