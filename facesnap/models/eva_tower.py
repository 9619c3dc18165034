"""EVA02-CLIP's image tower, whose hidden states PuLID reads: a vision transformer with rotary positions and SwiGLU.

Sun et al., EVA-CLIP (arXiv 2303.15389), and Fang et al., EVA-02 (arXiv 2303.11331). Tensor names are those of the
public file, but that biases are named after their layers (q_proj.bias for q_bias).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.errors import EncoderError
from facesnap.models.tensors import count_indices

HEAD_WIDTH = 64
EPS = 1e-6
# Positions are measured in cells of the grid of the first training, 224 / 14, whatever the grid is now.
TRAINED_GRID = 16.0
THETA = 10000.0

# Names of timm and of OpenCLIP's timm models -> the public file's.
_RENAMED = (
    (re.compile(r"\.attn\.([qv])_bias$"), r".attn.\1_proj.bias"),
    (re.compile(r"\.attn\.norm\."), ".attn.inner_attn_ln."),
    (re.compile(r"\.mlp\.norm\."), ".mlp.ffn_ln."),
    (re.compile(r"\.mlp\.fc1_g\."), ".mlp.w1."),
    (re.compile(r"\.mlp\.fc1_x\."), ".mlp.w2."),
    (re.compile(r"\.mlp\.fc2\."), ".mlp.w3."),
)
_PREFIXES = ("visual.trunk.", "visual.", "trunk.", "")
_WRAPPERS = ("module.", "model.", "state_dict.")
_MARK = "blocks.0.attn.q_proj.weight"
_ROPE = re.compile(r"(^|\.)rope\.freqs_(cos|sin)$")  # computed anew


class TowerOutput(NamedTuple):
    """hidden: level -> (B, 1 + P, width). class_vector: (B, projection), of length 1."""

    hidden: dict[int, Tensor]
    class_vector: Tensor


@dataclass(frozen=True)
class EvaConfig:
    """Sizes of a tower, all determined by its tensors.

    Attributes:
        ff: width inside SwiGLU. grid: patches along one side. projection: width of the class vector.
    """

    width: int
    layers: int
    ff: int
    patch: int
    grid: int
    projection: int

    @property
    def image_size(self) -> int:
        """Side of the pictures that it looks at, px."""
        return self.grid * self.patch

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> EvaConfig:
        """Read every size off the tensors, in the names of `tower_tensors`.

        Raises:
            EncoderError: a tensor that fixes a size is missing, or sizes that no such tower has.
        """
        wanted = {"pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.w1.weight": 2, "head.weight": 2}
        found = {name: tuple(state[name].shape) if name in state else () for name in wanted}
        layers = count_indices(state, "blocks.")
        positions, width = found["pos_embed"][1:] or (0, 0)
        grid = round(max(positions - 1, 0) ** 0.5)
        fits = all(len(found[name]) == dims for name, dims in wanted.items())
        if not fits or not layers or width % HEAD_WIDTH or grid * grid + 1 != positions or grid == 0:
            raise EncoderError(
                f"EVA-CLIP's image tower has {layers} blocks and the sizes {found}.",
                expected=f"at least one block, a width that is a multiple of {HEAD_WIDTH}, and one position for each "
                "patch of a square grid and for the class token",
                remedy="the file is damaged or of another kind; fetch it again",
            )
        ff, projection = found["blocks.0.mlp.w1.weight"][0], found["head.weight"][0]
        return cls(width, layers, ff, found["patch_embed.proj.weight"][3], grid, projection)


def tower_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The image tower's tensors under our names, of a whole CLIP or a tower alone; None where there is no such tower.

    Known layouts: the official file (visual.*, q_bias, w1), OpenCLIP's (visual.trunk.*) and timm's (no prefix).
    """
    inner = next((w for w in ("", *_WRAPPERS) if any(w + p + _MARK in state for p in _PREFIXES)), None)
    if inner is None:
        return None
    prefix = next(inner + p for p in _PREFIXES if inner + p + _MARK in state)
    found = {}
    for name, tensor in state.items():
        if not name.startswith(prefix) or _ROPE.search(name):
            continue
        ours = name[len(prefix) :]
        for pattern, replacement in _RENAMED:
            ours = pattern.sub(replacement, ours)
        found[ours] = tensor
    return found


