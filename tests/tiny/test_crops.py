"""Crops as batches: who is in them, and what changes leave of a picture."""

from __future__ import annotations

import numpy as np
import torch

from facesnap.tiny.crops import people_and_pictures, recoloured, varied
from facesnap.tiny.loop import Draws


def test_batches_of_people_hold_pairs_and_crops_vary_by_draws_alone() -> None:
    labels = np.repeat(np.arange(5), [3, 1, 4, 2, 2])
    rows = people_and_pictures(labels, 6, Draws(0, "test", 0))
    pairs = labels[rows].reshape(-1, 2)
    assert len(pairs) == 3 and (pairs[:, 0] == pairs[:, 1]).all() and len(set(rows)) == 6 and 1 not in labels[rows]
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    first, again, later = (varied(crops, Draws(0, "test", step)) for step in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, later) and first.min() >= 0 and first.max() <= 1


def test_recoloured_pictures_keep_their_shapes_and_lose_their_colours() -> None:
    rng = np.random.default_rng(0)
    shapes = torch.from_numpy(rng.uniform(0.2, 0.8, (64, 1, 8, 8))).float()
    pictures = (shapes * torch.tensor([1.0, 0.7, 0.5]).view(1, 3, 1, 1)).clamp(0, 1)  # every one of them brown
    first, again = (recoloured(pictures, Draws(0, "test", 1)) for _ in range(2))
    assert torch.equal(first, again) and first.min() >= 0 and first.max() <= 1
    order, kept = pictures.mean(1).flatten(1).argsort(1), first.mean(1).flatten(1)
    assert (kept.gather(1, order).diff(dim=1) > -1e-3).all()  # what was lighter still is
    colours = first.flatten(2).mean(2)  # (64, 3)
    redness = (colours[:, 0] - colours[:, 2]) / colours.mean(1)
    assert redness.std() > 0.3 and (redness < 0.1).float().mean() > 0.1  # brown was 0.68
