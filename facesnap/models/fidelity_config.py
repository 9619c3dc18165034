"""The shape of an FFRNet, read off its state dict.

Where the tensors leave a choice, rules decide that hold for every public ControlNet of this layout and can be
overridden: the number of attention heads (networks with linear projections, SD 2.x and SDXL, have 64 channels per head;
the others, SD 1.x, have 8 heads everywhere), 32 groups in each group norm, and which picture the donor's hint network
was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from facesnap.errors import CheckpointError
from facesnap.models.tensors import count_indices, shape_of

Picture = Literal["landmarks", "five_points"]

HINT = "controlnet_cond_embedding"
LANDMARK_HINT = "landmark_cond_embedding"
_shape = partial(shape_of, network="FFRNet")


@dataclass(frozen=True)
class FFRNetConfig:
    """Everything that fixes the tensors and the arithmetic of one FFRNet.

    Attributes:
        channels: channels of each level, shallow to deep, for example (320, 640, 1280).
        depth: transformer blocks behind each residual block of each level; 0 is none.
        mid_depth: transformer blocks of the middle; 0: the middle is one residual block without attention.
        context_dim: width of an ID token (768 SD 1.5, 2048 SDXL).
        linear_projection: linear layers (True) or 1x1 convolutions around the transformer blocks.
        adm_dim: width of SDXL's vector ``y`` (2816), None where the network takes none.
        time_dim: width of the time embedding.
        in_channels: channels of the latent.
        hint_channels: channels of the hint network's stages, (picture, 16, 32, 96, 256) in public files.
        landmark_hint_channels: the same for the second hint network of a dual hint; None without one.
        donor_picture: what ``controlnet_cond_embedding`` looks at. A dual hint's donor network takes the
            five-point picture and its ``landmark_cond_embedding`` the 72 dots (design 2.2: E5 + Z72).
        heads: attention heads everywhere; None: ``head_dim`` channels per head.
        head_dim: channels per head; exactly one of the two is set.
        norm_groups: groups of every group norm.
    """

    channels: tuple[int, ...]
    depth: tuple[tuple[int, ...], ...]
    mid_depth: int
    context_dim: int
    linear_projection: bool
    adm_dim: int | None
    time_dim: int
    in_channels: int = 4
    hint_channels: tuple[int, ...] = (3, 16, 32, 96, 256)
    landmark_hint_channels: tuple[int, ...] | None = None
    donor_picture: Picture = "landmarks"
    heads: int | None = None
    head_dim: int | None = None
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if (self.heads is None) == (self.head_dim is None):
            raise CheckpointError(
                f"The FFRNet has heads {self.heads} and head dim {self.head_dim}.",
                expected="exactly one of the two.",
                remedy="Leave both out to use the rule of the layout, or give one.",
            )
        if any(width % self.norm_groups for width in self.channels):
            raise CheckpointError(
                f"The channels {self.channels} cannot be divided into {self.norm_groups} norm groups.",
                expected="multiples of it.",
                remedy="Choose a ControlNet of SD 1.5 or SDXL, or give its number of norm groups.",
            )
        for width in self.attention_widths():
            if width % (self.heads or self.head_dim or 1):
                raise CheckpointError(
                    f"{width} channels cannot be divided by heads {self.heads} or head dim {self.head_dim}.",
                    expected="attention widths that are multiples of it.",
                    remedy="Give the number of heads this checkpoint was trained with.",
                )

    def attention_widths(self) -> list[int]:
        """Width of each attn2 site in running order: shallow to deep, the middle last."""
        widths = [w for w, layers in zip(self.channels, self.depth, strict=True) for _ in range(sum(layers))]
        return widths + [self.channels[-1]] * self.mid_depth

    def heads_of(self, width: int) -> int:
        """Number of attention heads of a site of this width."""
        return self.heads if self.heads is not None else width // (self.head_dim or width)

    @classmethod
    def sd15(cls) -> FFRNetConfig:
        """The full network for SD 1.5 (361 M parameters)."""
        return cls(
            channels=(320, 640, 1280, 1280),
            depth=((1, 1), (1, 1), (1, 1), (0, 0)),
            mid_depth=1,
            context_dim=768,
            linear_projection=False,
            adm_dim=None,
            time_dim=1280,
            heads=8,
        )

    @classmethod
    def sdxl(cls, *, deep: int = 10) -> FFRNetConfig:
        """The network for SDXL: ``deep`` = 10 is full (1.25 B parameters), 2 is lite (0.42 B)."""
        return cls(
            channels=(320, 640, 1280),
            depth=((0, 0), (2, 2), (deep, deep)),
            mid_depth=deep,
            context_dim=2048,
            linear_projection=True,
            adm_dim=2816,
            time_dim=1280,
            head_dim=64,
        )

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        head_dim: int | None = None,
        norm_groups: int = 32,
        donor_picture: Picture | None = None,
    ) -> FFRNetConfig:
        """Read the configuration from names and shapes (diffusers' ControlNet layout).

        Args:
            state: name -> tensor; the values are not looked at.
            heads, head_dim, norm_groups, donor_picture: overrides of the rules at the top of this module.
                By rule a single hint network looks at the landmark picture.

        Raises:
            CheckpointError: a tensor needed to read the configuration is missing or has an odd rank.
        """
        levels = count_indices(state, "down_blocks.")
        depth = tuple(_level_depth(state, f"down_blocks.{i}.") for i in range(levels))
        channels = tuple(_shape(state, f"down_blocks.{i}.resnets.0.conv1.weight", 4)[0] for i in range(levels))
        mid_depth = count_indices(state, "mid_block.attentions.0.transformer_blocks.")
        site = _first_transformer(depth, mid_depth)
        linear = len(_shape(state, f"{site}.proj_in.weight", 2, 4)) == 2
        has_adm = any(name.startswith("add_embedding.") for name in state)
        dual = any(name.startswith(LANDMARK_HINT) for name in state)
        if heads is None and head_dim is None:
            heads, head_dim = (None, 64) if linear else (8, None)
        return cls(
            channels=channels,
            depth=depth,
            mid_depth=mid_depth,
            context_dim=_shape(state, f"{site}.transformer_blocks.0.attn2.to_k.weight", 2)[1],
            linear_projection=linear,
            adm_dim=_shape(state, "add_embedding.linear_1.weight", 2)[1] if has_adm else None,
            time_dim=_shape(state, "time_embedding.linear_1.weight", 2)[0],
            in_channels=_shape(state, "conv_in.weight", 4)[1],
            hint_channels=_hint_channels(state, HINT),
            landmark_hint_channels=_hint_channels(state, LANDMARK_HINT) if dual else None,
            donor_picture=donor_picture or ("five_points" if dual else "landmarks"),
            heads=heads,
            head_dim=head_dim,
            norm_groups=norm_groups,
        )


def _level_depth(state: Mapping[str, Tensor], level: str) -> tuple[int, ...]:
    """Transformer blocks behind each residual block of one level."""
    layers = count_indices(state, level + "resnets.")
    return tuple(count_indices(state, f"{level}attentions.{j}.transformer_blocks.") for j in range(layers))


def _first_transformer(depth: tuple[tuple[int, ...], ...], mid_depth: int) -> str:
    found = [f"down_blocks.{i}.attentions.{j}" for i, layers in enumerate(depth) for j, n in enumerate(layers) if n]
    if not found and not mid_depth:
        raise CheckpointError(
            "This ControlNet has no cross-attention.",
            expected="at least one attn2, where FFRNet sees the ID tokens.",
            remedy="Choose a full or lite FFRNet, or an SD 1.5 or SDXL ControlNet with attention.",
        )
    return [*found, "mid_block.attentions.0"][0]


def _hint_channels(state: Mapping[str, Tensor], network: str) -> tuple[int, ...]:
    """(picture channels, stage 0, stage 1, ...): each stage after the first halves the picture's sides."""
    stages = count_indices(state, network + ".blocks.") // 2
    first = _shape(state, f"{network}.conv_in.weight", 4)
    widths = [_shape(state, f"{network}.blocks.{2 * i + 1}.weight", 4)[0] for i in range(stages)]
    return (first[1], first[0], *widths)
