"""The diffusion model: a UNet of SD1.5's topology in miniature, trained together with its text encoder.

The same blocks, the same 16 cross-attention sites, 7.0 M parameters: with all else that the demo needs, 30 MB in half
precision. It predicts v (Salimans and Ho, arXiv 2202.00512), which stays well-conditioned where little signal is left,
under min-SNR weights (Hang et al., arXiv 2303.09556), on SD1.5's noise schedule. The steps before the rate begins to
fall see pictures of half the side, which takes a third of the time: what the words mean is learned there, faces
afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facesnap.training.tiny import text
from facesnap.training.tiny.loop import Draws, Losses

CHANNELS = (32, 64, 96, 128)
HEADS = (1, 2, 4, 4)  # of each level; more at the first one, with its 1024 places, cost a third more time on a CPU
MIN_SNR = 5.0
Moments = tuple[np.ndarray, np.ndarray]
UNCONDITIONAL = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance
MAX_PARAMETERS = 9_000_000


def make_unet(latent_side: int) -> Any:
    """An untrained UNet for latents of four channels; its side in pictures of the training is `latent_side`."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=latent_side, block_out_channels=CHANNELS, attention_head_dim=HEADS, layers_per_block=2,
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
        """Noisy latents (B, 4, H, W), timesteps (B,) and token ids (B, 48) -> the prediction (B, 4, H, W)."""
        context = self.text_encoder(tokens)[0]  # (B, 48, width)
        return self.unet(noisy, timesteps, context).sample


class DenoiserLoss:
    """The loss of one step.

    Args:
        fine: mean and deviation, (N, 4, H, W) each, of the pictures' scaled latents. tokens: (N, 48) of the captions.
        empty: (48,) of "". coarse: the same of the pictures at half their side, for the first `coarse_steps`.
    """

    def __init__(
        self, model: Denoiser, fine: Moments, tokens: Tensor, empty: Tensor, batch: int,
        coarse: Moments | None = None, coarse_steps: int = 0,
    ) -> None:  # fmt: skip
        self.model, self.fine, self.tokens, self.empty, self.batch = model, fine, tokens, empty, batch
        self.coarse, self.coarse_steps = coarse, coarse_steps
        self.scheduler = make_scheduler()
        signal = self.scheduler.alphas_cumprod
        snr = signal / (1 - signal)
        self.weight = snr.clamp(max=MIN_SNR) / (snr + 1)  # of an error in v

    def __call__(self, step: int, draws: Draws) -> Losses:
        moments = self.coarse if self.coarse is not None and step < self.coarse_steps else self.fine
        rows = np.sort(draws.numpy.choice(len(self.tokens), self.batch, replace=self.batch > len(self.tokens)))
        mean, std = (torch.from_numpy(a[rows].astype(np.float32)) for a in moments)
        clean = mean + std * draws.noise(mean)
        noise = draws.noise(clean)
        timesteps = torch.randint(0, len(self.weight), (self.batch,), generator=draws.torch)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        wanted = self.scheduler.get_velocity(clean, noise, timesteps)
        dropped = torch.from_numpy(draws.numpy.random(self.batch) < UNCONDITIONAL)
        tokens = torch.where(dropped[:, None], self.empty, self.tokens[torch.from_numpy(rows)])
        error = (self.model(noisy, timesteps, tokens).float() - wanted).square().mean((1, 2, 3))  # (B,)
        return {"loss": (self.weight[timesteps] * error).mean(), "error": error.detach().mean()}


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
