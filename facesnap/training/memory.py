"""Memory that a run needs of a card, counted before anything is loaded: `facesnap train CONFIG --plan`.

Everything is counted from the networks built on the meta device: weights, gradients, moments and averages exactly,
activations as `facesnap.training.activations` says. What is left of the card is for the framework and its fragments,
of which a gibibyte or two is usual.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from facesnap.attach.topology import read_topology
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import SettingsError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.tensors import on_meta
from facesnap.training.activations import CLIP_WIDTH, activation_bytes, base_unet
from facesnap.training.config import TrainingConfig
from facesnap.training.start import fresh_adapter

# Parameters of the frozen parts: UNet, VAE, text encoders (diffusers' own networks of these bases).
FROZEN = {"sd15": (859_520_964, 83_653_863, 123_060_480), "sdxl": (2_567_463_684, 83_653_863, 817_721_600)}
# Of the data that the plan is made for: names and licence change no size.
HEAD = dict.fromkeys(("recogniser", "recogniser_name", "encoder", "encoder_name", "licence"), "") | {
    "clip_width": CLIP_WIDTH
}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what they are for, in the stage that needs the most."""

    base: str
    frozen: int
    weights: int
    gradients: int
    moments: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """All but the framework's own."""
        return self.frozen + self.weights + self.gradients + self.moments + self.averages + self.activations

    def lines(self, card_gb: float | None = None) -> list[str]:
        """For people; with a card's size, what is left of it."""
        sizes = {name: size for name, size in vars(self).items() if name != "base"} | {"total": self.total}
        out = [f"{name}: {size / 2**30:.2f} GiB" for name, size in sizes.items()]
        if card_gb is not None:
            left = card_gb - self.total / 2**30
            out.append(f"{card_gb:g} GiB: {f'{left:.2f} GiB left' if left > 0 else 'does not fit'}")
        return out


def plan(config: TrainingConfig, base: str, side: int | None = None) -> MemoryPlan:
    """Count.

    Args:
        base: "sd15" or "sdxl". side: of the pictures in pixels; by default 512 or 1024.

    Raises:
        SettingsError: the adapter is another checkpoint's: its sizes are its own.
    """
    if config.adapter.start != "scratch":
        raise SettingsError(
            "The plan knows the sizes of fresh adapters alone.",
            expected="adapter.start scratch",
            remedy="plan with --set adapter.start=scratch; the sizes are close",
        )
    unet, adapter = networks(config, base)
    parts = parameters(adapter)
    frozen_bytes = 4 if config.precision == "no" else 2
    frozen = sum(FROZEN[base]) * frozen_bytes
    if any(stage.judges for stage in config.stages):
        frozen += FROZEN[base][1] * 4  # the float32 copy of the VAE
    trained = max(sum(parts.get(part, 0) for part in stage.lr) for stage in config.stages)
    moments = 2 if config.optimiser.kind == "adamw8bit" else 8
    total = sum(parts.values())
    averages = 4 * total if config.optimiser.ema else 0
    activations = activation_bytes(config, unet, adapter, None if side is None else side // 8)
    return MemoryPlan(base, frozen, 4 * total, 4 * trained, moments * trained, averages, activations)


def networks(config: TrainingConfig, base: str) -> tuple[Any, Adapter]:
    """The base's UNet (diffusers) and the fresh adapter, on the meta device."""
    wanted = config.adapter
    with on_meta():
        unet = base_unet(base)
        adapter = fresh_adapter(wanted, read_topology(unet), HEAD)
        if wanted.ffrnet == "none":
            return unet, adapter
        shape = FFRNetConfig.sd15() if base == "sd15" else FFRNetConfig.sdxl(deep=2 if wanted.ffrnet == "lite" else 10)
        shape = dataclasses.replace(shape, hint_channels=(3, *wanted.hint))
        ffrnet = LoraFFRNet(shape, wanted.rank) if wanted.ffrnet == "lora" else FFRNet(shape)
    return unet, dataclasses.replace(adapter, ffrnet=ffrnet)


def parameters(adapter: Adapter) -> dict[str, int]:
    """Parameters of each part that the adapter has."""
    parts = {"mixer": adapter.mixer, "projections": adapter.projections, "ffrnet": adapter.ffrnet}
    return {name: sum(p.numel() for p in net.parameters()) for name, net in parts.items() if net is not None}
