"""Tiny random networks in the public layouts: diffusers' and the real ldm UNet on the same weights."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.convert_from_ckpt import convert_ldm_unet_checkpoint
from ldm.modules.attention import SpatialTransformer
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from facesnap.attach.topology import ip_adapter_order, read_topology
from facesnap.models.fidelity import FFRNet
from facesnap.models.layers import TokenGroup
from facesnap.models.projections import IDProjections

CONTEXT = {"sd15": 64, "sdxl": 128}  # multiples of 64, the width of a head in IP-Adapter
HEAD = 16  # channels of one head in the SDXL-shaped UNets
TIME_IDS = 8
POOLED = 20
MOST_DRAWN = 32 << 20  # numbers that are kept for the next network of the same shape and seed


@contextmanager
def undrawn() -> Iterator[None]:
    """Layers are made without their initial weights, which `redraw` replaces: most of what making them takes."""

    def leave(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor

    names = ("kaiming_uniform_", "uniform_")
    with mock.patch.multiple(nn.init, **dict.fromkeys(names, leave)):  # of linear layers and convolutions
        yield


_drawn: OrderedDict[tuple[Any, ...], list[Tensor]] = OrderedDict()


@torch.no_grad()
def redraw(module: nn.Module, seed: int = 0, gain: float = 1.0) -> nn.Module:
    """Draw every parameter anew, the zero-initialised ones too, so that activations keep a magnitude of about 1."""
    parameters = dict(module.named_parameters())
    key = (seed, gain, *((name, *p.shape) for name, p in parameters.items()))
    if key not in _drawn:
        _drawn[key] = list(_draw(parameters, seed, gain))
        while sum(p.numel() for kept in _drawn.values() for p in kept) > MOST_DRAWN:
            _drawn.popitem(last=False)
    for p, drawn in zip(parameters.values(), _drawn.get(key) or _draw(parameters, seed, gain), strict=True):
        p.copy_(drawn)
    return module


def _draw(parameters: dict[str, nn.Parameter], seed: int, gain: float) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for name, p in parameters.items():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim <= 1:
            is_scale = name.endswith("weight")  # of a norm
            yield 1 + 0.1 * noise if is_scale else 0.3 * noise
        else:
            yield gain * noise / math.sqrt(p[0].numel())


class SharedContextTransformer(SpatialTransformer):
    """ldm's transformer wants one context a block; sgm gives all of them the same one."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x, [context] * len(self.transformer_blocks))


class UNetModelXL(UNetModel):
    """An SDXL-shaped UNet of the real ldm blocks: a transformer depth per level and a label embedding of a vector y.

    ldm's own class has one depth for all levels and no such embedding; sgm's has both.
    """

    def __init__(self, depths: tuple[int, ...], adm: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = self.model_channels * 4
        self.label_emb = nn.Sequential(nn.Sequential(nn.Linear(adm, width), nn.SiLU(), nn.Linear(width, width)))
        for block in [*self.input_blocks, self.middle_block, *self.output_blocks]:
            for i, layer in enumerate(block):
                if isinstance(layer, SpatialTransformer):
                    level = int(math.log2(layer.in_channels // self.model_channels))
                    block[i] = SharedContextTransformer(
                        layer.in_channels, layer.in_channels // HEAD, HEAD, depth=depths[level],
                        context_dim=[kwargs["context_dim"]] * depths[level], use_linear=True, use_checkpoint=False,
                    )  # fmt: skip

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor) -> Tensor:
        from ldm.modules.diffusionmodules.util import timestep_embedding

        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels)) + self.label_emb(y)
        skips, h = [], x
        for module in self.input_blocks:
            h = module(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for module in self.output_blocks:
            h = module(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h)


@undrawn()
def ldm_unet(base: str, channels: int = 4, seed: int = 1, width: int = 32, blocks: int = 2) -> UNetModel:
    """A tiny ldm UNet, "sd15" or "sdxl"; width: of its first level; blocks: residual blocks of a level."""
    common = {
        "image_size": 16, "in_channels": channels, "out_channels": 4, "model_channels": width, "num_res_blocks": blocks,
        "use_spatial_transformer": True, "context_dim": CONTEXT[base], "legacy": False, "use_checkpoint": False,
    }  # fmt: skip
    if base == "sd15":
        unet = UNetModel(channel_mult=(1, 2, 2, 2), attention_resolutions=[1, 2, 4], num_heads=8, **common)
    else:
        unet = UNetModelXL(
            depths=(0, 2, 3), adm=POOLED + 6 * TIME_IDS, channel_mult=(1, 2, 4), attention_resolutions=[2, 4],
            num_head_channels=HEAD, use_linear_in_transformer=True, **common,
        )  # fmt: skip
    return redraw(unet, seed).eval()  # type: ignore[return-value]


@undrawn()
def diffusers_unet(
    base: str, channels: int = 4, like: UNetModel | None = None, seed: int = 1, blocks: int = 2
) -> UNet2DConditionModel:
    """diffusers' UNet of the same shape; with the weights of an ldm UNet if given."""
    common = {
        "sample_size": 16, "in_channels": channels, "out_channels": 4, "cross_attention_dim": CONTEXT[base],
        "layers_per_block": blocks if like is None else like.num_res_blocks[0], "norm_num_groups": 32,
    }  # fmt: skip
    if base == "sd15":
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 64, 64), attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, **common,
        )  # fmt: skip
    else:
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 128), attention_head_dim=(2, 4, 8), transformer_layers_per_block=(1, 2, 3),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=TIME_IDS,
            projection_class_embeddings_input_dim=POOLED + 6 * TIME_IDS, **common,
        )  # fmt: skip
    if like is not None:
        state = {f"model.diffusion_model.{k}": v for k, v in like.state_dict().items()}
        unet.load_state_dict(convert_ldm_unet_checkpoint(state, unet.config))
    else:
        redraw(unet, seed)
    return unet.eval()


