"""Which checkpoints there are, by the shapes in their headers, and untrained adapters that fit them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file

from facesnap.checkpoints import native
from facesnap.demo import untrained
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.packs import load_pack
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.training.encoder_shape import config_of
from tests.families.test_families import widths_of
from tests.public_files import public_state, write

UNET = "model.diffusion_model."
ENCODER = "untrained-encoder"
CONTEXT = {"sd15": 768, "sdxl": 2048}


@dataclass(frozen=True)
class Checkpoint:
    """One file of SD1.5's or SDXL's layout: name, widths of its levels, channels of its input."""

    name: str
    widths: tuple[int, ...]
    channels: int

    @property
    def base(self) -> str:
        return "sd15" if len(self.widths) == 4 else "sdxl"

    def unet(self) -> UNet2DConditionModel:
        """A UNet of this layout without weights."""
        more: dict[str, Any] = {"attention_head_dim": 8, "cross_attention_dim": CONTEXT["sd15"]}
        if self.base == "sdxl":
            cross = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
            more = {
                "attention_head_dim": tuple(width // 64 for width in self.widths),
                "cross_attention_dim": CONTEXT["sdxl"],
                "down_block_types": ("DownBlock2D", cross[0], cross[0]),
                "up_block_types": (cross[1], cross[1], "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
                "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            }  # fmt: skip
        with torch.device("meta"):
            return UNet2DConditionModel(block_out_channels=self.widths, **more)


@dataclass(frozen=True)
class Checkpoints:
    folder: Path
    all: tuple[Checkpoint, ...]

    @property
    def first(self) -> Checkpoint:
        return next(one for one in self.all if one.channels == 4)

    def another(self, *, alike: bool) -> Checkpoint:
        """A second one of the same layout or of another; the test is skipped where there is none."""
        for one in self.all:
            if one.name != self.first.name and one.channels == 4 and (one.widths == self.first.widths) == alike:
                return one
        pytest.skip("needs a second checkpoint of " + ("the same" if alike else "another") + " layout")

    def inpainting(self) -> Checkpoint:
        for one in self.all:
            if one.channels == 9 and one.widths == self.first.widths:
                return one
        pytest.skip("needs an inpainting checkpoint")

    def write_adapters(self, folder: Path, pack: Path) -> None:
        """An encoder, and an adapter for the first checkpoint's layout."""
        untrained.save_encoder(folder / f"{ENCODER}.safetensors")
        untrained.save_adapter(folder / "untrained.safetensors", self.first.unet(), **_names(folder, pack))

    def write_lora_ffrnet(self, folder: Path, pack: Path) -> Path:
        """An adapter whose FFRNet is a LoRA on the UNet, beside the encoder of `write_adapters`."""
        unet = self.first.unet()
        adapter = untrained.make_adapter(unet, ffrnet=False, **_names(folder, pack))
        net = LoraFFRNet(config_of(unet), 4)
        for module in net.modules():
            if any(p is not None and p.is_meta for p in module._parameters.values()):
                module.to_empty(device="cpu", recurse=False)
        file = folder / "lora-ffrnet.safetensors"
        native.save(dataclasses.replace(adapter, ffrnet=untrained.draw(net, 23)), file)
        return file

    def write_public(self, folder: Path, family: str, small: bool = True) -> Path:
        """A file of a family's public layout (FaceID: with its LoRA), random, for the first checkpoint's layout."""
        unet, base = self.first.unet(), self.first.base
        suffix = ".safetensors" if family == "pulid-v1.1" else ".bin"
        return write(public_state(family, widths_of(unet), CONTEXT[base], small=small), folder, family, base, suffix)

    def write_controlnet(self, file: Path) -> None:
        """An untrained ControlNet of the first checkpoint's widths, in ldm's layout."""
        wanted = ("time_embed.", "input_blocks.", "middle_block.")
        state = {}
        with safe_open(self.folder / self.first.name, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                name = key.removeprefix(UNET)
                if key.startswith(UNET) and name.startswith(wanted):
                    state[name] = opened.get_tensor(key)
        hint = [3, 16, 16, 32, 32, 96, 96, 256, self.first.widths[0]]
        torch.manual_seed(0)
        for n, (before, after) in enumerate(itertools.pairwise(hint)):
            _put(state, f"input_hint_block.{2 * n}", after, before, 3)
        levels = [w for w in self.first.widths for _ in range(3)]
        for n, channels in enumerate([self.first.widths[0], *levels[:-1]]):
            _put(state, f"zero_convs.{n}.0", channels, channels, 1)
        _put(state, "middle_block_out.0", levels[-1], levels[-1], 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({f"control_model.{name}": value for name, value in state.items()}, file)


def _names(folder: Path, pack: Path) -> dict[str, str]:
    """What an untrained adapter says of the pack and of the encoder in a folder."""
    encoder = ImageEncoder.load(folder / f"{ENCODER}.safetensors").fingerprint
    return {
        "recogniser": load_pack(pack).recogniser_sha256, "recogniser_name": "test_pack", "encoder": encoder,
        "encoder_name": ENCODER,
    }  # fmt: skip


def _put(state: dict[str, torch.Tensor], name: str, after: int, before: int, kernel: int) -> None:
    """A convolution's weight and bias."""
    state[f"{name}.weight"] = torch.randn(after, before, kernel, kernel) / (before * kernel * kernel) ** 0.5
    state[f"{name}.bias"] = torch.randn(after) * 0.02


@functools.lru_cache(maxsize=1)
def survey(folder: Path) -> Checkpoints:
    """All checkpoints of a folder whose layout is SD1.5's or SDXL's."""
    found = [one for file in sorted(folder.glob("*.safetensors")) if (one := _read(file)) is not None]
    assert any(one.channels == 4 for one in found), f"no SD1.5 or SDXL checkpoint in {folder}"
    return Checkpoints(folder, tuple(found))


def _read(file: Path) -> Checkpoint | None:
    with safe_open(file, framework="pt") as opened:
        keys = set(opened.keys())
        if f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight" not in keys:
            return None
        levels = (1, 4, 7, 10) if f"{UNET}input_blocks.10.0.out_layers.3.weight" in keys else (1, 4, 7)
        widths = [opened.get_slice(f"{UNET}input_blocks.{n}.0.out_layers.3.weight").get_shape()[0] for n in levels]
        channels = opened.get_slice(f"{UNET}input_blocks.0.0.weight").get_shape()[1]
    return Checkpoint(file.name, tuple(widths), channels)
