"""A z-buffer rasteriser in numpy: all (triangle, pixel) candidates of one size of triangle at a time.

Points are (x, y, depth) in pixels, y down, smaller depths nearer; the centre of the first pixel is at 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FAR = np.float32(1e9)
_SIDES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024, 2048)  # boxes that triangles are sorted into


class Fragments(NamedTuple):
    """The nearest surface in each of the M covered pixels of a square picture.

    Attributes:
        pixel: (M,) int64, row * size + column, rising.
        triangle: (M,) int64.
        weights: (M, 3) float32, perspective-correct barycentric coordinates.
        depths: (size * size,) float32, FAR where nothing is.
    """

    pixel: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray
    depths: np.ndarray


def rasterise(
    points: np.ndarray,
    faces: np.ndarray,
    size: int,
    *,
    two_sided: np.ndarray,
    tested: np.ndarray | None = None,
    keep: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Fragments:
    """Find the nearest triangle in each pixel.

    Args:
        points: (N, 3) float32.
        faces: (T, 3); anticlockwise from outside, as the picture shows them.
        size: side of the picture in pixels.
        two_sided: (T,) bool, triangles that show from behind too.
        tested: (T,) bool, triangles whose fragments `keep` decides about.
        keep: takes (triangle (K,), weights (K, 3)) and returns which fragments exist, for cut-out surfaces.
    """
    triangle, pixel, weights = _candidates(points, faces, size, two_sided)
    inverse = weights / points[faces[triangle], 2]  # perspective-correct
    depth = 1 / (inverse[:, 0] + inverse[:, 1] + inverse[:, 2])
    weights = inverse * depth[:, None]
    if keep is not None and tested is not None:
        cut = np.flatnonzero(tested[triangle])
        exists = np.ones(len(triangle), dtype=bool)
        exists[cut] = keep(triangle[cut], weights[cut])
        triangle, pixel, weights, depth = triangle[exists], pixel[exists], weights[exists], depth[exists]
    depths = np.full(size * size, FAR, dtype=np.float32)
    np.minimum.at(depths, pixel, depth)
    nearest = np.flatnonzero(depth == depths[pixel])
    # Of two surfaces at the same depth the later triangle wins.
    winner = np.full(size * size, -1, dtype=np.int64)
    winner[pixel[nearest]] = nearest
    chosen = winner[winner >= 0]
    return Fragments(pixel[chosen], triangle[chosen], weights[chosen], depths)


def _candidates(
    points: np.ndarray, faces: np.ndarray, size: int, two_sided: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(triangle (K,), pixel (K,), weights (K, 3)) of every pixel centre inside every triangle that faces us."""
    corners = points[faces]  # (T, 3, 3)
    x, y = corners[:, :, 0], corners[:, :, 1]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    left, right = _extent(x, size)
    top, bottom = _extent(y, size)
    shown = (right >= left) & (bottom >= top) & (np.abs(area) > 1e-9) & ((area < 0) | two_sided)
    triangles = np.flatnonzero(shown)
    extent = np.maximum(right - left, bottom - top)[triangles] + 1

    def inside(chosen: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The candidates of triangles whose boxes fit `side` x `side` pixels."""
        rows, columns = (axis.ravel() for axis in np.mgrid[0:side, 0:side].astype(np.float32))
        columns, rows = left[chosen, None] + columns, top[chosen, None] + rows  # (C, side * side)
        X, Y, scale = x[chosen], y[chosen], 1 / area[chosen, None]
        dx, dy = columns + 0.5 - X[:, :1], rows + 0.5 - Y[:, :1]
        first = (dx * (Y[:, 2:] - Y[:, :1]) - (X[:, 2:] - X[:, :1]) * dy) * scale
        second = ((X[:, 1:2] - X[:, :1]) * dy - dx * (Y[:, 1:2] - Y[:, :1])) * scale
        hit = (first >= -1e-6) & (second >= -1e-6) & (first + second <= 1 + 1e-6) & (columns < size) & (rows < size)
        row, column = np.nonzero(hit)
        pixel = rows[row, column].astype(np.int64) * size + columns[row, column].astype(np.int64)
        first, second = first[row, column], second[row, column]
        return chosen[row], pixel, np.stack([1 - first - second, first, second], axis=1)

    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.float32))]
    smaller = 0
    for side in _SIDES:
        chosen = triangles[(extent > smaller) & (extent <= side)]
        smaller = side
        if len(chosen):
            found.append(inside(chosen, side))
    triangle, pixel, weights = (np.concatenate(part) for part in zip(*found, strict=True))
    return triangle, pixel, weights


def _extent(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixel centre between the corners (T, 3) of triangles, inside the picture."""
    a, b, c = values.T
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    return np.ceil(low - 0.5).clip(0), np.floor(high - 0.5).clip(None, size - 1)
