"""Files that are no adapter of a known family are named as what they are; whole parts of names say it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from facesnap.errors import CheckpointError
from facesnap.families.registry import families_of, load_adapter
from tests.public_files import draw, processor_shapes, resampler_shapes

WIDTHS = [8] * 4 + [16] * 50 + [8] * 6 + [16] * 10


def plain(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(2, 2) for name in names}


def adapter(projection: dict[str, tuple[int, ...]], context: int = 64) -> dict[str, Tensor]:
    """A whole file of IP-Adapter's layout for SDXL with this image projection."""
    part = {f"image_proj.{k}": t for k, t in draw(projection, 1).items()}
    return part | {f"ip_adapter.{k}": t for k, t in draw(processor_shapes("instantid", WIDTHS, context), 2).items()}


def clip_plus(columns: int, bias: bool = True) -> dict[str, Tensor]:
    shapes = {k: v for k, v in resampler_shapes(64, 64).items() if bias or k != "proj_in.bias"}
    return adapter(shapes | {"proj_in.weight": (64, columns)})


def linear(columns: int, name: str = "proj") -> dict[str, Tensor]:
    return adapter({f"{name}.weight": (256, columns), f"{name}.bias": (256,), "norm.weight": (64,)})


FULL_FACE = {"proj.0.weight": (1280, 1280), "proj.2.weight": (64, 1280), "proj.3.weight": (64,), "proj.3.bias": (64,)}
CASES = {
    "pulid_flux_v0.9.1": (plain("pulid_encoder.mapping_0.0.weight", "pulid_ca.0.to_q.weight"), "PuLID for FLUX"),
    "pulid_flux wrapped": (plain("model.pulid_ca.0.to_q.weight"), "PuLID for FLUX"),
    "photomaker-v1": (plain("id_encoder.fuse_module.mlp1.fc1.weight", "lora_weights.unet.x"), "PhotoMaker,"),
    "photomaker-v2": (plain("id_encoder.qformer_perceiver.token_norm.weight", "lora_weights.x"), "PhotoMaker v2"),
    "consistentid": (plain("FacialEncoder.x") | adapter(resampler_shapes(64, 64)), "ConsistentID"),
    "uniportrait": (plain("faceid_proj.x", "faceid_adapter.1.to_k_ip.weight"), "UniPortrait"),
    "uniid": (plain("adapter_branch.latents", "adapter_branch.adapter_modules.1.to_k_ip.weight"), "UniID"),
    "hyperlora": (plain("0.to_q.id_down_basis"), "HyperLoRA"),
    "infiniteyou": (draw({f"image_proj.{k}": v for k, v in resampler_shapes(64, 64).items()}, 3), "attention part"),
    "ip-adapter_sdxl_vit-h": (linear(1024), "for pictures, which looks through ViT-H,"),
    "ip-adapter_sdxl": (linear(1280), "for pictures, which looks through ViT-bigG,"),
    "ip-adapter_vit-l": (linear(768), "for pictures, which looks through ViT-L,"),
    "full-face": (adapter(FULL_FACE), "Full-Face, which looks through ViT-H,"),
    "plus_vit-h": (clip_plus(1280), "Plus for pictures, which looks through ViT-H,"),
    "plus_vit-g": (clip_plus(1664), "Plus for pictures, which looks through ViT-bigG,"),
    "plus_vit-l": (clip_plus(1024), "Plus for pictures, which looks through ViT-L,"),
    "plus_vit-h without bias": (clip_plus(1280, bias=False), "Plus for pictures, which looks through ViT-H,"),
    "plus of 768": (clip_plus(768), "an encoder 768 wide"),
    "mlp of flux": (
        adapter({"proj.0.weight": (64, 1152), "proj.2.weight": (256, 64), "norm.weight": (64,)}),
        "for pictures, which looks through an encoder 1152 wide,",
    ),
    "flux": (plain("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight"), "made for FLUX"),
    "controlnet": (plain("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"), "it is a ControlNet,"),
    "ldm controlnet": (plain("control_model.input_hint_block.0.weight"), "it is a ControlNet,"),
    "lllite": (plain("lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight"), "ControlNet-LLLite"),
    "kohya": (plain("lora_unet_down_blocks_0_x.lora_down.weight", "lora_te1_x.lora_up.weight"), "LoRA for the prompt"),
    "peft": (plain("unet.down_blocks.0.attn1.to_q.lora_A.weight"), "LoRA alone"),
    "faceid lora": (plain("0.to_q_lora.down.weight"), "LoRA alone"),
    "model": (plain("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"), "Stable Diffusion model"),
    "unet": (plain("down_blocks.0.resnets.0.norm1.weight"), "a UNet alone"),
    "vae": (plain("decoder.up_blocks.0.x", "encoder.down_blocks.0.x"), "a VAE"),
    "clip": (plain("vision_model.embeddings.class_embedding"), "an image encoder"),
    "openclip": (plain("visual.conv1.weight"), "an image encoder"),
    "embedding": (plain("emb_params"), "embedding"),
    # parts of words are no marks
    "my_id_encoder": (plain("my_id_encoder.x"), "begin with my_id_encoder"),
    "audiovisual": (plain("audiovisual.x"), "begin with audiovisual"),
    "revisual": (plain("proj_visual_model.x"), "begin with proj_visual_model"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_foreign_file_has_its_own_name(tmp_path: Path, name: str) -> None:
    tensors, kind = CASES[name]
    assert families_of(tensors) == ()
    torch.save(tensors, tmp_path / f"{name}.bin")
    with pytest.raises(CheckpointError, match=kind) as caught:
        load_adapter(tmp_path / f"{name}.bin")
    assert ("PhotoMaker" in str(caught.value)) == ("PhotoMaker" in kind)


def test_a_resampler_over_512_numbers_is_one_of_faces() -> None:
    assert families_of(adapter(resampler_shapes(64, 64))) == ("instantid", "portrait-unnorm")
