"""Facial Attribute Mixer (FAM): one recogniser vector and CLIP image tokens -> ID tokens (paper figure 2c).

Stage 1, ID tokens query the CLIP tokens and themselves (the form of FaceID-Plus):
    T0 = LN(reshape(W2 GELU(W1 f_id)));  H = LN(W_o Perceiver(T0 ; W_c f_clip));  with shortcut H = T0 + s_struct H
Stage 2, a transformer decoder with learned queries f_l (the form of InstantID's resampler):
    f_mix = LN(W Decoder(f_l ; Z)),  Z = [W_in f_id] joined, behind tanh gates, by W_h H and W_x f_clip

Either stage may be absent; which parts exist and how large they are is read off the state dict. At its initial
gates the mixer equals the donor it contains (FaceID, FaceID-Plus, PlusV2, InstantID).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from facesnap.errors import CheckpointError, SettingsError
from facesnap.models.layers import PerceiverAttention, TokenGroup, feed_forward
from facesnap.models.tensors import count_indices, shape_of

_shape = partial(shape_of, network="mixer")
PENULTIMATE = -2  # the CLIP hidden state that every public donor was trained on
MAX_VIEWS = 8  # references with an embedding of their own; later ones share the last


@dataclass(frozen=True)
class Stage1Config:
    """Sizes of stage 1. `clip_width` 0 means no CLIP branch (plain FaceID)."""

    id_width: int
    hidden: int
    tokens: int
    context: int
    clip_width: int = 0
    depth: int = 0
    inner: int = 0
    ff: int = 0
    shortcut: bool = False


@dataclass(frozen=True)
class Stage2Config:
    """Sizes of stage 2. `groups` maps a gated group ("h", "x") to the width of its tokens."""

    id_width: int
    width: int
    queries: int
    depth: int
    inner: int
    ff: int
    context: int
    groups: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class MixerConfig:
    """Sizes of a mixer; `levels` maps a further CLIP hidden state to the rank of its map (0 = full rank)."""

    stage1: Stage1Config | None
    stage2: Stage2Config | None
    levels: tuple[tuple[int, int], ...] = ()
    dim_head: int = 64

    @property
    def context(self) -> int:
        """D, the width of the ID tokens."""
        stage = self.stage1 or self.stage2
        assert stage is not None
        return stage.context

    @property
    def id_width(self) -> int:
        """Length of the recogniser's vector."""
        stage = self.stage1 or self.stage2
        assert stage is not None
        return stage.id_width

    @property
    def clip_width(self) -> int:
        """Width of the CLIP hidden states, 0 where the mixer takes none."""
        return self.stage1.clip_width if self.stage1 else 0

    @property
    def token_counts(self) -> dict[str, int]:
        """ID tokens of one reference in each token group."""
        counts = {"id": self.stage1.tokens} if self.stage1 else {}
        return counts | ({"mix": self.stage2.queries} if self.stage2 else {})

    @property
    def clip_levels(self) -> tuple[int, ...]:
        """The CLIP hidden states that `FacialAttributeMixer.forward` needs, the penultimate first."""
        return (PENULTIMATE, *(level for level, _ in self.levels)) if self.clip_width else ()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, shortcut: bool, dim_head: int = 64) -> MixerConfig:
        """Read every size off the tensors.

        Args:
            state: tensors named as in `FacialAttributeMixer.state_dict()`.
            shortcut: FaceID-PlusV2's form of stage 1. Tensors of Plus and PlusV2 are alike, so it must be given.
            dim_head: width of one attention head; not visible in the tensors either.

        Raises:
            CheckpointError: a tensor that fixes a size is missing or has the wrong number of dimensions.
        """
        stage1 = _read_stage1(state, shortcut) if any(k.startswith("stage1.") for k in state) else None
        stage2 = _read_stage2(state) if any(k.startswith("stage2.") for k in state) else None
        if stage1 is None and stage2 is None:
            raise CheckpointError(
                "The mixer has neither stage1.* nor stage2.* tensors.",
                expected="at least one of the two stages",
                remedy="use a checkpoint that was saved by FaceSnap or converted with it",
            )
        levels = []
        for level in sorted({int(m[1]) for k in state if (m := re.match(r"levels\.(\d+)\.", k))}):
            low_rank = f"levels.{level}.proj.0.weight"
            levels.append((level, _shape(state, low_rank, 2)[0] if low_rank in state else 0))
        return cls(stage1, stage2, tuple(levels), dim_head)


def _read_stage1(state: Mapping[str, Tensor], shortcut: bool) -> Stage1Config:
    hidden, id_width = _shape(state, "stage1.proj.0.weight", 2)
    (context,) = _shape(state, "stage1.norm.weight", 1)
    tokens = _shape(state, "stage1.proj.2.weight", 2)[0] // context
    p = "stage1.perceiver_resampler."
    if not any(k.startswith(p) for k in state):
        return Stage1Config(id_width, hidden, tokens, context)
    return Stage1Config(
        id_width,
        hidden,
        tokens,
        context,
        clip_width=_shape(state, p + "proj_in.weight", 2)[1],
        depth=count_indices(state, p + "layers."),
        inner=_shape(state, p + "layers.0.0.to_q.weight", 2)[0],
        ff=_shape(state, p + "layers.0.1.1.weight", 2)[0],
        shortcut=shortcut,
    )


