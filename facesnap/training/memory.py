"""What a run needs of a card's memory, counted before anything is loaded: `facesnap train CONFIG --plan`.

Weights, gradients, moments and averages are counted exactly, from the networks built on the meta device. Activations
are not counted: what is left of the card is what they have.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from facesnap.errors import SettingsError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from facesnap.models.projections import IDProjections
from facesnap.training.config import TrainingConfig
from facesnap.training.start import HIDDEN, ID_WIDTH, STAGE2_WIDTH

CLIP_WIDTH = 1280  # ViT-H/14, the encoder of the public adapters
# Parameters of the frozen parts: UNet, VAE, text encoders (diffusers' own networks of these bases).
FROZEN = {"sd15": (859_520_964, 83_653_863, 123_060_480), "sdxl": (2_567_463_684, 83_653_863, 817_721_600)}
WIDTHS = {
    "sd15": {320: 5, 640: 5, 1280: 6},  # sites of each width
    "sdxl": {640: 10, 1280: 60},
}
CONTEXT = {"sd15": 768, "sdxl": 2048}


@dataclass(frozen=True)
class Plan:
    """Bytes by what they are for, in the stage that needs the most."""

    base: str
    frozen: int
    weights: int
    gradients: int
    moments: int
    averages: int

    @property
    def total(self) -> int:
        """All but activations and the framework's own."""
        return self.frozen + self.weights + self.gradients + self.moments + self.averages

    def lines(self, card_gb: float | None = None) -> list[str]:
        """For people; with a card's size, what is left of it for activations."""
        names = ("frozen", "weights", "gradients", "moments", "averages", "total")
        out = [f"{name}: {getattr(self, name) / 2**30:.2f} GiB" for name in names]
        if card_gb is not None:
            left = card_gb - self.total / 2**30
            verdict = f"{left:.2f} GiB left for activations" if left > 0 else "does not fit"
            out.append(f"{card_gb:g} GiB: {verdict}")
        return out


def plan(config: TrainingConfig, base: str) -> Plan:
    """Count.

    Args:
        base: "sd15" or "sdxl".

    Raises:
        SettingsError: the adapter is another checkpoint's: its sizes are its own.
    """
    if config.adapter.start != "scratch":
        raise SettingsError(
            "The plan knows the sizes of fresh adapters alone.",
            expected="adapter.start scratch",
            remedy="plan with --set adapter.start=scratch; the sizes are close",
        )
    parts = {name: sum(p.numel() for p in net.parameters()) for name, net in networks(config, base).items()}
    frozen_bytes = 4 if config.precision == "no" else 2
    frozen = sum(FROZEN[base]) * frozen_bytes
    if any(stage.losses.identity for stage in config.stages):
        frozen += FROZEN[base][1] * 4  # the float32 copy of the VAE
    trained = max(sum(parts.get(part, 0) for part in stage.lr) for stage in config.stages)
    moments = 2 if config.optimiser.kind == "adamw8bit" else 8
    total = sum(parts.values())
    return Plan(base, frozen, 4 * total, 4 * trained, moments * trained, 4 * total if config.optimiser.ema else 0)


def networks(config: TrainingConfig, base: str) -> dict[str, nn.Module]:
    """The fresh adapter's parts, on the meta device."""
    wanted, context = config.adapter, CONTEXT[base]
    stage1 = Stage1Config(
        ID_WIDTH, HIDDEN, wanted.tokens, context, CLIP_WIDTH, wanted.depth, context, 4 * context, True
    )
    width = wanted.width or STAGE2_WIDTH[base]
    groups = (("h", context), ("x", CLIP_WIDTH))
    stage2 = Stage2Config(ID_WIDTH, width, wanted.queries, wanted.depth, width, 4 * width, context, groups)
    levels = tuple((level, 64) for level in wanted.levels)
    sites = {f"input.{i}.{w}.0": w for w, count in WIDTHS[base].items() for i in range(count)}
    with torch.device("meta"):
        out: dict[str, nn.Module] = {
            "mixer": FacialAttributeMixer(MixerConfig(stage1, stage2, levels, wanted.dim_head)),
            "projections": IDProjections(sites, {"id": False, "mix": True}, context),
        }
        if wanted.ffrnet != "none":
            deep = 2 if wanted.ffrnet == "lite" else 10
            shape = FFRNetConfig.sd15() if base == "sd15" else FFRNetConfig.sdxl(deep=deep)
            shape = dataclasses.replace(shape, hint_channels=(3, *wanted.hint))
            out["ffrnet"] = LoraFFRNet(shape, wanted.rank) if wanted.ffrnet == "lora" else FFRNet(shape)
    return out
