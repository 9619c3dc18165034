"""A complete but untrained miniature: diffusers pipeline, image encoder and adapter, drawn from a seed.

It has SD1.5's topology (16 cross-attention sites) and every file of a real model, so that the demo and the tests go
through the same code as a user's own checkpoints. Its pictures show noise: nothing in it was ever trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from facesnap.attach.topology import read_topology
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.models.drawn import draw
from facesnap.models.fidelity import FFRNet
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from facesnap.models.projections import IDProjections
from facesnap.tiny.text import tokenizer_of
from facesnap.training.encoder_shape import config_of
from facesnap.training.network_files import save_tensors

CONTEXT = 64
CLIP_WIDTH = 64
CLIP_LEVEL = 1  # a shallow hidden state of the encoder beside its penultimate one


def save_pipeline(folder: Path, seed: int = 0) -> Path:
    """Write an untrained Stable Diffusion pipeline in diffusers' layout; picture sizes are multiples of 8."""
    import diffusers
    import transformers

    tokenizer = tokenizer_of([], folder, 77)
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=CONTEXT, intermediate_size=2 * CONTEXT, num_hidden_layers=2,
            num_attention_heads=4, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64, 64, 64), attention_head_dim=4, cross_attention_dim=CONTEXT,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=32, layers_per_block=1,
    )  # fmt: skip
    pipeline: Any = diffusers.StableDiffusionPipeline(
        vae=draw(vae, seed), text_encoder=draw(text_encoder, seed + 1), tokenizer=tokenizer,
        unet=draw(unet, seed + 2), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1,
        ),
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_encoder(file: Path, seed: int = 10) -> Path:
    """Write an untrained CLIP image encoder (ViT, 224 pixels, patches of 32) in transformers' layout."""
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=CLIP_WIDTH, intermediate_size=4 * CLIP_WIDTH, num_hidden_layers=3, num_attention_heads=4,
        image_size=224, patch_size=32, projection_dim=CLIP_WIDTH, hidden_act="gelu",
    )  # fmt: skip
    encoder = draw(transformers.CLIPVisionModelWithProjection(config), seed)
    save_tensors({k: v for k, v in encoder.state_dict().items() if not k.endswith("position_ids")}, file)
    return file


def make_ffrnet(unet: Any, seed: int) -> FFRNet:
    """An untrained FFRNet for a diffusers UNet of SD1.5's or SDXL's layout; its zero convolutions are drawn too."""
    net = FFRNet(config_of(unet))
    draw(net, seed)
    draw(net.controlnet_cond_embedding, seed + 1, gain=1.7)
    return net.requires_grad_(False)


def make_adapter(
    unet: Any, *, recogniser: str, encoder: str, seed: int = 20, ffrnet: bool = True, **names: Any
) -> Adapter:
    """An untrained FaceSnap adapter with every part of the mixer, its gates opened, and an FFRNet.

    Args:
        unet: the UNet that it is to fit. recogniser: sha256. encoder: fingerprint. ffrnet: False leaves FFRNet out.
        names: further AdapterSpec fields.
    """
    topology = read_topology(unet)
    context = topology.sites[0].context or CONTEXT
    stage1 = Stage1Config(512, 256, 4, context, CLIP_WIDTH, depth=2, inner=CONTEXT, ff=4 * CONTEXT, shortcut=True)
    groups = (("h", context), ("x", CLIP_WIDTH))
    stage2 = Stage2Config(512, CONTEXT, 16, depth=2, inner=CONTEXT, ff=4 * CONTEXT, context=context, groups=groups)
    mixer = draw(FacialAttributeMixer(MixerConfig(stage1, stage2, levels=((CLIP_LEVEL, 0),), dim_head=16)), seed)
    widths = {site.name: site.width or 0 for site in topology.sites}
    projections = draw(IDProjections(widths, {"id": False, "mix": True}, context), seed + 1)
    spec = AdapterSpec(
        topology.base, recogniser=recogniser, encoder=encoder, shortcut=True, dim_head=16, name="untrained", **names
    )
    return Adapter(spec, mixer, projections, ffrnet=make_ffrnet(unet, seed + 2) if ffrnet else None)


def save_adapter(file: Path, unet: nn.Module, **names: Any) -> Path:
    """Write `make_adapter(unet, **names)` in the native format."""
    native.save(make_adapter(unet, **names), file)
    return file
