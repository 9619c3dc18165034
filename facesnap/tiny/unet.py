"""The diffusion model: a UNet of SD1.5's topology in miniature, trained together with its text encoder.

The same blocks, the same 16 cross-attention sites, 6.8 M parameters: with all else that the demo needs, 30 MB in half
precision. It predicts v (Salimans and Ho, arXiv 2202.00512) on SD1.5's noise schedule, and every timestep counts alike:
min-SNR weights leave little to the noisy half, where a face of so few latent cells gets its shape. Errors in the face
count more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facesnap.tiny import autoencoder, text
from facesnap.tiny.loop import Draws, Losses
from facesnap.training.losses import box_mask

CHANNELS = (64, 64, 96, 96)
HEADS = (2, 2, 3, 3)  # of each level: 32 channels each, as an FFRNet has one width for all
FACE_WEIGHT = 3.0  # more, of an error inside the face's box: a seventh of the picture, and what the rest is for
Moments = tuple[np.ndarray, np.ndarray]
UNCONDITIONAL = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance


def make_unet(latent_side: int) -> Any:
    """An untrained UNet for the autoencoder's latents; their side in the training's pictures is `latent_side`."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=latent_side, in_channels=autoencoder.CHANNELS, out_channels=autoencoder.CHANNELS,
        block_out_channels=CHANNELS, attention_head_dim=HEADS, layers_per_block=2,
        cross_attention_dim=text.WIDTH, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip


def make_scheduler() -> Any:
    """SD1.5's noise schedule, for a model that predicts v."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1,
        set_alpha_to_one=False, prediction_type="v_prediction",
    )  # fmt: skip


class Denoiser(nn.Module):
    """UNet and text encoder as one network."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Noisy latents (B, C, H, W), timesteps (B,) and token ids (B, 48) -> the prediction (B, C, H, W)."""
        context = self.text_encoder(tokens)[0]  # (B, 48, width)
        return self.unet(noisy, timesteps, context).sample


class DenoiserLoss:
    """The loss of one step.

    Args:
        moments: mean and deviation, (N, C, H, W) each, of the pictures' scaled latents. tokens: (N, 48) of captions.
        empty: (48,) of "". boxes: (N, 4) of the faces, fractions of the picture.
    """

    def __init__(
        self, model: Denoiser, moments: Moments, tokens: Tensor, empty: Tensor, boxes: Tensor, batch: int
    ) -> None:
        self.model, self.moments, self.tokens, self.empty, self.batch = model, moments, tokens, empty, batch
        self.boxes = boxes
        self.scheduler = make_scheduler()

    def __call__(self, step: int, draws: Draws) -> Losses:
        rows = draws.rows(len(self.tokens), self.batch)
        mean, std = (torch.from_numpy(a[rows].astype(np.float32)) for a in self.moments)
        clean = mean + std * draws.noise(mean)
        noise = draws.noise(clean)
        timesteps = torch.randint(0, len(self.scheduler), (self.batch,), generator=draws.torch)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        wanted = self.scheduler.get_velocity(clean, noise, timesteps)
        dropped = torch.from_numpy(draws.numpy.random(self.batch) < UNCONDITIONAL)
        tokens = torch.where(dropped[:, None], self.empty, self.tokens[torch.from_numpy(rows)])
        error = (self.model(noisy, timesteps, tokens).float() - wanted).square()  # (B, C, H, W)
        where = 1 + FACE_WEIGHT * box_mask(self.boxes[rows], (error.shape[-2], error.shape[-1]))  # (B, 1, H, W)
        weighted = (error * where).mean((1, 2, 3)) / where.mean((1, 2, 3))  # (B,)
        return {"loss": weighted.mean(), "error": error.detach().mean()}


def save_pipeline(model: Denoiser, vae: Any, tokenizer: Any, folder: Path) -> None:
    """Write a StableDiffusionPipeline in diffusers' layout."""
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline(
        vae=vae, text_encoder=model.text_encoder, tokenizer=tokenizer, unet=model.unet, scheduler=make_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)


@torch.no_grad()
def prediction_error(loss: DenoiserLoss, batches: int, seed: int) -> float:
    """Mean weighted error over the same draws at every call, of a network in evaluation mode."""
    return float(np.mean([loss(i, Draws(seed, "prediction error", i))["loss"].item() for i in range(batches)]))


def samples(folder: Path, captions: list[str], size: int) -> np.ndarray:
    """One picture (N, size, size, 3) uint8 of each caption, by the saved pipeline through the project's own host."""
    from facesnap.hosts.diffusers import DiffusersHost, Sampling

    host = DiffusersHost.load(folder, device="cpu")
    made = [
        host.sample(Sampling(caption, steps=20, cfg=3.0, seed=i, size=(size, size)), [])[0]
        for i, caption in enumerate(captions)
    ]
    return np.stack([np.asarray(picture) for picture in made])
