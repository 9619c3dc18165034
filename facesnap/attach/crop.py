"""The `fast` setting's geometry: FFRNet looks at a square around the face instead of the whole frame.

Everything is in latent units (8 pixels). The square lies on the grid of the UNet's deepest level, so that
the residuals of every level paste back without resampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, ones

SIDE_STEP = 8
MARGIN = 0.25  # of the face's larger side, on every side of its box
SMALL_FACE = 16.0  # latents; a narrower face is enlarged before FFRNet sees it

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Crop:
    """A square of the latent, rows top..top + side and columns left..left + side, enlarged by a factor."""

    top: int
    left: int
    side: int
    enlarge: int = 1


def plan_crop(face: Box, latent: tuple[int, int]) -> Crop | None:
    """The smallest square that holds the face with its margin.

    Its side is a multiple of 8 and at most half the frame's shorter side, its corner lies on a multiple of
    8. A face narrower than 16 latents is enlarged by the smallest integer that makes it 16 wide, as far as
    the enlarged square stays within that half.

    Args:
        face: box of the face, latent units; parts outside the frame are ignored.
        latent: (height, width) of the UNet's input.

    Returns:
        None where the face does not fit into half the frame: there is nothing to leave out then, and FFRNet
        looks at the whole frame.
    """
    h, w = latent
    left, top, right, bottom = face
    bare = (max(left, 0.0), max(top, 0.0), min(right, w), min(bottom, h))
    if not (bare[0] < bare[2] and bare[1] < bare[3]):
        return None  # the face lies outside the frame
    pad = MARGIN * max(right - left, bottom - top)
    wide = (max(left - pad, 0.0), max(top - pad, 0.0), min(right + pad, w), min(bottom + pad, h))
    largest = min(h, w) // 2 // SIDE_STEP * SIDE_STEP
    sides = range(SIDE_STEP, largest + 1, SIDE_STEP)
    for box, candidates in ((wide, sides), (bare, sides[-1:])):
        for side in candidates:
            y, x = _corner(box[1], box[3], side, h), _corner(box[0], box[2], side, w)
            if y is not None and x is not None:
                enlarge = math.ceil(SMALL_FACE / (right - left))
                return Crop(y, x, side, max(1, min(enlarge, largest // side)))
    return None


def _corner(low: float, high: float, side: int, size: int) -> int | None:
    """The corner nearest to a centred one, on the grid and inside the frame, that holds low..high."""
    first = math.ceil((high - side) / SIDE_STEP)
    last = math.floor(min(low, size - side) / SIDE_STEP)
    if max(first, 0) > last:
        return None
    centred = round(((low + high - side) / 2) / SIDE_STEP)
    return SIDE_STEP * min(max(centred, first, 0), last)


def cut(x: Tensor, crop: Crop) -> Tensor:
    """The square of a latent, (B, C, h, w) -> (B, C, side * enlarge, side * enlarge).

    Enlarged with the nearest neighbour, which keeps the variance of each latent's noise; bilinear
    interpolation would cut it to 0.40 and FFRNet would see a cleaner picture than the timestep says.
    """
    part = x[..., crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    if crop.enlarge == 1:
        return part
    return part.repeat_interleave(crop.enlarge, -2).repeat_interleave(crop.enlarge, -1)


def paste(residual: Tensor, crop: Crop, latent: tuple[int, int]) -> Tensor:
    """A residual of the square -> one of the whole frame, zero outside, with a feathered edge.

    Args:
        residual: (B, C, s, s) of any level, s = side * enlarge / 2^level.
        crop: the square it was computed for. latent: (height, width) of the UNet's input.

    Returns:
        (B, C, H, W), H = latent height halved `level` times, odd sizes rounded up.
    """
    stride = crop.side * crop.enlarge // residual.shape[-1]
    h, w = (math.ceil(n / stride) for n in latent)
    top, left, side = crop.top // stride, crop.left // stride, crop.side // stride
    if crop.enlarge > 1:
        residual = F.avg_pool2d(residual, crop.enlarge)  # (B, C, side, side)
    edge = F.avg_pool2d(feather(crop, latent)[None, None], stride).to(residual)  # (1, 1, side, side)
    return F.pad(residual * edge, (left, w - left - side, top, h - top - side))


def feather(crop: Crop, latent: tuple[int, int]) -> Tensor:
    """Weights of the square, (side, side) float32: 1 inside, a linear ramp at edges inside the frame."""
    h, w = latent
    rows = _ramp(crop.side, crop.top > 0, crop.top + crop.side < h)
    columns = _ramp(crop.side, crop.left > 0, crop.left + crop.side < w)
    return rows[:, None] * columns[None]


def _ramp(side: int, at_start: bool, at_end: bool) -> Tensor:
    width = max(2, side // 8)
    weights = ones(side)
    for i in range(width):
        value = (i + 0.5) / width
        if at_start:
            weights[i] *= value
        if at_end:
            weights[side - 1 - i] *= value
    return weights
