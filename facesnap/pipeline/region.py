"""The region of a person's settings -> a soft map on the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facesnap.faces.picture import read_picture
from facesnap.settings.field_types import Box

REGION_SIDE = 256  # cells of the map of a region given as a box


def region_map(region: Any) -> Tensor | None:
    """A region as a map (H, W), 0..1; None is everywhere.

    Args:
        region: a box by fractions, a map (H, W) of floats, or a mask picture, white where the person is: a path, a
            Pillow image, or an array (H, W) or (H, W, 3) of bytes.

    Raises:
        PictureError: a mask picture cannot be read.
    """
    if region is None:
        return None
    if isinstance(region, Tensor):
        return region
    if isinstance(region, Box):
        columns = _coverage(region.x, region.x + region.w)
        return _coverage(region.y, region.y + region.h)[:, None] * columns[None]  # (H, 1) * (1, W)
    if isinstance(region, np.ndarray) and region.ndim == 2 and np.issubdtype(region.dtype, np.floating):
        return torch.from_numpy(region.astype(np.float32))
    pixels = region if isinstance(region, np.ndarray) else read_picture(region, name=_name(region))
    grey = pixels.mean(axis=2) if pixels.ndim == 3 else pixels  # (H, W, 3) -> (H, W)
    return torch.from_numpy(grey / 255).float().clamp(0, 1)


def _name(region: Any) -> str:
    return str(region) if isinstance(region, Path) else "the region's mask"


def _coverage(start: float, end: float) -> Tensor:
    """(REGION_SIDE,) share of each cell that lies between two fractions."""
    edges = torch.arange(REGION_SIDE + 1) / REGION_SIDE
    return ((edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0) * REGION_SIDE).clamp(0, 1)
