"""PuLID's ID encoders behind the mixer's interface: v1 (IDEncoder) and v1.1 (IDFormer).

Both join the recogniser's raw vector with the image tower's class vector and read the tower's hidden states at five
depths. v1 makes 5 tokens of the vectors and one of each depth; v1.1 lets 32 learned queries look at the vectors'
tokens and at the depths in turn. Tensor names are the public files'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from facesnap.errors import CheckpointError, SettingsError
from facesnap.models.layers import PerceiverAttention, TokenGroup, feed_forward
from facesnap.models.tensors import count_indices, shape_of

_shape = partial(shape_of, network="encoder of PuLID")
ID_WIDTH = 512  # of every public recogniser; what else the first layer takes is the class vector
TOWER_LEVELS = (4, 8, 12, 16, 20)  # hidden states of the image tower, counted in blocks
TOWER_TOKENS = 577  # of EVA02-CLIP-L-14-336: the class token and 24 x 24 patches


@dataclass(frozen=True)
class PulidConfig:
    """Sizes of one of PuLID's encoders.

    Attributes:
        hidden: width inside the maps. class_width: of the tower's class vector. clip_width: of its hidden states.
        width: of a token inside (v1.1; v1: the context). tokens: made of the two vectors.
        context: D, width of the ID tokens. queries, depth, inner, ff: of v1.1's perceiver; 0 in v1.
    """

    hidden: int
    class_width: int
    clip_width: int
    width: int
    tokens: int
    context: int
    queries: int = 0
    depth: int = 0
    inner: int = 0
    ff: int = 0
    dim_head: int = 64

    id_width = ID_WIDTH
    clip_levels = TOWER_LEVELS

    @property
    def token_counts(self) -> dict[str, int]:
        """ID tokens in each token group."""
        return {"id": self.queries or self.tokens + len(TOWER_LEVELS)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, dim_head: int = 64) -> PulidConfig:
        """Read every size off the tensors.

        Raises:
            CheckpointError: a tensor that fixes a size is missing, or sizes contradict each other.
        """
        former = "latents" in state
        head = "id_embedding_mapping" if former else "body"
        hidden, joined = _shape(state, f"{head}.0.weight", 2)
        clip_width = _shape(state, "mapping_0.0.weight", 2)[1]
        width = _shape(state, "mapping_0.6.weight", 2)[0]
        out = _shape(state, f"{head}.6.weight", 2)[0]
        if joined <= ID_WIDTH or out % width:
            raise CheckpointError(
                f"PuLID's {head} takes {joined} values and makes {out}.",
                expected=f"more than {ID_WIDTH} values, and tokens {width} wide",
                remedy="the file is damaged or of another kind; fetch it again",
            )
        sizes = (hidden, joined - ID_WIDTH, clip_width, width, out // width)
        if not former:
            return cls(*sizes, context=width)
        inner = _shape(state, "layers.0.0.to_q.weight", 2)[0]
        depth = count_indices(state, "layers.")
        if inner % dim_head or depth % len(TOWER_LEVELS):
            raise CheckpointError(
                f"PuLID's perceiver has {depth} layers with attention {inner} wide.",
                expected=f"a multiple of {len(TOWER_LEVELS)} layers and of {dim_head} channels",
                remedy="the file is damaged or of another kind; fetch it again",
            )
        return cls(
            *sizes,
            context=_shape(state, "proj_out", 2)[1],
            queries=_shape(state, "latents", 3)[1],
            depth=depth,
            inner=inner,
            ff=_shape(state, "layers.0.1.1.weight", 2)[0],
            dim_head=dim_head,
        )


def _map(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers with LayerNorm and LeakyReLU between: (..., inputs) -> (..., outputs)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


class PulidMixer(nn.Module):
    """f_id, the tower's class vector and five hidden states -> the token group "id".

    Args:
        config: sizes; `config.queries` distinguishes v1.1 from v1.
    """

    def __init__(self, config: PulidConfig) -> None:
        super().__init__()
        c = self.config = config
        joined = ID_WIDTH + c.class_width
        for i in range(len(TOWER_LEVELS)):
            setattr(self, f"mapping_{i}", _map(c.clip_width, c.hidden, c.width))
        if c.queries:
            self.id_embedding_mapping = _map(joined, c.hidden, c.tokens * c.width)
            self.latents = nn.Parameter(torch.randn(1, c.queries, c.width) / c.width**0.5)
            heads = c.inner // c.dim_head
            self.layers = nn.ModuleList(
                nn.ModuleList((PerceiverAttention(c.width, c.inner, heads), feed_forward(c.width, c.ff)))
                for _ in range(c.depth)
            )
            self.proj_out = nn.Parameter(torch.randn(c.width, c.context) / c.width**0.5)
        else:
            self.body = _map(joined, c.hidden, c.tokens * c.width)
            for i in range(len(TOWER_LEVELS)):
                setattr(self, f"mapping_patch_{i}", _map(c.clip_width, c.hidden, c.width))

    def forward(
        self,
        f_id: Tensor,
        hidden: Mapping[int, Tensor] | None = None,
        *,
        class_vector: Tensor | None = None,
        f_fused: Tensor | None = None,
        weights: Tensor | None = None,
        s_struct: float = 1.0,
        join: bool = False,
    ) -> dict[str, TokenGroup]:
        """Mix; several references as PuLID's own: v1 averages their tokens, v1.1 looks at all of them together.

        Args:
            f_id: (B, R, 512), raw. hidden: {level: (B, R, P, clip_width)}, the class token first, levels 4 to 20.
            class_vector: (B, R, class_width), the tower's class vector, brought to length 1.
            f_fused: not used: every reference's vector goes in. weights: (B, R), of v1's average; equal where None.
            s_struct: 1.
            join: v1 joins the first reference's tokens and those of the others' vectors, as its demo does.

        Returns:
            "id": (B, T, D).

        Raises:
            SettingsError: an input is missing or does not fit, or s_struct is not 1.
        """
        self._check(f_id, hidden or {}, class_vector, s_struct)
        assert hidden is not None and class_vector is not None
        states = [hidden[level] for level in TOWER_LEVELS]
        vectors = torch.cat((f_id, class_vector), dim=-1)  # (B, R, 512 + class width)
        if self.config.queries:
            return {"id": TokenGroup(self._query(vectors, states))}
        tokens = self._flat(vectors.flatten(0, 1), [s.flatten(0, 1) for s in states])  # (B*R, T, D)
        tokens = tokens.unflatten(0, f_id.shape[:2])  # (B, R, T, D)
        if join:
            return {"id": TokenGroup(self._joined(tokens))}
        share = f_id.new_ones(f_id.shape[:2]) if weights is None else weights
        share = (share / share.sum(-1, keepdim=True))[..., None, None]  # (B, R, 1, 1)
        return {"id": TokenGroup((tokens * share).sum(1))}

    def unconditional(self, references: int = 1) -> dict[str, TokenGroup]:
        """Unconditional tokens: zeros in the place of every input, (1, T, D).

        Args:
            references: beside tokens that were joined of so many references, as v1's demo has it.
        """
        c, like = self.config, next(self.parameters())
        hidden = like.new_zeros(1, 1, TOWER_TOKENS, c.clip_width)
        vector = like.new_zeros(1, 1, c.class_width)
        one = self(like.new_zeros(1, 1, ID_WIDTH), dict.fromkeys(TOWER_LEVELS, hidden), class_vector=vector)
        if references == 1 or c.queries:
            return one
        return {"id": TokenGroup(self._joined(one["id"].tokens[:, None].expand(-1, references, -1, -1)))}

    def _joined(self, tokens: Tensor) -> Tensor:
        """(B, R, T, D) -> (B, T + (R - 1) * tokens, D)."""
        return torch.cat((tokens[:, 0], tokens[:, 1:, : self.config.tokens].flatten(1, 2)), dim=1)

    def _flat(self, vectors: Tensor, states: list[Tensor]) -> Tensor:
        """v1: (N, V), five (N, P, W) -> (N, tokens + 5, D)."""
        tokens = [self.body(vectors).unflatten(-1, (self.config.tokens, self.config.width))]
        for i, state in enumerate(states):
            whole = getattr(self, f"mapping_{i}")(state[:, :1])  # (N, 1, D)
            patches = getattr(self, f"mapping_patch_{i}")(state[:, 1:])
            tokens.append(whole + patches.mean(1, keepdim=True))
        return torch.cat(tokens, dim=1)

    def _query(self, vectors: Tensor, states: list[Tensor]) -> Tensor:
        """v1.1: (B, R, V), five (B, R, P, W) -> (B, queries, D)."""
        tokens = self.id_embedding_mapping(vectors)
        tokens = tokens.unflatten(-1, (self.config.tokens, self.config.width)).flatten(1, 2)  # (B, R*tokens, w)
        y = torch.cat((self.latents.expand(len(vectors), -1, -1), tokens), dim=1)
        each = self.config.depth // len(TOWER_LEVELS)
        layers = list(cast(Iterable[tuple[nn.Module, nn.Module]], self.layers))
        for i, state in enumerate(states):
            context = torch.cat((tokens, getattr(self, f"mapping_{i}")(state.flatten(1, 2))), dim=1)
            for attention, ff in layers[i * each : (i + 1) * each]:
                y = attention(context, y) + y
                y = ff(y) + y
        return y[:, : self.config.queries] @ self.proj_out

    def _check(self, f_id: Tensor, hidden: Mapping[int, Tensor], class_vector: Tensor | None, s_struct: float) -> None:
        batch, refs, width = f_id.shape
        wanted = (batch, refs, self.config.class_width)
        found = None if class_vector is None else tuple(class_vector.shape)
        states = {level: tuple(hidden[level].shape) for level in TOWER_LEVELS if level in hidden}
        fit = all(s[:2] == (batch, refs) and len(s) == 4 and s[3] == self.config.clip_width for s in states.values())
        if width != ID_WIDTH or found != wanted or len(states) != len(TOWER_LEVELS) or not fit or s_struct != 1.0:
            raise SettingsError(
                f"PuLID's encoder was given f_id {tuple(f_id.shape)}, class vector {found}, hidden states {states} "
                f"and s_struct {s_struct}.",
                expected=f"(B, R, {ID_WIDTH}), (B, R, {self.config.class_width}), (B, R, P, {self.config.clip_width}) "
                f"for the levels {TOWER_LEVELS}, and s_struct 1",
                remedy="use the recogniser and the image tower that the checkpoint names",
            )
