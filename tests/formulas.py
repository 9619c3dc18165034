"""The public families, formula by formula, from tensors alone: what the tests hold our modules against."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def _linear(s: State, name: str, x: Tensor) -> Tensor:
    return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", torch.zeros(()))


def _norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]


def _heads(x: Tensor, d: int = 64) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], -1, d).permute(0, 2, 1, 3)


def _attention(q: Tensor, k: Tensor, v: Tensor, d: int) -> Tensor:
    q, k, v = _heads(q, d), _heads(k, d), _heads(v, d)
    out = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d), -1) @ v
    return out.permute(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)


def _layer(s: State, p: str, context: Tensor, y: Tensor) -> Tensor:
    """One perceiver layer: attention to context and itself, then the feed-forward network."""
    a, b = _norm(s, p + "0.norm1", context), _norm(s, p + "0.norm2", y)
    k, v = _linear(s, p + "0.to_kv", torch.cat([a, b], 1)).chunk(2, -1)
    y = y + _linear(s, p + "0.to_out", _attention(_linear(s, p + "0.to_q", b), k, v, 64))
    return y + _linear(s, p + "1.3", F.gelu(_linear(s, p + "1.1", _norm(s, p + "1.0", y))))


def faceid(s: State, f_id: Tensor) -> Tensor:
    """(B, 512) -> (B, tokens, C); Portrait alike with 16 tokens."""
    x = _linear(s, "proj.2", F.gelu(_linear(s, "proj.0", f_id)))
    return _norm(s, "norm", x.reshape(len(x), -1, len(s["norm.weight"])))


def plus(s: State, f_id: Tensor, clip: Tensor, shortcut: bool, scale: float = 1.0) -> Tensor:
    """(B, 512), (B, P, W) -> (B, 4, C)."""
    p = "perceiver_resampler."
    t0 = y = faceid(s, f_id)
    x = _linear(s, p + "proj_in", clip)
    for i in range(4):
        y = _layer(s, f"{p}layers.{i}.", x, y)
    y = _norm(s, p + "norm_out", _linear(s, p + "proj_out", y))
    return t0 + scale * y if shortcut else y


def resampler(s: State, f_id: Tensor) -> Tensor:
    """(B, 512) -> (B, 16, C): InstantID, FaceID-Portrait unnormalised."""
    y, x = s["latents"].repeat(len(f_id), 1, 1), _linear(s, "proj_in", f_id[:, None])
    for i in range(4):
        y = _layer(s, f"layers.{i}.", x, y)
    return _norm(s, "norm_out", _linear(s, "proj_out", y))


def _map(s: State, name: str, x: Tensor) -> Tensor:
    for first, norm in (("0", "1"), ("3", "4")):
        x = _norm(s, f"{name}.{norm}", _linear(s, f"{name}.{first}", x))
        x = torch.where(x > 0, x, 0.01 * x)
    return _linear(s, f"{name}.6", x)


def pulid_v1(s: State, vector: Tensor, states: list[Tensor]) -> Tensor:
    """(B, 512 + V), five (B, P, W) -> (B, 10, C)."""
    width = s["mapping_0.6.weight"].shape[0]
    tokens = [_map(s, "body", vector).reshape(len(vector), -1, width)]
    for i, h in enumerate(states):
        tokens.append(_map(s, f"mapping_{i}", h[:, :1]) + _map(s, f"mapping_patch_{i}", h[:, 1:]).mean(1, True))
    return torch.cat(tokens, 1)


def pulid_v11(s: State, vectors: Tensor, states: list[Tensor]) -> Tensor:
    """(B, R, 512 + V), five (B, R * P, W) -> (B, queries, C)."""
    queries, width = s["latents"].shape[1:]
    x = _map(s, "id_embedding_mapping", vectors).reshape(len(vectors), -1, width)
    y = torch.cat([s["latents"].repeat(len(vectors), 1, 1), x], 1)
    for i, h in enumerate(states):
        context = torch.cat([x, _map(s, f"mapping_{i}", h)], 1)
        for j in (2 * i, 2 * i + 1):
            y = _layer(s, f"layers.{j}.", context, y)
    return y[:, :queries] @ s["proj_out"]


class ReferenceProcessor:
    """An attention of diffusers' UNet with ID tokens and LoRA, as the families' papers and files define them.

    Args:
        s: the processors' tensors. n: its number. tokens: (B, T, C) for every row, or None.
    """

    def __init__(self, s: State, n: int, tokens: Tensor | None, scale: float, lora: float = 0.0,
                 rule: str = "add", zeros: int = 0) -> None:  # fmt: skip
        self.s, self.n, self.tokens, self.scale, self.lora, self.rule, self.zeros = (
            s,
            n,
            tokens,
            scale,
            lora,
            rule,
            zeros,
        )

    def _with_lora(self, layer: torch.nn.Module, name: str, x: Tensor) -> Tensor:
        down = self.s.get(f"{self.n}.to_{name}_lora.down.weight")
        if down is None or self.lora == 0.0:
            return layer(x)
        return layer(x) + self.lora * (x @ down.T @ self.s[f"{self.n}.to_{name}_lora.up.weight"].T)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        x = hidden_states
        c = x if encoder_hidden_states is None else encoder_hidden_states
        d = attn.to_q.out_features // attn.heads
        q = self._with_lora(attn.to_q, "q", x)
        h = _attention(q, self._with_lora(attn.to_k, "k", c), self._with_lora(attn.to_v, "v", c), d)
        if encoder_hidden_states is not None and self.tokens is not None:
            h = h + self.scale * self._id(q, h, d)
        return self._with_lora(attn.to_out[0], "out", h)

    def _id(self, q: Tensor, h: Tensor, d: int) -> Tensor:
        key, value = next((k, v) for k, v in (("to_k_ip", "to_v_ip"), ("id_to_k", "id_to_v"))
                          if f"{self.n}.{k}.weight" in self.s)  # fmt: skip
        tokens = F.pad(self.tokens, (0, 0, 0, self.zeros))
        k, v = tokens @ self.s[f"{self.n}.{key}.weight"].T, tokens @ self.s[f"{self.n}.{value}.weight"].T
        o = _attention(q, k, v, d)
        if self.rule == "add":
            return o
        along = h * (h * o).sum(1, keepdim=True) / (h * h).sum(1, keepdim=True)
        if self.rule == "ortho":
            return o - along
        m = torch.softmax(_heads(q, d) @ _heads(k, d).transpose(-1, -2), -1).mean(1)[..., :5].sum(-1, keepdim=True)
        return o + (m - 1) * along


def set_reference(unet, s: State, tokens: Tensor, scale: float, **options) -> None:
    """Give a diffusers UNet the reference processors, numbered in its own order."""
    names = list(unet.attn_processors)
    unet.set_attn_processor({name: ReferenceProcessor(s, n, tokens, scale, **options) for n, name in enumerate(names)})
