"""LoRA on a live UNet's attentions through hooks: no weight is changed, nothing has to be restored.

A forward hook on to_q, to_k, to_v and to_out[0] of every attn1 and attn2 adds strength * up(down(input)). They go on
before the ID tokens' hooks, so that the ID tokens attend with the changed query and to_out's LoRA sees their output,
as FaceID was trained.

Inside a region, what belongs to a place is weighed by the region there: queries, outputs, and self-attention's keys
and values. The keys and values of cross-attention belong to words, not to places: there the attention to the changed
words is computed beside the unchanged one, and the two are blended by the region.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from facesnap.attach.region import token_weights
from facesnap.attach.topology import Site, Topology
from facesnap.attach.window import Windowed
from facesnap.errors import CheckpointError
from facesnap.models.layers import attend
from facesnap.models.lora import LAYERS, AttentionLora, LoraLayer


@dataclass(frozen=True, eq=False)
class LoraPart(Windowed):
    """One adapter's LoRA in one generation; FaceID was trained with strength 1."""

    NAME = "LoRA "

    lora: AttentionLora


class LoraInjection:
    """Any number of LoRAs, put on one UNet.

    Args:
        topology: of the UNet. parts: one for each LoRA; those of strength 0 are left out.

    Raises:
        CheckpointError: a layer has no place in the UNet, or another size.
    """

    def __init__(self, topology: Topology, parts: Sequence[LoraPart]) -> None:
        self.parts = tuple(part for part in parts if part.strength != 0.0)
        self._places = {site.name: site for site in topology.sites}
        for part in self.parts:
            for name, layer in part.lora.layers.items():
                _check_fit(name, layer, self._module(name))
        self._latent: tuple[int, int] | None = None  # of the running call; None between calls
        self._active: tuple[bool, ...] = ()
        self._fired: set[str] = set()
        self._weights: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self._maps: dict[tuple[Any, ...], Tensor] = {}
        self._words: dict[tuple[int, str], Tensor] = {}  # changed queries, keys and values of the running attn2

    def install(self) -> Iterator[RemovableHandle]:
        """Put the hooks on, yielding each handle as soon as it is on."""
        for index, part in enumerate(self.parts):
            for name in part.lora.layers:
                yield self._module(name).register_forward_hook(self._add(index, name))
            if part.region is not None:
                crossed = {name.rsplit(".", 2)[0] for name in part.lora.layers if ".attn2." in name}
                for site in (site for name, site in self._places.items() if name in crossed):
                    yield site.to_q.register_forward_hook(self._keep(index, f"{site.name}.attn2.to_q"))
                    yield site.to_out.register_forward_pre_hook(self._blend(index, site))

    def begin(self, latent: tuple[int, int], progress: float) -> None:
        """A UNet call begins; latent: (height, width) of its input."""
        self._latent = latent
        self._active = tuple(part.active(progress) for part in self.parts)
        self._fired.clear()

    @property
    def pending(self) -> bool:
        """Whether the running call takes any LoRA."""
        return self._latent is not None and any(self._active)

    def end(self) -> set[str]:
        """Finish the call; returns the layers that should have run and did not."""
        active = (part for part, on in zip(self.parts, self._active, strict=False) if on)
        missing = {name for part in active for name in part.lora.layers} - self._fired if self.pending else set()
        self._latent = None
        self._words.clear()
        return missing

    def clear(self) -> None:
        """Forget the call and all copies of weights."""
        self._latent = None
        for kept in (self._weights, self._maps, self._words):
            kept.clear()

    def _module(self, name: str) -> nn.Module:
        """The layer of the UNet with the canonical name `input.4.1.0.attn1.to_q`."""
        site_name, attention, layer = name.rsplit(".", 2)
        site = self._places.get(site_name)
        module = None if site is None else site.module if attention == "attn2" else site.self_attention
        found = getattr(module, layer, None)
        if isinstance(found, (nn.Sequential, nn.ModuleList)):
            found = found[0]
        if not isinstance(found, nn.Module):
            raise CheckpointError(
                f"The LoRA has a layer {name}, which this UNet has not.",
                expected="a UNet with the attentions that the adapter was trained on",
                remedy="choose another base model, or a LoRA strength of 0",
            )
        return found

    def _add(self, index: int, name: str) -> Any:
        part = self.parts[index]
        words = part.region is not None and name.endswith((".attn2.to_k", ".attn2.to_v"))

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._latent is None or not self._active[index]:
                return None
            self._fired.add(name)
            x = args[0]
            down, up = self._layer(index, name, x)
            change = F.linear(F.linear(x, down), up).to(output.dtype)  # (B, N, in) -> (B, N, rank) -> (B, N, out)
            if words:  # goes into the blend alone
                self._words[index, name] = torch.add(output, change, alpha=part.strength)
                return None
            if part.region is not None:
                change = change * self._region(index, change)
            return torch.add(output, change, alpha=part.strength)

        return hook

    def _keep(self, index: int, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._latent is not None and self._active[index]:
                self._words[index, name] = output

        return hook

    def _blend(self, index: int, site: Site) -> Any:
        """h + region * (attention to the changed words - h), before to_out."""
        names = [f"{site.name}.attn2.{layer}" for layer in LAYERS[:3]]

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            q, k, v = (self._words.pop((index, name), None) for name in names)
            if q is None or k is None or v is None:
                return None
            h = args[0]
            changed = attend(q, k, v, site.heads).to(h.dtype)  # (B, N, width)
            return (h + (changed - h) * self._region(index, h), *args[1:])

        return hook

    def _layer(self, index: int, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """(down, up) on a tensor's device in its dtype, made at the first call and kept."""
        key = (index, name, like.device, like.dtype)
        if key not in self._weights:
            layer = self.parts[index].lora.layers[name]
            self._weights[key] = (layer.down.to(like.device, like.dtype), layer.up.to(like.device, like.dtype))
        return self._weights[key]

    def _region(self, index: int, like: Tensor) -> Tensor:
        """The soft map on the tokens of (B, N, C), (1, N, 1)."""
        region, latent = self.parts[index].region, self._latent
        assert region is not None and latent is not None
        key = (index, latent, like.shape[1], like.device, like.dtype)
        if key not in self._maps:
            weights = token_weights(region, latent, like.shape[1])
            self._maps[key] = weights.to(like.device, like.dtype)[None, :, None]
        return self._maps[key]


def _check_fit(name: str, layer: LoraLayer, module: nn.Module) -> None:
    """Compare sizes where the UNet's layer has them (quantised layers do not)."""
    wanted = (layer.down.shape[1], layer.up.shape[0])
    found = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if any(isinstance(f, int) and f != w for w, f in zip(wanted, found, strict=True)):
        raise CheckpointError(
            f"The LoRA's layer {name} is {wanted[0]} -> {wanted[1]}, the UNet's {found[0]} -> {found[1]}.",
            expected="the same sizes in both",
            remedy="choose a base model of the kind that the adapter was made for",
        )
