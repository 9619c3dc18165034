"""The landmark judge: 72 points of the face in a picture, learned on renders of the training people alone.

A detector of photos errs on the world's turned heads by more than what is to be measured, so the world has a judge of
its own, whose error on true pictures of held-out people is known and stands beside every measurement.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.evaluation.blocks import Block, stem, to_tensor
from facesnap.landmarks.scheme import OUTER_EYE_CORNERS, POINT_COUNT
from facesnap.training.network_files import SmallNetwork

SIDE = 96  # px of the crop that the network sees
MARGIN = 1.15  # side of the crop's region, in sides of the face's box
WIDTHS = (24, 48, 96, 96)  # at a half, a quarter, an eighth and a sixteenth of the crop's side
BANDS = (12.0, 25.0)  # degrees of yaw, the bounds of the bands that errors are reported for
BATCH = 64


class LandmarkJudge(SmallNetwork):
    """Crops (B, 3, 96, 96) RGB in 0..1 -> points (B, 72, 2) in fractions of the crop.

    One map a point at a quarter of the crop's side, made from coarse and fine features; a point is the map's centre of
    mass after softmax, so that it is found between the map's cells.
    """

    stage = "landmarks"

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem, self.quarter, self.eighth, self.sixteenth = stem(a), Block(a, b, 2), Block(b, c, 2), Block(c, d, 2)
        self.join_eighth, self.join_quarter = nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1)
        self.up_eighth, self.up_quarter = Block(c, c), Block(b, b)
        self.maps = nn.Conv2d(b, POINT_COUNT, 1)

    def forward(self, crops: Tensor) -> Tensor:
        quarter = self.quarter(self.stem(crops * 2 - 1))  # (B, 48, 24, 24)
        eighth = self.eighth(quarter)  # (B, 96, 12, 12)
        deep = self.sixteenth(eighth)  # (B, 96, 6, 6)
        eighth = self.up_eighth(eighth + F.interpolate(self.join_eighth(deep), scale_factor=2.0))
        quarter = self.up_quarter(quarter + F.interpolate(self.join_quarter(eighth), scale_factor=2.0))
        maps = self.maps(quarter)  # (B, 72, 24, 24)
        side = maps.shape[-1]
        mass = maps.flatten(2).float().softmax(-1).unflatten(2, (side, side))
        # The maps reach one cell beyond the crop on each side: a centre of mass never arrives at the outermost cell.
        place = torch.linspace(-1 / side, 1 + 1 / side, side)
        return torch.stack([mass.sum(2) @ place, mass.sum(3) @ place], dim=-1)  # (B, 72, 2)

    @torch.no_grad()
    def points(self, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8 RGB with the face's boxes (N, 4) px -> points (N, 72, 2) px of the pictures."""
        out = []
        for start in range(0, len(images), BATCH):
            affine = regions(np.asarray(boxes[start : start + BATCH], np.float64))
            found = self(cut(images[start : start + BATCH], affine)).double().numpy()
            out.append((found * 2 - 1) @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2])
        return np.concatenate(out).astype(np.float32)


def regions(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) px -> the squares around them as affine maps (N, 2, 3) from -1..1 of the crop to px."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = MARGIN * (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
    affine = np.zeros((len(boxes), 2, 3))
    affine[:, 0, 0] = affine[:, 1, 1] = half
    affine[:, :, 2] = centre
    return affine


def cut(images: np.ndarray, affine: np.ndarray, side: int = SIDE) -> Tensor:
    """The regions (N, 2, 3) of pictures (N, H, W, 3) uint8 as (N, 3, side, side) in 0..1; edges are continued."""
    values = to_tensor(images)
    size = np.array([values.shape[3], values.shape[2]], np.float64)
    relative = affine * (2 / size)[:, None]
    relative[:, :, 2] -= 1
    grid = F.affine_grid(torch.from_numpy(relative).float(), [len(values), 3, side, side], align_corners=False)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def nme(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """NME72 of points (N, 72, 2) px: mean distance over the distance of the wanted outer eye corners, (N,)."""
    corners = wanted[:, OUTER_EYE_CORNERS]
    unit = np.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1)
    return np.linalg.norm(found - wanted, axis=-1).mean(1) / unit


def by_band(errors: np.ndarray, yaw: np.ndarray) -> dict[str, Any]:
    """Mean of errors (N,) overall and by band of |yaw| (N,) in degrees."""
    bounds = (0.0, *BANDS, np.inf)
    out: dict[str, Any] = {"all": float(errors.mean()), "pictures": len(errors)}
    for low, high in pairwise(bounds):
        band = (np.abs(yaw) >= low) & (np.abs(yaw) < high)
        name = f"yaw {low:.0f}-{high:.0f}" if np.isfinite(high) else f"yaw over {low:.0f}"
        out[name] = {"nme72": float(errors[band].mean()) if band.any() else None, "pictures": int(band.sum())}
    return out