class EvaTower(nn.Module):
    """Pictures -> hidden states and class vector."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        c = self.config = config
        self.patch_embed = Patches(c.width, c.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + c.grid**2, c.width))
        self.blocks = nn.ModuleList(EvaBlock(c.width, c.ff) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width, EPS)
        self.head = nn.Linear(c.width, c.projection)

    def forward(self, pixels: Tensor, levels: Collection[int] = ()) -> TowerOutput:
        """Look at pictures.

        Args:
            pixels: (B, 3, S, S), normalised with CLIP's mean and deviation. levels: n is the state after n blocks.

        Raises:
            EncoderError: pictures of another size, or a level that the tower has not.
        """
        side = self.config.image_size
        if pixels.shape[1:] != (3, side, side) or any(not 0 < level <= self.config.layers for level in levels):
            raise EncoderError(
                f"EVA-CLIP's tower was given pictures {tuple(pixels.shape)} and asked for the levels {list(levels)}.",
                expected=f"(B, 3, {side}, {side}) and levels from 1 to {self.config.layers}",
                remedy="use the tower that the adapter was trained with",
            )
        x = self.patch_embed(pixels)  # (B, P, W)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed  # (B, 1 + P, W)
        cos, sin = rotations(self.config.grid, x.device)
        hidden = {}
        for n, block in enumerate(self.blocks, 1):
            x = block(x, cos, sin)
            if n in levels:
                hidden[n] = x
        vector = self.head(self.norm(x[:, 0]))  # (B, projection)
        return TowerOutput(hidden, vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True))


class Patches(nn.Module):
    """Pictures (B, 3, S, S) -> patches (B, P, W), row by row."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, side, side)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # (B, W, grid, grid) -> (B, P, W)


class EvaBlock(nn.Module):
    """Attention and SwiGLU, each after a norm and with another one inside."""

    def __init__(self, width: int, ff: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attn = EvaAttention(width)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = SwiGLU(width, ff)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class EvaAttention(nn.Module):
    """Self-attention; queries and keys of patches are turned by their positions, those of the class token are not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.inner_attn_ln = nn.LayerNorm(width, EPS)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)  # (B, N, W) -> (B, heads, N, 64)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(_turn(q, cos, sin), _turn(k, cos, sin), v)
        return self.proj(self.inner_attn_ln(out.transpose(1, 2).flatten(2)))  # (B, heads, N, 64) -> (B, N, W)


class SwiGLU(nn.Module):
    """w3(norm(silu(w1 x) * w2 x))."""

    def __init__(self, width: int, ff: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, ff)
        self.w2 = nn.Linear(width, ff)
        self.ffn_ln = nn.LayerNorm(ff, EPS)
        self.w3 = nn.Linear(ff, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


def rotations(grid: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine (grid * grid, 64) float32 of the angles by which a head's channels are turned.

    The first half of the channels is turned by the patch's row, the second by its column, in pairs (2i, 2i + 1).
    """
    half = HEAD_WIDTH // 2
    frequencies = 1.0 / THETA ** (torch.arange(0, half, 2, device=device).float() / half)  # (16,)
    positions = torch.arange(grid, device=device).float() / grid * TRAINED_GRID
    angles = (positions[:, None] * frequencies).repeat_interleave(2, dim=-1)  # (grid, 32)
    rows, columns = angles[:, None].expand(-1, grid, -1), angles[None].expand(grid, -1, -1)  # (grid, grid, 32)
    both = torch.cat((rows, columns), dim=-1).flatten(0, 1)  # (grid * grid, 64)
    return both.cos(), both.sin()


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, heads, 1 + P, 64): each pair (a, b) of a patch -> (a cos - b sin, b cos + a sin)."""
    whole, patches = x[:, :, :1], x[:, :, 1:].float()
    a, b = patches.unflatten(-1, (-1, 2)).unbind(-1)
    other = torch.stack((-b, a), dim=-1).flatten(-2)  # (B, heads, P, 64)
    return torch.cat((whole, (patches * cos + other * sin).to(x.dtype)), dim=2)
