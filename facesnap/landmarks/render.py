"""Landmark pictures, drawn anti-aliased from vectors at the size of each pass.

Every function takes points as fractions of the picture: x in 0..1 of its width to the right, y in 0..1 of its
height downwards. One vector therefore serves every pass size. Points outside 0..1 are clipped by the frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facesnap.errors import LandmarkError
from facesnap.landmarks.scheme import (
    FIVE_POINT_COLOURS,
    POINT_49,
    POINT_COUNT,
    checked,
    point_colours,
)

DOT_RADIUS = 0.0065  # of the picture's side (paper, figure 2)
LARGEST_SIDE = 16384
# InstantID's key-point picture at 1024 x 1024: limbs first, darkened, then discs.
_LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
_LIMB_HALF_WIDTH, _LIMB_BRIGHTNESS, _DISC_RADIUS, _FIVE_POINT_SIDE = 4.0, 0.6, 10.0, 1024


def side_of(size: tuple[int, int]) -> float:
    """The length that dot sizes are a fraction of: sqrt(W H), the side of the square of the same area.

    SD checkpoints use buckets of equal area, so a dot keeps its size whatever the picture's proportions.
    """
    return float(np.sqrt(size[0] * size[1]))


def render_landmarks(
    points: np.ndarray | Sequence[np.ndarray],
    size: tuple[int, int],
    *,
    radius: float = DOT_RADIUS,
    draw_point_49: bool = True,
) -> np.ndarray:
    """The paper's landmark picture: 72 filled dots, a colour for each part, black ground.

    Args:
        points: (72, 2) fractions of the picture, or a list of them, one for each person.
        size: (width, height) in pixels.
        radius: dot radius as a fraction of `side_of(size)`.
        draw_point_49: False leaves out the point that the paper's figure lacks.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        LandmarkError: points of another shape, not finite, or a size of no picture.
    """
    canvas = _canvas(size)
    if not 0 < radius < 0.5:
        raise LandmarkError(
            f"The dot radius is {radius}.",
            expected="a fraction of the picture's side between 0 and 0.5.",
            remedy=f"Use the default, {DOT_RADIUS}.",
        )
    pixels = radius * side_of(size)
    colours = point_colours()
    for face in [points] if isinstance(points, np.ndarray) else points:
        for index, centre in enumerate(_pixels(face, size, POINT_COUNT)):
            if index != POINT_49 or draw_point_49:
                _disc(canvas, centre, pixels, colours[index])
    return np.round(canvas).astype(np.uint8)


def render_five_points(points: np.ndarray | Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """InstantID's key-point picture: four limbs to the nose at 60 % brightness, five discs, black ground.

    Limbs are ellipses of half-width 4 px and discs have a radius of 10 px on a picture of 1024 x 1024; both
    scale with `side_of(size)`.

    Size, result and errors as of `render_landmarks`.

    Args:
        points: (5, 2) fractions of the picture (see scheme.five_points), or a list of them, one for each person.
    """
    canvas = _canvas(size)
    scale = side_of(size) / _FIVE_POINT_SIDE
    faces = [_pixels(face, size, 5) for face in ([points] if isinstance(points, np.ndarray) else points)]
    for face in faces:
        for start, end in _LIMBS:
            colour = np.array(FIVE_POINT_COLOURS[start])
            _ellipse(canvas, face[start], face[end], _LIMB_HALF_WIDTH * scale, colour)
    canvas *= _LIMB_BRIGHTNESS
    for face in faces:
        for centre, rgb in zip(face, FIVE_POINT_COLOURS, strict=True):
            _disc(canvas, centre, _DISC_RADIUS * scale, np.array(rgb))
    return np.round(canvas).astype(np.uint8)


def _canvas(size: tuple[int, int]) -> np.ndarray:
    width, height = size
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise LandmarkError(
            f"The picture size is {width} x {height}.",
            expected=f"a width and height of 1 to {LARGEST_SIDE} pixels.",
            remedy="Give the size of the pass as WIDTHxHEIGHT.",
        )
    return np.zeros((int(height), int(width), 3), dtype=np.float32)


def _pixels(points: np.ndarray, size: tuple[int, int], count: int) -> np.ndarray:
    """Fractions (count, 2) to pixel coordinates in which pixel (0, 0) covers 0..1."""
    array = checked(points, count, what="The vector to draw", dims=(2,))
    if not np.isfinite(array).all():
        raise LandmarkError(
            "The vector to draw holds values that are not finite.",
            expected="fractions of the picture for every point.",
            remedy="Fit the points first; a fit fills in what was hidden.",
        )
    return array * size


def _window(
    canvas: np.ndarray, centre: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The part of the canvas within `reach` (2,) of `centre`, with its pixel centres' x (1, w) and y (h,
    1)."""
    limits = np.array([canvas.shape[1], canvas.shape[0]])
    low = np.maximum(np.floor(np.clip(centre - reach - 1, -1, limits + 1)), 0).astype(int)
    high = np.minimum(np.ceil(np.clip(centre + reach + 1, -1, limits + 1)), limits).astype(int)
    if (high <= low).any():
        return None
    xs = np.arange(low[0], high[0])[None, :] + 0.5 - centre[0]
    ys = np.arange(low[1], high[1])[:, None] + 0.5 - centre[1]
    return canvas[low[1] : high[1], low[0] : high[0]], xs, ys


def _paint(window: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Blend `colour` where the signed distance (h, w) in pixels is negative, over one pixel's edge."""
    alpha = np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None]
    window += alpha * (colour.astype(np.float32) - window)


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: np.ndarray) -> None:
    part = _window(canvas, centre, np.full(2, radius))
    if part is not None:
        window, xs, ys = part
        _paint(window, np.hypot(xs, ys) - radius, colour)


def _ellipse(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, half_width: float, colour: np.ndarray) -> None:
    """A filled ellipse whose long axis runs from `start` to `end`."""
    axis = end - start
    half_length = max(float(np.hypot(*axis)) / 2, 1e-6)
    along = axis / (2 * half_length)
    part = _window(canvas, (start + end) / 2, np.full(2, max(half_length, half_width)))
    if part is None:
        return
    window, xs, ys = part
    u = (xs * along[0] + ys * along[1]) / half_length**2
    v = (ys * along[0] - xs * along[1]) / half_width**2
    level = np.sqrt((u * half_length) ** 2 + (v * half_width) ** 2)
    gradient = np.hypot(u, v) / np.maximum(level, 1e-9)  # first-order distance to the ellipse's edge
    _paint(window, (level - 1) / np.maximum(gradient, 1e-9), colour)
