"""Aligned crops as batches for the recogniser and the image encoder, with changes that leave a person the same."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.evaluation.blocks import to_tensor
from facesnap.tiny.loop import Draws

TURN, ZOOM, SHIFT = math.radians(8), 0.08, 0.06  # deviations of the detector's points from the true ones, and more
BRIGHTNESS, CONTRAST, NOISE = 0.2, 0.25, 0.04
GREY, BLUR = 0.1, 0.2  # probabilities
SOFT, FACTOR = 0.5, 2.4  # probability and largest factor of what an autoencoder and a diffusion model lose of detail
LIGHTNESS, GAIN, GRAIN = 0.05, 0.1, 0.03  # smaller than those of `varied`: a colour must stay the colour that it is
COLOURLESS, VIVID = 0.3, 1.5  # probability, and the largest saturation
TINT, GAMMA = 0.25, 0.3  # deviations of the logarithms of each channel's gain and of the exponent


def varied(crops: np.ndarray, draws: Draws) -> Tensor:
    """Crops (B, S, S, 3) uint8 -> (B, 3, S, S) float32 in 0..1, moved, mirrored, relit, blurred and noised.

    A mirrored face counts as the same person: the heads' asymmetries are small.
    """
    values = to_tensor(crops)  # (B, 3, S, S)
    count, rng = len(values), draws.numpy
    turn, zoom = rng.normal(0, TURN, count), 1 + rng.normal(0, ZOOM, count)
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    cos, sin, shift = np.cos(turn) * zoom, np.sin(turn) * zoom, rng.normal(0, SHIFT, (2, count))
    affine = np.stack([[cos * mirror, -sin, shift[0]], [sin * mirror, cos, shift[1]]]).transpose(2, 0, 1)  # (B, 2, 3)
    grid = F.affine_grid(torch.from_numpy(affine).float(), list(values.shape), align_corners=False)
    values = F.grid_sample(values, grid, align_corners=False)

    grey = _column(rng.random(count)) < GREY
    values = torch.where(grey, values.mean(1, keepdim=True), values)
    blurred = F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    values = torch.where(_column(rng.random(count)) < BLUR, blurred, values)
    contrast, brightness = _column(rng.normal(1, CONTRAST, count)), _column(rng.normal(0, BRIGHTNESS, count))
    values = (values - 0.5) * contrast + 0.5 + brightness
    return (values + NOISE * draws.noise(values)).clamp(0, 1)


def recoloured(pictures: Tensor, draws: Draws) -> Tensor:
    """Pictures (B, 3, S, S) in 0..1 with other colours: paler or more vivid, tinted, darker or lighter in the middle.

    Skin alone distinguishes the world's people well enough to train on, so a recogniser looks at little else unless it
    cannot rely on colours; recognisers of photographs are not like that.
    """
    rng, count = draws.numpy, len(pictures)

    saturation = _column(np.where(rng.random(count) < COLOURLESS, 0.0, rng.uniform(0, VIVID, count)))
    grey = pictures.mean(1, keepdim=True)  # (B, 1, S, S)
    values = (grey + saturation * (pictures - grey)) * _column(np.exp(rng.normal(0, TINT, (count, 3))))
    return values.clamp(1e-4, 1) ** _column(np.exp(rng.normal(0, GAMMA, count)))


def degraded(pictures: Tensor, draws: Draws) -> Tensor:
    """Pictures (B, 3, S, S) in 0..1 as a generating model might give them: softened, a little relit, with grain."""
    rng, count, side = draws.numpy, len(pictures), pictures.shape[-1]
    soft = np.flatnonzero(rng.random(count) < SOFT)
    values = pictures.clone()
    small = max(int(side / rng.uniform(1.2, FACTOR)), 1)  # one factor a step: the batch is resized at once
    if len(soft):
        reduced = F.interpolate(values[soft], (small, small), mode="bilinear", antialias=True, align_corners=False)
        values[soft] = F.interpolate(reduced, (side, side), mode="bilinear", align_corners=False)

    contrast, brightness = _column(rng.normal(1, GAIN, count)), _column(rng.normal(0, LIGHTNESS, count))
    grain = _column(rng.uniform(0, GRAIN, count))
    return ((values - 0.5) * contrast + 0.5 + brightness + grain * draws.noise(values)).clamp(0, 1)


def people_and_pictures(labels: np.ndarray, batch: int, draws: Draws, each: int = 2) -> np.ndarray:
    """Rows of `batch` pictures: `each` of batch / each people, people by people.

    Args:
        labels: (N,) person of each row, sorted, so that a person's rows lie together.
    """
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    counts = np.diff(np.append(starts, len(labels)))
    enough = np.flatnonzero(counts >= each)
    wanted = min(batch // each, len(enough))
    people = draws.numpy.choice(enough, wanted, replace=False)
    return np.concatenate([starts[p] + draws.numpy.choice(counts[p], each, replace=False) for p in people])


def _column(numbers: np.ndarray) -> Tensor:
    """Numbers of each picture (B,), or of each of its channels (B, C), in the shape that multiplies (B, C, S, S)."""
    return torch.from_numpy(numbers).float().view(len(numbers), -1, 1, 1)