@dataclass(frozen=True)
class Batch:
    """The inputs of one UNet call, in both calling conventions."""

    x: Tensor
    t: Tensor
    context: Tensor
    text_embeds: Tensor
    time_ids: Tensor

    @classmethod
    def draw(
        cls, base: str, rows: int = 2, size: tuple[int, int] = (16, 16), channels: int = 4, seed: int = 5
    ) -> Batch:
        g = torch.Generator().manual_seed(seed)
        return cls(
            torch.randn(rows, channels, *size, generator=g),
            torch.full((rows,), 421),
            torch.randn(rows, 7, CONTEXT[base], generator=g),
            torch.randn(rows, POOLED, generator=g),
            torch.randint(0, 1024, (rows, 6), generator=g).float(),
        )

    def to(self, dtype: torch.dtype) -> Batch:
        return Batch(self.x.to(dtype), self.t, self.context.to(dtype), self.text_embeds.to(dtype), self.time_ids)

    def rows(self, index: slice | list[int]) -> Batch:
        return Batch(*(getattr(self, f)[index] for f in ("x", "t", "context", "text_embeds", "time_ids")))


@torch.no_grad()
def run(unet: nn.Module, batch: Batch, **extra: Any) -> Tensor:
    """One UNet call in the convention of its tree -> (B, 4, h, w)."""
    if isinstance(unet, UNet2DConditionModel):
        added = {"text_embeds": batch.text_embeds, "time_ids": batch.time_ids}
        return unet(batch.x, batch.t, batch.context, added_cond_kwargs=added, **extra).sample
    if isinstance(unet, UNetModelXL):
        return unet(batch.x, timesteps=batch.t, context=batch.context, y=y_vector(batch))
    return unet(batch.x, batch.t, context=batch.context)


def y_vector(batch: Batch) -> Tensor:
    """SDXL's vector y: pooled text and sinusoidal size ids, as sgm joins them."""
    from ldm.modules.diffusionmodules.util import timestep_embedding

    ids = timestep_embedding(batch.time_ids.flatten(), TIME_IDS).reshape(len(batch.x), -1)  # (B*6, e) -> (B, 6*e)
    return torch.cat((batch.text_embeds, ids.to(batch.text_embeds.dtype)), dim=-1)


@undrawn()
def projections_for(
    unet: nn.Module, context: int, groups: dict[str, bool] | None = None, seed: int = 9
) -> IDProjections:
    """Random ID projections that fit a UNet."""
    sites = {site.name: site.width for site in read_topology(unet).sites}
    return redraw(IDProjections(sites, groups or {"id": False}, context), seed).eval()  # type: ignore


def ip_adapter_state(projections: IDProjections) -> dict[str, Tensor]:
    """The `ip_adapter` part of a public file (N.to_k_ip.weight, odd N) from our projections' "id" group."""
    out = {}
    for i, site in enumerate(ip_adapter_order(tuple(projections.widths))):
        group = projections.sites[site.replace(".", "_")]["id"]
        out[f"{2 * i + 1}.to_k_ip.weight"] = group.to_k.weight.data.clone()
        out[f"{2 * i + 1}.to_v_ip.weight"] = group.to_v.weight.data.clone()
    return out


def token_groups(context: int, tokens: int = 4, people: int = 1, seed: int = 3) -> dict[str, TokenGroup]:
    """Random ID tokens of magnitude 1."""
    g = torch.Generator().manual_seed(seed)
    return {"id": TokenGroup(torch.randn(people, tokens, context, generator=g))}


@undrawn()
def ffrnet_for(unet: UNet2DConditionModel, seed: int = 7, **overrides: Any) -> FFRNet:
    """An FFRNet of a UNet's shape with every parameter drawn, the zero convolutions too."""
    donor = ControlNetModel.from_unet(unet)
    redraw(donor, seed)
    redraw(donor.controlnet_cond_embedding, seed + 1, gain=1.7)
    heads = {"head_dim": HEAD} if unet.config.addition_embed_type == "text_time" else {}
    return FFRNet.from_state_dict(donor.state_dict(), **(heads | overrides))
