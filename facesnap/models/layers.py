"""Layers that the mixer's two stages share: perceiver attention with gated token groups, feed-forward.

The perceiver form (keys and values = context joined with the queries) is that of IP-Adapter's FaceID-Plus
projector and of InstantID's resampler; tensor names are theirs, so donor weights load by a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) -> (B, heads, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q: (B, N, heads * d). k, v: (B, T, heads * d).
        bias: added to the logits, (B, T) or None; log-quality of the tokens.

    Returns:
        (B, N, heads * d)
    """
    mask = None if bias is None else bias.to(q.dtype)[:, None, None, :]  # (B, T) -> (B, 1, 1, T)
    q, k, v = split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)  # (B, heads, N, d) -> (B, N, heads * d)


class TokenGroup:
    """Tokens that share one softmax.

    Attributes:
        tokens: (B, T, D).
        bias: (B, T) log-quality added to the attention logits, or None where all are equal to 0.
    """

    __slots__ = ("bias", "tokens")

    def __init__(self, tokens: Tensor, bias: Tensor | None = None) -> None:
        self.tokens, self.bias = tokens, bias

    def map(self, module: nn.Module) -> TokenGroup:
        """The same group with its tokens sent through a module."""
        return TokenGroup(module(self.tokens), self.bias)


class PerceiverAttention(nn.Module):
    """Queries attend to the context and to themselves; further groups enter through tanh gates.

    out = W_o (Attn(q; [LN X ; LN Y]) + sum_g tanh(gate_g) Attn(q; LN X_g)). Every group has a softmax of its own,
    so a gate of 0 leaves the donor exactly as it was and still receives a full gradient.

    Args:
        width: D of context and queries. inner: heads * dim_head. heads: number of heads.
        groups: names of the gated groups.
    """

    def __init__(self, width: int, inner: int, heads: int, groups: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.gates = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in groups})

    def forward(self, context: Tensor, queries: Tensor, groups: Mapping[str, TokenGroup] | None = None) -> Tensor:
        """(B, S, D) context, (B, T, D) queries -> (B, T, D)."""
        y = self.norm2(queries)
        q = self.to_q(y)
        k, v = self.to_kv(torch.cat((self.norm1(context), y), dim=1)).chunk(2, dim=-1)  # (B, S + T, inner) each
        out = attend(q, k, v, self.heads)
        for name, gate in self.gates.items():
            group = (groups or {}).get(name)
            if group is None:
                continue
            k, v = self.to_kv(self.norm1(group.tokens)).chunk(2, dim=-1)
            out = out + torch.tanh(gate) * attend(q, k, v, self.heads, group.bias)
        return self.to_out(out)


def feed_forward(width: int, inner: int) -> nn.Sequential:
    """LayerNorm, GELU feed-forward without biases: (..., D) -> (..., D)."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner, bias=False),
        nn.GELU(),
        nn.Linear(inner, width, bias=False),
    )
