"""ADetailer's face pass (github.com/Bing-su/adetailer): who is on the face that it paints again.

After a picture is sampled, ADetailer makes a processing object of its own for each face it finds, marked `_ad_inner`,
and inpaints the face with it. Only scripts whose file is named in its option `ad_script_names` see that object.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.hosts.base import Parts
from facesnap.hosts.tiles import WHOLE, Piece

NAMES = "ad_script_names"
GRID = 128  # cells a side on which a mask is compared with a region
LEAST = 0.25  # share of a face that a person must cover to be taken for its owner
MARGIN = 0.25  # landmarks end at the brows, a detector's box holds the forehead


def join(opts: Any, script: str) -> None:
    """Name our script in ADetailer's list, where ADetailer is there and does not name it yet.

    Args:
        opts: the host's options. script: stem of our script's file.
    """
    names = opts.data.get(NAMES)
    if isinstance(names, str) and script not in [name.strip() for name in names.split(",")]:
        opts.data[NAMES] = f"{names},{script}" if names.strip() else script


def mask_of(p: Any) -> Tensor | None:
    """(H, W) 0..1, which part of its picture an inpainting pass paints again; None where it has no mask."""
    mask = getattr(p, "mask_for_overlay", None)
    return None if mask is None else torch.from_numpy(np.asarray(mask.convert("L"), np.float32) / 255)


def owners(parts: Parts, mask: Tensor | None, piece: Piece = WHOLE) -> Parts:
    """The parts that belong to the people on the face below the mask: those whose region, or else whose
    landmarks, cover it best. People with neither are everywhere. Their regions are dropped, so that the border of a
    region does not cut the face in two.

    Args:
        mask: (H, W) 0..1, the face; None: no mask, all people stay. piece: its picture as a piece of the whole one.
    """
    if mask is None:
        return parts
    shares = [_share(parts, n, mask, piece) for n in range(parts.count)]
    best = max(shares, default=0.0)
    kept = {n for n, share in enumerate(shares) if share >= max(LEAST, best - 1e-3)}
    return Parts(
        [replace(person, region=None) for n, person in enumerate(parts.people) if n in kept],
        [replace(one, region=None) for n, one in zip(parts.owners, parts.controls, strict=True) if n in kept],
        parts.speed,
        [replace(lora, region=None) for lora in parts.loras] if kept else (),
    )


def _share(parts: Parts, number: int, mask: Tensor, piece: Piece) -> float:
    """Share of the mask that a person covers, or, where the person's place is the smaller one, share of that place
    that lies in the mask."""
    place = _place(parts, number)
    if place is None:
        return 1.0
    place, mask = _grid(_cut(place, piece)), _grid(mask)
    least = min(float(place.sum()), float(mask.sum()))
    return float((place * mask).sum()) / least if least > 0 else 0.0


def _place(parts: Parts, number: int) -> Tensor | None:
    """(H, W) map of where in the whole picture a person is; None for everywhere."""
    controls = [one for n, one in zip(parts.owners, parts.controls, strict=True) if n == number]
    regions = [person.region for person in parts.people[number : number + 1]] + [one.region for one in controls]
    for region in regions:
        if region is not None:
            return region
    for control in controls:
        if control.face is not None:
            left, top, right, bottom = control.face
            pad = MARGIN * max(right - left, bottom - top)
            return _cells(top - pad, bottom + pad)[:, None] * _cells(left - pad, right + pad)[None]
    return None


def _cells(low: float, high: float) -> Tensor:
    """(GRID,) 1 where the centre of a cell lies between two fractions, else 0."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    return ((centres >= low) & (centres < high)).float()


def _cut(place: Tensor, piece: Piece) -> Tensor:
    (height, width), (left, top, w, h) = place.shape, piece
    y, x = min(int(top * height), height - 1), min(int(left * width), width - 1)
    return place[y : max(round((top + h) * height), y + 1), x : max(round((left + w) * width), x + 1)]


def _grid(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x.float()[None, None], (GRID, GRID))[0, 0]  # (H, W) -> (GRID, GRID)
