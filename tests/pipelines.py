"""Untrained pipelines on disk, as users have them."""

from __future__ import annotations

from pathlib import Path

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from facesnap.demo import untrained
from tests.networks import CONTEXT, POOLED, diffusers_unet


def save_sdxl_pipeline(sd15_folder: Path, out: Path) -> Path:
    """An untrained SDXL pipeline on the miniature's VAE and tokenizer."""
    sd15 = StableDiffusionPipeline.from_pretrained(sd15_folder)
    words = len(sd15.tokenizer)
    encoders = []
    for kind, width in ((CLIPTextModel, CONTEXT["sdxl"] - POOLED), (CLIPTextModelWithProjection, POOLED)):
        config = CLIPTextConfig(
            vocab_size=words, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            projection_dim=POOLED, bos_token_id=words - 2, eos_token_id=words - 1,
        )  # fmt: skip
        encoders.append(untrained.draw(kind(config), len(encoders)))
    pipeline = StableDiffusionXLPipeline(
        vae=sd15.vae, text_encoder=encoders[0], text_encoder_2=encoders[1], tokenizer=sd15.tokenizer,
        tokenizer_2=sd15.tokenizer, unet=diffusers_unet("sdxl"), scheduler=sd15.scheduler,
    )  # fmt: skip
    pipeline.save_pretrained(out)
    return out
