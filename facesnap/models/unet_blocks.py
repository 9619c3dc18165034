"""The blocks of a Stable Diffusion UNet's encoder, under diffusers' parameter names.

Feature maps are (B, C, H, W), token sequences (B, N, C). Ranges are those of the networks that were
trained with these blocks; nothing is clamped here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.models.layers import split_heads

KeyValue = tuple[Tensor, Tensor]  # K and V of one cross-attention site, each (B or 1, heads, T, head dim)


def timestep_embedding(t: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of the diffusion timestep, (B,) -> (B, width), always float32.

    Cosines first, no frequency shift: what ldm writes as ``timestep_embedding`` and diffusers as
    ``flip_sin_to_cos=True, downscale_freq_shift=0``.
    """
    half = width // 2
    ramp = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t[:, None].float() * torch.exp(-math.log(max_period) * ramp / half)[None]  # (B, half)
    embedding = torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)
    return F.pad(embedding, (0, width % 2))


class VectorEmbedding(nn.Module):
    """Two linear layers with SiLU between: of the timestep, or of SDXL's pooled text and sizes."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, time_width)
        self.linear_2 = nn.Linear(time_width, time_width)

    def forward(self, vector: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(vector)))


class ResBlock(nn.Module):
    """Residual block with the time embedding added between its two convolutions."""

    def __init__(self, width_in: int, width: int, time_width: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, width_in, eps=1e-5)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, width)
        self.norm2 = nn.GroupNorm(norm_groups, width, eps=1e-5)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        r = self.conv1(F.silu(self.norm1(h)))
        r = r + self.time_emb_proj(F.silu(time))[:, :, None, None]  # (B, C) -> (B, C, 1, 1)
        r = self.conv2(F.silu(self.norm2(r)))
        return r + (h if self.conv_shortcut is None else self.conv_shortcut(h))


class Downsample(nn.Module):
    """Stride-2 convolution with padding 1: an odd side n gives (n + 1) / 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h)


class Attention(nn.Module):
    """Multi-head attention whose K and V may be computed ahead of time by ``project``."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])  # a list, for the name to_out.0

    def project(self, context: Tensor) -> KeyValue:
        """(B, T, context dim) -> K and V, each (B, heads, T, head dim)."""
        return split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads)

    def project_exactly(self, context: Tensor) -> KeyValue:
        """The same in the context's dtype, whatever that of the weights."""
        k, v = (F.linear(context, layer.weight.to(context.dtype)) for layer in (self.to_k, self.to_v))
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, h: Tensor, kv: KeyValue) -> Tensor:
        q = split_heads(self.to_q(h), self.heads)  # (B, heads, N, head dim)
        k, v = (x.to(q.dtype).expand(q.shape[0], -1, -1, -1) for x in kv)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).flatten(2))  # (B, N, width)


class GEGLU(nn.Module):
    """Linear to twice the width; one half gates the other through GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, h: Tensor) -> Tensor:
        h, gate = self.proj(h).chunk(2, dim=-1)
        return h * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU and a linear layer back; names ``net.0.proj`` and ``net.2`` (1 is a dropout of rate 0)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        return self.net(h)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the ID tokens, feed-forward; each on a normalised input."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, context_dim, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, h: Tensor, kv: KeyValue) -> Tensor:
        n = self.norm1(h)
        h = self.attn1(n, self.attn1.project(n)) + h
        h = self.attn2(self.norm2(h), kv) + h
        return self.ff(self.norm3(h)) + h


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, with a projection on either side.

    ``linear``: the projections are linear layers (SD 2.x, SDXL) rather than 1x1 convolutions (SD 1.x).
    """

    def __init__(self, width: int, context_dim: int, heads: int, depth: int, linear: bool, norm_groups: int) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(norm_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, context_dim, heads) for _ in range(depth))
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor, kvs: list[KeyValue]) -> Tensor:
        r = self.norm(h)
        r = self.proj_in(_to_tokens(r)) if self.linear else _to_tokens(self.proj_in(r))  # (B, H * W, C)
        for block, kv in zip(self.transformer_blocks, kvs, strict=True):
            r = block(r, kv)
        r = _to_map(self.proj_out(r), h) if self.linear else self.proj_out(_to_map(r, h))
        return r + h


def _to_tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H * W, C)


def _to_map(r: Tensor, like: Tensor) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W) in the memory format of ``like``: mixed formats slow convolutions."""
    channels_last = not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return r.transpose(1, 2).unflatten(2, like.shape[2:]).contiguous(memory_format=layout)
