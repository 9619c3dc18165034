"""The shape of an FFRNet that fits a diffusers UNet."""

from __future__ import annotations

from typing import Any

from facesnap.errors import SettingsError
from facesnap.models.fidelity_config import FFRNetConfig


def config_of(unet: Any, hint: tuple[int, ...] = (16, 32, 96, 256)) -> FFRNetConfig:
    """The full FFRNet of a diffusers UNet: its encoder's shape; hint: channels of the hint network's stages.

    Raises:
        SettingsError: the UNet's attention heads differ in width.
    """
    c = unet.config
    levels, layers = len(c.block_out_channels), c.layers_per_block
    per_level = c.transformer_layers_per_block
    deep = (per_level,) * levels if isinstance(per_level, int) else tuple(per_level)
    depth = tuple((d if "CrossAttn" in k else 0,) * layers for k, d in zip(c.down_block_types, deep, strict=True))
    heads = c.num_attention_heads or c.attention_head_dim  # diffusers' name for the number of heads
    same = isinstance(heads, int)
    widths = () if same else {width // count for width, count in zip(c.block_out_channels, heads, strict=True)}
    if len(widths) > 1:
        raise SettingsError(
            f"The UNet's attention heads are {sorted(widths)} channels wide.",
            expected="one width or one number of heads at all levels, as SD1.5 and SDXL have",
            remedy="train on another base, or set adapter.ffrnet to none",
        )
    return FFRNetConfig(
        tuple(c.block_out_channels), depth, deep[-1], c.cross_attention_dim, bool(c.use_linear_projection),
        c.projection_class_embeddings_input_dim, 4 * c.block_out_channels[0], norm_groups=c.norm_num_groups,
        in_channels=c.in_channels, hint_channels=(3, *hint),
        heads=heads if same else None, head_dim=None if same else c.block_out_channels[0] // heads[0],
    )  # fmt: skip
