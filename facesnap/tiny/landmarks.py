"""The landmark judge's training: crops as a detector's boxes would cut them, and the loss."""

from __future__ import annotations

import numpy as np
import torch

from facesnap.evaluation.landmark_judge import LandmarkJudge, cut, regions
from facesnap.landmarks.scheme import MIRROR, OUTER_EYE_CORNERS
from facesnap.tiny.crops import degraded
from facesnap.tiny.data import Portraits
from facesnap.tiny.loop import Draws, Losses

# The face pack's boxes against the true ones (measured on 400 pictures of training people): centre off by 0.3 +- 2 %
# of the side, side 0.956 +- 0.057. The jitter covers that twice, for boxes on generated pictures.
CENTRE, RATIO, SPREAD = 0.05, 0.96, 0.09
TURN = np.deg2rad(5)


def jittered(boxes: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Regions (N, 2, 3) of boxes (N, 4) with a detector's errors, some mirrored; which were, as (N,) bool."""
    rng, count = draws.numpy, len(boxes)
    side = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)  # (N, 1)
    moved = np.tile((boxes[:, :2] + boxes[:, 2:]) / 2, 2) + np.tile(side * rng.normal(0, CENTRE, (count, 2)), 2)
    half = side / 2 * np.clip(rng.normal(RATIO, SPREAD, (count, 1)), 0.7, 1.3)
    affine = regions(moved + half * [-1, -1, 1, 1])
    turn, mirrored = rng.normal(0, TURN, count), rng.random(count) < 0.5
    rotation = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], axis=-1).reshape(-1, 2, 2)
    rotation[:, :, 0] *= np.where(mirrored, -1, 1)[:, None]
    affine[:, :, :2] = affine[:, :, :2] @ rotation
    return affine, mirrored


class LandmarkLoss:
    """The loss of one step on `portraits`: mean distance of the points over the distance of the outer eye corners."""

    def __init__(self, model: LandmarkJudge, portraits: Portraits, batch: int) -> None:
        self.model, self.portraits, self.batch = model, portraits, batch

    def __call__(self, step: int, draws: Draws) -> Losses:
        count = len(self.portraits)
        rows = draws.rows(count, self.batch)
        affine, mirrored = jittered(self.portraits.boxes[rows].astype(np.float64), draws)
        wanted = self.portraits.points[rows].astype(np.float64)
        wanted[mirrored] = wanted[mirrored][:, MIRROR]
        there = (wanted - affine[:, None, :, 2]) @ np.linalg.inv(affine[:, :, :2]).transpose(0, 2, 1)
        target = torch.from_numpy((there + 1) / 2).float()  # (B, 72, 2) fractions of the crop
        corners = target[:, OUTER_EYE_CORNERS]
        unit = (corners[:, 0] - corners[:, 1]).norm(dim=-1)
        found = self.model(degraded(cut(self.portraits.images[rows], affine), draws))
        error = (found - target).norm(dim=-1).mean(1) / unit
        return {"loss": error.mean()}