def _read_stage2(state: Mapping[str, Tensor]) -> Stage2Config:
    _, queries, width = _shape(state, "stage2.latents", 3)
    groups = sorted(m[1] for k in state if (m := re.fullmatch(r"stage2\.groups\.(\w+)\.weight", k)))
    return Stage2Config(
        id_width=_shape(state, "stage2.proj_in.weight", 2)[1],
        width=width,
        queries=queries,
        depth=count_indices(state, "stage2.layers."),
        inner=_shape(state, "stage2.layers.0.0.to_q.weight", 2)[0],
        ff=_shape(state, "stage2.layers.0.1.1.weight", 2)[0],
        context=_shape(state, "stage2.proj_out.weight", 2)[0],
        groups=tuple((g, _shape(state, f"stage2.groups.{g}.weight", 2)[1]) for g in groups),
    )


def _heads(inner: int, dim_head: int) -> int:
    if inner % dim_head:
        raise CheckpointError(
            f"The mixer's attention is {inner} wide, which heads of {dim_head} do not divide.",
            expected="a width that is a multiple of dim_head",
            remedy="give the checkpoint's dim_head in its metadata",
        )
    return inner // dim_head


class _Perceiver(nn.Module):
    """Stage 1's resampler: (B, T, C) ID tokens as queries, (B, P, clip_width) as context -> (B, T, C)."""

    def __init__(self, config: Stage1Config, dim_head: int) -> None:
        super().__init__()
        c = config.context
        heads = _heads(config.inner, dim_head)
        self.proj_in = nn.Linear(config.clip_width, c)
        self.layers = nn.ModuleList(
            nn.ModuleList((PerceiverAttention(c, config.inner, heads), feed_forward(c, config.ff)))
            for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(c, c)
        self.norm_out = nn.LayerNorm(c)

    def forward(self, tokens: Tensor, clip: Tensor) -> Tensor:
        x = self.proj_in(clip)
        for attention, ff in cast(Iterable[tuple[nn.Module, nn.Module]], self.layers):
            tokens = attention(x, tokens) + tokens
            tokens = ff(tokens) + tokens
        return self.norm_out(self.proj_out(tokens))


class Stage1(nn.Module):
    """(B, id_width) vectors and (B, P, clip_width) CLIP tokens -> (B, T, C) ID tokens H."""

    def __init__(self, config: Stage1Config, dim_head: int) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Sequential(
            nn.Linear(config.id_width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.tokens * config.context),
        )
        self.norm = nn.LayerNorm(config.context)
        if config.clip_width:
            self.perceiver_resampler = _Perceiver(config, dim_head)

    def forward(self, f_id: Tensor, clip: Tensor | None, s_struct: float = 1.0) -> Tensor:
        t0 = self.proj(f_id).unflatten(-1, (self.config.tokens, self.config.context))  # (B, T*C) -> (B, T, C)
        t0 = self.norm(t0)
        if not self.config.clip_width:
            return t0
        h = self.perceiver_resampler(t0, clip)
        return t0 + s_struct * h if self.config.shortcut else h


class Stage2(nn.Module):
    """Learned queries over Z -> f_mix, (B, M, context)."""

    def __init__(self, config: Stage2Config, dim_head: int) -> None:
        super().__init__()
        w = config.width
        names = tuple(name for name, _ in config.groups)
        heads = _heads(config.inner, dim_head)
        self.latents = nn.Parameter(torch.randn(1, config.queries, w) / w**0.5)
        self.proj_in = nn.Linear(config.id_width, w)
        self.layers = nn.ModuleList(
            nn.ModuleList((PerceiverAttention(w, config.inner, heads, names), feed_forward(w, config.ff)))
            for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(w, config.context)
        self.norm_out = nn.LayerNorm(config.context)
        self.groups = nn.ModuleDict({name: nn.Linear(width, w) for name, width in config.groups})
        if "h" in names:
            self.views = nn.Parameter(torch.zeros(MAX_VIEWS, dict(config.groups)["h"]))

    def forward(self, f_id: Tensor, groups: Mapping[str, TokenGroup]) -> Tensor:
        z = self.proj_in(f_id)[:, None]  # (B, 1, w)
        mapped = {name: groups[name].map(linear) for name, linear in self.groups.items() if name in groups}
        y = self.latents.expand(len(f_id), -1, -1)
        for attention, ff in cast(Iterable[tuple[nn.Module, nn.Module]], self.layers):
            y = attention(z, y, mapped) + y
            y = ff(y) + y
        return self.norm_out(self.proj_out(y))


class LevelGate(nn.Module):
    """g * W LN(h_l): one further CLIP level, zero at its initial gate. (B, P, W) -> (B, P, W)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.proj: nn.Module = nn.Linear(width, width, bias=False)
        if rank:
            self.proj = nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.gate * self.proj(self.norm(hidden))


class FacialAttributeMixer(nn.Module):
    """f_id and f_clip of one or several references -> groups of ID tokens.

    Args:
        config: sizes; see `MixerConfig.from_state_dict`.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.config = config
        if config.stage1:
            self.stage1 = Stage1(config.stage1, config.dim_head)
        if config.stage2:
            self.stage2 = Stage2(config.stage2, config.dim_head)
        self.levels = nn.ModuleDict({str(level): LevelGate(config.clip_width, r) for level, r in config.levels})

    def _clip(self, hidden: Mapping[int, Tensor], refs: int) -> Tensor | None:
        """Join the CLIP levels: {level: (B, R, P, W)} -> (B * R, P, W)."""
        if not self.config.clip_width:
            return None
        for level in self.config.clip_levels:
            shape = tuple(hidden[level].shape) if level in hidden else ()
            if not shape or shape[1] != refs or shape[-1] != self.config.clip_width:
                raise SettingsError(
                    f"The mixer was given {shape or 'nothing'} as CLIP hidden state {level}.",
                    expected=f"(B, {refs}, P, {self.config.clip_width}) for the levels {self.config.clip_levels}",
                    remedy="encode the references with the encoder that the checkpoint names",
                )
        clip = hidden[PENULTIMATE].flatten(0, 1)  # (B, R, P, W) -> (B*R, P, W)
        for name, gate in self.levels.items():
            clip = clip + gate(hidden[int(name)].flatten(0, 1))
        return clip

    def forward(
        self,
        f_id: Tensor,
        hidden: Mapping[int, Tensor] | None = None,
        *,
        f_fused: Tensor | None = None,
        weights: Tensor | None = None,
        s_struct: float = 1.0,
    ) -> dict[str, TokenGroup]:
        """Mix.

        Args:
            f_id: (B, R, id_width), the recogniser's vector of each of R references, normed or raw as the
                checkpoint's `id_vector` says.
            hidden: {level: (B, R, P, clip_width)} CLIP hidden states of the same references.
            f_fused: (B, id_width), the fused vector for stage 2; the weighted mean of f_id where None.
            weights: (B, R) quality of the references, positive; all equal where None.
            s_struct: 0..inf, weight of the CLIP branch in a mixer with shortcut (the structure slider of stage 1).

        Returns:
            "id": the tokens H of all references, (B, R * T, D) with their log-quality; "mix": f_mix, (B, M, D).
            A stage that is absent has no entry.

        Raises:
            SettingsError: shapes that do not fit, or an s_struct other than 1 for a mixer without shortcut.
        """
        batch, refs, width = f_id.shape
        if width != self.config.id_width:
            raise SettingsError(
                f"The recogniser's vector has {width} values.",
                expected=f"{self.config.id_width} values",
                remedy="use the recogniser that the checkpoint names",
            )
        if s_struct != 1.0 and not (self.config.stage1 and self.config.stage1.shortcut):
            raise SettingsError(
                f"s_struct {s_struct} was asked of a mixer that has no shortcut.",
                expected="s_struct 1, or a checkpoint of the PlusV2 form",
                remedy="leave s_struct at 1 for this checkpoint",
            )
        if weights is None:
            weights = f_id.new_ones(batch, refs)
        # A lone reference has bias 0; among several, equal ones share what one alone would get.
        bias = (weights / weights.sum(-1, keepdim=True)).log() if refs > 1 else None  # (B, R)
        clip = self._clip(hidden or {}, refs)
        out: dict[str, TokenGroup] = {}
        groups: dict[str, TokenGroup] = {}
        if self.config.stage1:
            h = self.stage1(f_id.flatten(0, 1), clip, s_struct).unflatten(0, (batch, refs))  # (B, R, T, D)
            out["id"] = _join(h, bias)
            if hasattr(self, "stage2") and "h" in self.stage2.groups:
                view = torch.arange(refs, device=h.device).clamp(max=MAX_VIEWS - 1)
                groups["h"] = _join(h + self.stage2.views[view][None, :, None], bias)
        if self.config.stage2:
            if clip is not None and "x" in self.stage2.groups:
                groups["x"] = _join(clip.unflatten(0, (batch, refs)), bias)
            if f_fused is None:
                f_fused = (f_id * (weights / weights.sum(-1, keepdim=True))[..., None]).sum(1)
            out["mix"] = TokenGroup(self.stage2(f_fused, groups))
        return out


def _join(tokens: Tensor, bias: Tensor | None) -> TokenGroup:
    """Tokens of R references in one group: (B, R, T, D), (B, R) -> (B, R*T, D), (B, R*T)."""
    if bias is not None:
        bias = bias.repeat_interleave(tokens.shape[2], dim=1)
    return TokenGroup(tokens.flatten(1, 2), bias)
