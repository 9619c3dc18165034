"""The kind of a base model by its header: real UNets' names and shapes, in every way that they are saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from facesnap.checkpoints.base_models import BaseModel, read_base_model
from tests.networks import diffusers_unet, ldm_unet

WIDTHS = {"sd15": 768, "sdxl": 2048}
# Names as the files of these models have them.
TRANSFORMERS = {
    "Flux": ("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"),
    "Flux.2": ("double_blocks.0.img_attn.norm.key_norm.scale", "double_stream_modulation_img.lin.weight"),
    "Chroma": ("double_blocks.0.img_attn.norm.key_norm.scale", "distilled_guidance_layer.norms.0.scale"),
    "Stable Diffusion 3": ("joint_blocks.0.context_block.attn.qkv.weight", "context_embedder.weight"),
    "Lumina 2": ("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight"),
    "Z-Image": ("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight", "cap_pad_token"),
    "Wan": ("head.modulation", "blocks.0.cross_attn.k.weight"),
    "Qwen Image": ("txt_norm.weight", "transformer_blocks.0.attn.to_q.weight"),
    "Anima": ("blocks.0.mlp.layer1.weight", "llm_adapter.blocks.0.cross_attn.q_proj.weight"),
    "Krea 2": ("txtfusion.projector.weight", "blocks.0.attn.qkv.weight"),
    "Ernie Image": ("layers.0.mlp.linear_fc2.weight",),
    "PiD": ("lq_proj.latent_proj.0.weight",),
}


def unet(base: str, width: int, build: Callable[..., nn.Module] = ldm_unet) -> dict[str, torch.Tensor]:
    """The tensors of a tiny UNet of the real layout, with a context of this width."""
    found = build(base).state_dict()
    return {n: torch.zeros(one.shape[0], width) if n.endswith("attn2.to_k.weight") else one for n, one in found.items()}


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    # A name and a shape are all that is read: one element stands for each tensor's data.
    kept = {name: torch.zeros(one.shape, dtype=torch.float8_e4m3fn) for name, one in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(kept, path)
    else:
        torch.save({"state_dict": kept, "global_step": 7}, path)
    return path


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_unet_is_known(base: str, prefix: str, suffix: str, tmp_path: Path) -> None:
    tensors = {f"{prefix}{name}": one for name, one in unet(base, WIDTHS[base]).items()}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(4, 4, 3, 3)
    assert read_base_model(saved(tmp_path / f"a{suffix}", tensors)) == BaseModel(base)


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_a_unet_of_diffusers_is_known(base: str, tmp_path: Path) -> None:
    assert read_base_model(saved(tmp_path / "a.safetensors", unet(base, WIDTHS[base], diffusers_unet))) == BaseModel(
        base
    )


@pytest.mark.parametrize("width, name", [(1024, "Stable Diffusion 2"), (1280, "the refiner of SDXL"), (96, "")])
def test_other_contexts(width: int, name: str, tmp_path: Path) -> None:
    assert read_base_model(saved(tmp_path / "a.safetensors", unet("sdxl", width))) == BaseModel(other=name)


def test_another_latent_is_told_from_sdxl(tmp_path: Path) -> None:
    tensors = unet("sdxl", WIDTHS["sdxl"])
    tensors["out.2.weight"] = torch.zeros(32, *tensors["out.2.weight"].shape[1:])
    found = read_base_model(saved(tmp_path / "a.safetensors", tensors))
    assert found == BaseModel(other="a relative of SDXL with a latent of 32 channels")


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_transformer_has_its_own_name(name: str, prefix: str, tmp_path: Path) -> None:
    tensors = {f"{prefix}{one}": torch.zeros(2, 2) for one in TRANSFORMERS[name]}
    assert read_base_model(saved(tmp_path / "a.safetensors", tensors)) == BaseModel(other=name)


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<!doctype html><title>Not found</title>", encoding="utf-8")
    for name in ("page.safetensors", "missing.safetensors"):
        assert read_base_model(tmp_path / name) == BaseModel()
    assert (
        read_base_model(saved(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": torch.zeros(2)})) == BaseModel()
    )


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, unet("sd15", WIDTHS["sd15"]))
    assert read_base_model(path).base == "sd15"
    saved(path, unet("sdxl", WIDTHS["sdxl"]))
    assert read_base_model(path).base == "sdxl"
