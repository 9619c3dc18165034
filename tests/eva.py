"""EVA02-CLIP's image tower: random files of the public layouts, and the formulas that ours is held against."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.public_files import SMALL, Shapes, draw

WIDTH, LAYERS, PATCH, GRID, FF = SMALL["vit"], 21, 14, 4, 96  # as small as PuLID's five levels allow
LEVELS = (4, 8, 12, 16, 20)
State = dict[str, Tensor]


def tower_shapes(width: int, layers: int, ff: int, patch: int, grid: int, vector: int) -> Shapes:
    """The official file's tensors below "visual."."""
    out: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width)}
    out |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(layers):
        p = f"blocks.{i}."
        square = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj")
        out |= {f"{p}{name}.weight": (width, width) for name in square} | {f"{p}attn.proj.bias": (width,)}
        out |= {f"{p}attn.{name}_bias": (width,) for name in "qv"}
        for norm, size in (("norm1", width), ("attn.inner_attn_ln", width), ("norm2", width), ("mlp.ffn_ln", ff)):
            out |= {f"{p}{norm}.weight": (size,), f"{p}{norm}.bias": (size,)}
        for name, rows, columns in (("w1", ff, width), ("w2", ff, width), ("w3", width, ff)):
            out |= {f"{p}mlp.{name}.weight": (rows, columns), f"{p}mlp.{name}.bias": (rows,)}
    return out | {
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (vector, width),
        "head.bias": (vector,),
    }


def tower_state(seed: int = 12, layers: int = LAYERS) -> State:
    """A small tower, below no prefix, with a depth that makes its hidden states differ."""
    return draw(tower_shapes(WIDTH, layers, FF, PATCH, GRID, SMALL["vector"]), seed)


def official(state: State) -> State:
    """As EVA02_CLIP_L_336_psz14_s6B.pt has it: a whole CLIP in half precision; all blocks share two rotation tables."""
    visual = {f"visual.{name}": tensor.half() for name, tensor in state.items()}
    for part in ("cos", "sin"):
        table = torch.ones(576, 64).half()
        visual |= {f"visual.blocks.{i}.attn.rope.freqs_{part}": table for i in range(24)}
        visual[f"visual.rope.freqs_{part}"] = table
    return visual | {"text.token_embedding.weight": torch.ones(5, 3).half(), "logit_scale": torch.tensor(4.6)}


def timm_names(state: State, prefix: str = "") -> State:
    """As timm has it, or OpenCLIP's file of timm's model below "visual.trunk."."""
    names = {
        ".attn.q_bias": ".attn.q_proj.bias", ".attn.v_bias": ".attn.v_proj.bias", "attn.inner_attn_ln": "attn.norm",
        "mlp.ffn_ln": "mlp.norm", "mlp.w1": "mlp.fc1_g", "mlp.w2": "mlp.fc1_x", "mlp.w3": "mlp.fc2",
    }  # fmt: skip
    out = {}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        out[prefix + name] = tensor
    return out


def _norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-6) * s[f"{name}.weight"] + s[f"{name}.bias"]


@functools.cache
def _angles(grid: int) -> Tensor:
    """(1 + P, 32): by how much each pair of channels is turned, by row (first 16) and by column (last)."""
    angles = torch.zeros(1 + grid**2, 32)
    for patch in range(grid**2):
        row, column = divmod(patch, grid)
        for pair in range(32):
            place = (row if pair < 16 else column) * 16 / grid
            angles[1 + patch, pair] = place / 10000 ** (2 * (pair % 16) / 32)
    return angles


def _turned(x: Tensor, grid: int) -> Tensor:
    """(B, heads, 1 + P, 64): channel pairs as complex numbers."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 32, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones(()), _angles(grid))).flatten(-2)


def tower(s: State, pixels: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Normalised pictures (B, 3, S, S) -> the state after each block by its number, and the class vector."""
    grid, width = math.isqrt(s["pos_embed"].shape[1] - 1), s["cls_token"].shape[-1]
    patch = s["patch_embed.proj.weight"].shape[-1]
    pieces = F.unfold(pixels, patch, stride=patch).transpose(1, 2)  # (B, P, 3 * patch * patch)
    x = pieces @ s["patch_embed.proj.weight"].flatten(1).T + s["patch_embed.proj.bias"]
    x = torch.cat([s["cls_token"].repeat(len(x), 1, 1), x], 1) + s["pos_embed"]
    states = {}
    for i in range(sum(name.endswith("norm1.weight") for name in s)):
        p, b = f"blocks.{i}.", len(x)
        y = _norm(s, p + "norm1", x)
        q, k, v = (
            (y @ s[f"{p}attn.{n}_proj.weight"].T + s.get(f"{p}attn.{n}_bias", torch.zeros(())))
            .reshape(b, -1, width // 64, 64).permute(0, 2, 1, 3) for n in "qkv"
        )  # fmt: skip
        scores = torch.softmax(_turned(q, grid) @ _turned(k, grid).transpose(-1, -2) / 8, -1)
        y = _norm(s, p + "attn.inner_attn_ln", (scores @ v).permute(0, 2, 1, 3).reshape(b, -1, width))
        x = x + y @ s[p + "attn.proj.weight"].T + s[p + "attn.proj.bias"]
        y = _norm(s, p + "norm2", x)
        gate = y @ s[p + "mlp.w1.weight"].T + s[p + "mlp.w1.bias"]
        y = gate * torch.sigmoid(gate) * (y @ s[p + "mlp.w2.weight"].T + s[p + "mlp.w2.bias"])
        x = x + _norm(s, p + "mlp.ffn_ln", y) @ s[p + "mlp.w3.weight"].T + s[p + "mlp.w3.bias"]
        states[i + 1] = x
    vector = _norm(s, "norm", x)[:, 0] @ s["head.weight"].T + s["head.bias"]
    return states, vector / vector.norm(dim=-1, keepdim=True)
