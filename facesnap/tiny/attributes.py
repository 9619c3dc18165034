"""The attribute judge's training: pictures moved and degraded, and the loss."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.evaluation.attribute_judge import VALUES, AttributeJudge, fitted, named
from facesnap.evaluation.blocks import to_tensor
from facesnap.tiny.crops import degraded
from facesnap.tiny.data import Portraits
from facesnap.tiny.loop import Draws, Losses


class AttributeLoss:
    """The loss of one step on `portraits`; an attribute counts only in pictures that show it."""

    def __init__(self, model: AttributeJudge, portraits: Portraits, batch: int) -> None:
        self.model, self.portraits, self.batch = model, portraits, batch
        truths = [record["attributes"] for record in portraits.records]
        self.targets = {
            name: torch.tensor([values.index(truth[name]) if name in named(truth) else -1 for truth in truths])
            for name, values in VALUES.items()
        }

    def __call__(self, step: int, draws: Draws) -> Losses:
        count = len(self.portraits)
        rows = draws.rows(count, self.batch)
        logits = self.model(degraded(moved(fitted(to_tensor(self.portraits.images[rows])), draws), draws))
        losses, right = [], []
        for name, found in logits.items():
            target = self.targets[name][torch.from_numpy(rows)]
            shown = (target >= 0).sum().clamp(min=1)
            losses.append(F.cross_entropy(found, target, ignore_index=-1, reduction="sum") / shown)
            right.append((found.argmax(1) == target).sum() / shown)
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(right).mean().detach()}


def moved(pictures: Tensor, draws: Draws) -> Tensor:
    """Pictures (B, 3, S, S) shifted and zoomed a little; never mirrored, since light has a side."""
    rng, count = draws.numpy, len(pictures)
    affine = np.zeros((count, 2, 3))
    affine[:, 0, 0] = affine[:, 1, 1] = rng.uniform(0.92, 1.05, count)
    affine[:, :, 2] = rng.normal(0, 0.03, (count, 2))
    grid = F.affine_grid(torch.from_numpy(affine).float(), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
