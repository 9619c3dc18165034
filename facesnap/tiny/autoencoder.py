"""The autoencoder: 16 latent channels at an eighth of the size, with a loss that looks at the face's features.

Hair, clothes and backgrounds are named by their colours, and a latent of few channels gives colour up first: without
a term of its own, yellow came back orange and green black.

The layout is diffusers' AutoencoderKL without attention. At this size the eyes are a few pixels wide: with the four
channels of Stable Diffusion an eighth of the size blurs exactly what distinguishes people, and a quarter of the size,
which does not, makes a picture cost the UNet three times as much. The inner level is grown last: see `grow`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.landmarks.scheme import PARTS
from facesnap.tiny.data import Portraits
from facesnap.tiny.loop import Draws, Losses

FACTOR, CHANNELS = 8, 16  # px of the picture for one cell of the latent, and the cell's channels
OUTER_FACTOR, OUTER_CHANNELS = 4, 4  # of the autoencoder that the outer levels learn in; see `grow`
WIDTHS = (32, 64, 64, 64)  # of the levels, the last one is the inner one
CROP = 64  # px; of the parts of pictures that steps look at
FEATURE_WEIGHT, FACE_WEIGHT = 4.0, 1.0
FEATURE_RADIUS = 2.5  # px, of the weight around each point of brows, nose, eyes and mouth
COLOUR_WEIGHT = 2.0
KL_WEIGHT = 1e-6
BATCH = 16


def make(levels: int = len(WIDTHS), channels: int = CHANNELS) -> Any:
    """An untrained autoencoder: 1.2 M parameters, or the 0.9 M of one with the outer levels alone."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=WIDTHS[:levels], down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=channels, norm_num_groups=16,
        layers_per_block=1, sample_size=128, mid_block_add_attention=False,
    )  # fmt: skip


def make_outer() -> Any:
    """The untrained autoencoder that the outer levels learn in."""
    return make(len(WIDTHS) - 1, OUTER_CHANNELS)


def pixels(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(values: Tensor) -> np.ndarray:
    """(B, 3, H, W) in -1..1 -> (B, H, W, 3) uint8."""
    scaled = (values.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def importance(points: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Weight of an error at each pixel: 1, more in the face, most at brows, nose, eyes and mouth.

    Args:
        points: (B, 72, 2) px. boxes: (B, 4) px. side: of the pictures.

    Returns:
        (B, 1, side, side).
    """
    grid = torch.arange(side, dtype=torch.float32) + 0.5
    inner = points[:, PARTS["contour"].stop :]  # (B, P, 2); the contour comes first
    x = torch.exp(-((grid - inner[..., :1]) ** 2) / (2 * FEATURE_RADIUS**2))  # (B, P, side)
    y = torch.exp(-((grid - inner[..., 1:]) ** 2) / (2 * FEATURE_RADIUS**2))
    near = (y[..., :, None] * x[..., None, :]).amax(1)  # (B, side, side)
    left, top, right, bottom = (boxes[:, i, None] for i in range(4))  # (B, 1)
    across = ((grid >= left) & (grid < right)).float()
    down = ((grid >= top) & (grid < bottom)).float()
    face = down[:, :, None] * across[:, None, :]
    return (1 + FACE_WEIGHT * face + FEATURE_WEIGHT * near)[:, None]


def reconstruction_loss(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 + L2 + L1 of the gradients, of pictures (B, 3, H, W) in -1..1 and weights (B, 1, H, W)."""
    error = made.float() - wanted
    across, down = error[..., :, 1:] - error[..., :, :-1], error[..., 1:, :] - error[..., :-1, :]
    plain = (weight * (error.abs() + error**2)).sum()
    edges = (weight[..., :, 1:] * across.abs()).sum() + (weight[..., 1:, :] * down.abs()).sum()
    return (plain + edges) / (weight.sum() * made.shape[1])


def colour_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 of the error of pictures (B, 3, H, W) without its lightness, as the mean of each latent cell's pixels; ()."""
    error = made.float() - wanted
    return F.avg_pool2d(error - error.mean(1, keepdim=True), FACTOR).abs().mean()


class AutoencoderLoss:
    """The loss of one step.

    Args:
        crops: first steps, which see parts of pictures; the others see whole ones, whose norms differ a little.
    """

    def __init__(self, model: Any, portraits: Portraits, batch: int, crops: int) -> None:
        self.model, self.portraits, self.batch, self.crops = model, portraits, batch, crops

    def __call__(self, step: int, draws: Draws) -> Losses:
        rows = draws.rows(len(self.portraits), self.batch)
        wanted = pixels(self.portraits.images[rows])
        side = wanted.shape[-1]
        points, boxes = (torch.from_numpy(a[rows]) for a in (self.portraits.points, self.portraits.boxes))
        weight = importance(points, boxes, side)
        if step < self.crops:
            left, top = (FACTOR * int(i) for i in draws.numpy.integers(0, (side - CROP) // FACTOR + 1, 2))
            window = (..., slice(top, top + CROP), slice(left, left + CROP))
            wanted, weight = wanted[window], weight[window]
        posterior = self.model.encode(wanted).latent_dist
        made = self.model.decode(posterior.mean + posterior.std * draws.noise(posterior.mean)).sample
        kl = posterior.kl().float().mean()
        rebuilt, colour = reconstruction_loss(made, wanted, weight), colour_loss(made, wanted)
        loss = rebuilt + COLOUR_WEIGHT * colour + KL_WEIGHT * kl
        return {"loss": loss, "reconstruction": rebuilt.detach(), "colour": colour.detach(), "kl": kl.detach()}


@torch.no_grad()
def latents(model: Any, images: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (mean, deviation) (B, C, S / 8, S / 8) of pictures (N, S, S, 3) uint8, not scaled."""
    model.eval()
    for start in range(0, len(images), BATCH):
        posterior = model.encode(pixels(images[start : start + BATCH])).latent_dist
        yield posterior.mean, posterior.std


@torch.no_grad()
def reconstructions(model: Any, images: np.ndarray) -> np.ndarray:
    """Pictures (N, S, S, 3) uint8 through the latent's mean and back."""
    return np.concatenate([to_images(model.decode(mean).sample) for mean, _ in latents(model, images)])


def psnr(made: np.ndarray, wanted: np.ndarray, boxes: np.ndarray | None = None) -> float:
    """Mean peak signal to noise ratio in dB over pictures (N, S, S, 3) uint8, inside (N, 4) boxes where given."""
    values = []
    for i in range(len(made)):
        window: Any = ()
        if boxes is not None:
            left, top, right, bottom = np.clip(np.round(boxes[i]).astype(int), 0, made.shape[1])
            window = (slice(top, bottom), slice(left, right))
        error = made[i][window].astype(np.float64) - wanted[i][window]
        values.append(10 * np.log10(255**2 / max(np.mean(error**2), 1e-4)))
    return float(np.mean(values))
