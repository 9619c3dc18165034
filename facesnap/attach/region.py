"""A soft map on the picture -> weights on the tokens of a site, at whatever grid the site has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.attach.rows import Tile
from facesnap.errors import AttachError


def token_grid(tokens: int, latent: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) grid of a site with that many query tokens.

    Each stride-2 stage of the UNet gives ceil(size / 2), whatever the size, so the grids are known from the latent
    shape. Extensions that resize hidden states inside the UNet (Kohya HRFix) leave other grids; the one nearest to
    the latent's aspect ratio is taken then.

    Args:
        tokens: length of q. latent: (height, width) of the UNet's input.

    Raises:
        AttachError: no grid of that many tokens resembles the latent.
    """
    h, w = latent
    while True:
        if h * w == tokens:
            return h, w
        if h * w < tokens or h * w == 1:
            break
        h, w = (h + 1) // 2, (w + 1) // 2
    aspect = latent[0] / latent[1]
    pairs = [(d, tokens // d) for d in range(1, tokens + 1) if tokens % d == 0]
    best = min(pairs, key=lambda p: max(p[0] / p[1] / aspect, aspect / (p[0] / p[1])))
    if max(best[0] / best[1] / aspect, aspect / (best[0] / best[1])) > 1.25:
        raise AttachError(
            f"A cross-attention has {tokens} tokens for a latent of {latent[0]} x {latent[1]}.",
            expected="a grid of tokens with the latent's aspect ratio",
            remedy="switch off the extension that merges tokens in the cross-attention, or use no region",
        )
    return best


def token_weights(region: Tensor, latent: tuple[int, int], tokens: int, tile: Tile | None = None) -> Tensor:
    """Average the map over what each token stands for.

    The picture's map is averaged to the latent's pixels, then by twos as the UNet's strides do (the last row or
    column of an odd size stands alone).

    Args:
        region: (H, W), 0..1. latent: (h, w) of the UNet's input. tokens: length of q at the site.
        tile: the piece of the picture that the UNet's input holds, where it is not the whole.

    Returns:
        (tokens,) float32, 0..1.
    """
    gh, gw = token_grid(tokens, latent)
    x = F.adaptive_avg_pool2d(region.float()[None, None], latent if tile is None else tile.frame)  # (1, 1, h, w)
    if tile is not None:
        x = x[..., tile.top : tile.top + latent[0], tile.left : tile.left + latent[1]]
    while x.shape[-2] > gh and x.shape[-1] > gw:
        x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    if tuple(x.shape[-2:]) != (gh, gw):
        x = F.adaptive_avg_pool2d(x, (gh, gw))
    return x.flatten()  # (1, 1, gh, gw) -> (gh * gw,)


def union(regions: Sequence[Tensor | None]) -> Tensor | None:
    """Union of several maps (H, W) in the first one's size; None, everywhere, if one of them is None."""
    found: Tensor | None = None
    for region in regions:
        if region is None:
            return None
        if found is not None and region.shape != found.shape:
            region = F.interpolate(region[None, None].float(), found.shape, mode="area")[0, 0]  # (H, W)
        found = region if found is None else torch.maximum(found, region)
    return found
