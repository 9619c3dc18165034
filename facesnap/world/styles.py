"""Backgrounds, and the picture styles as filters on a finished picture."""

from __future__ import annotations

import cv2
import numpy as np

from facesnap.world import palette
from facesnap.world.mesh import f32, smoothstep

LENS_DARK = 0.16  # brightest display value of a sunglass lens in any style


def background(colour: str, backdrop: str, size: int, rng: np.random.RandomState) -> np.ndarray:
    """(size, size, 3) linear RGB."""
    light, dark = palette.BACKGROUNDS[colour]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    share: np.ndarray
    if backdrop == "plain":
        share = np.full((size, size), 0.3, dtype=np.float32)
    elif backdrop == "gradient":
        slant = rng.uniform(-0.6, 0.6)
        share = np.clip(y * np.cos(slant) + (x - 0.5) * np.sin(slant), 0, 1)
    elif backdrop == "halo":
        share = np.clip(np.hypot(x - 0.5 - 0.1 * rng.normal(), y - 0.45) * 1.3, 0, 1)
    else:
        share = np.full((size, size), 0.6, dtype=np.float32)
        for _ in range(14):
            middle = (int(rng.rand() * size), int(rng.rand() * size))
            cv2.circle(share, middle, int(size * rng.uniform(0.04, 0.11)), float(rng.uniform(0.05, 0.9)), -1)
        share = cv2.GaussianBlur(share, (0, 0), size * 0.02)
    return light + (dark - light) * share[..., None]


def stylise(
    picture: np.ndarray, style: str, regions: np.ndarray, lens: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """A display-referred picture (S, S, 3) in 0..1 in one of the styles of facesnap.world.look.

    Args:
        regions: (S, S), a number for each kind of surface; outlines run between them.
        lens: (S, S) bool, lenses of sunglasses, which stay dark.
    """
    filters = {"photo": _photo, "painting": _painting, "comic": _comic, "poster": _poster, "sketch": _sketch}
    styled = np.clip(filters[style](picture.astype(np.float32), regions, rng), 0, 1)
    brightest = styled.max(-1, keepdims=True)
    dark = styled * np.minimum(1, LENS_DARK / np.maximum(brightest, 1e-6))
    return np.where(lens[..., None], dark, styled)


def _photo(picture: np.ndarray, regions: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return picture + rng.normal(0, 0.012, picture.shape).astype(np.float32)


def _painting(picture: np.ndarray, regions: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Flat dabs (Kuwahara's filter) with brush strokes and stronger colours."""
    size = len(picture)
    dabs = _kuwahara(picture, 2)
    noise = cv2.GaussianBlur(rng.normal(size=(size // 2, size // 2)).astype(np.float32), (0, 0), 0.8)
    strokes = cv2.GaussianBlur(cv2.resize(noise, (size, size)), (0, 0), sigmaX=5, sigmaY=0.8)
    slant = cv2.getRotationMatrix2D((size / 2, size / 2), float(rng.uniform(20, 60)), 1)
    strokes = cv2.warpAffine(strokes, slant, (size, size), borderMode=cv2.BORDER_REFLECT)
    return _saturated(dabs, 1.3) * (1 + 0.11 * strokes[..., None])


def _comic(picture: np.ndarray, regions: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Steps of brightness and ink outlines."""
    flat = cv2.bilateralFilter((picture * 255).astype(np.uint8), 9, 60, 7).astype(np.float32) / 255
    flat = _saturated(_stepped(flat, 6), 1.35)
    ink = np.clip(0.75 * _outlines(regions) + 3.5 * _dark_lines(picture), 0, 0.9)
    return flat * (1 - ink)[..., None]


def _poster(picture: np.ndarray, regions: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Few flat, loud colours with a dot screen in the shadows."""
    smooth = _kuwahara(picture, 2)
    sharp = np.clip(smooth + 0.8 * (smooth - cv2.GaussianBlur(smooth, (0, 0), 4)), 0, 1)
    flat = _saturated(_stepped(sharp, 4), 1.4)
    y, x = np.mgrid[0 : len(picture), 0 : len(picture)].astype(np.float32)
    dots = 0.5 + 0.25 * (np.cos((x + y) * 0.9) + np.cos((x - y) * 0.9))
    grey = cv2.cvtColor(sharp, cv2.COLOR_RGB2GRAY)
    screen = 1 - 0.22 * smoothstep(0.4, 0.6, dots) * smoothstep(0.5, 0.3, grey)
    return flat * screen[..., None]


def _sketch(picture: np.ndarray, regions: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Pencil: lines where it darkens, hatching in the shadows, warm paper."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    around = cv2.GaussianBlur(grey, (0, 0), 4)
    lines = np.clip(grey / (around + 0.02), 0, 1) ** 3.2
    tone = np.clip(0.34 + 0.80 * grey**0.8, 0, 1)
    y, x = np.mgrid[0 : len(grey), 0 : len(grey)]
    hatching = 0.5 + 0.5 * np.sin((x + y) * 1.05)
    tone = np.where(grey < 0.45, tone * (0.82 + 0.18 * hatching), tone)
    drawn = np.clip(lines * tone - 0.35 * _outlines(regions), 0, 1)
    paper = 1 - 0.03 * np.abs(cv2.GaussianBlur(rng.normal(size=(len(grey), len(grey))).astype(np.float32), (0, 0), 0.8))
    return (drawn * paper * 0.95 + 0.05)[..., None] * f32([1.0, 0.985, 0.95])


def _kuwahara(picture: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel takes the mean of the calmest of the four squares that touch it."""
    side = radius + 1
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    best, result = np.full(grey.shape, np.inf, dtype=np.float32), picture
    for anchor in ((0, 0), (0, radius), (radius, 0), (radius, radius)):
        mean = cv2.blur(grey, (side, side), anchor=anchor)
        spread = cv2.blur(grey * grey, (side, side), anchor=anchor) - mean * mean
        colour = cv2.blur(picture, (side, side), anchor=anchor)
        calmer = spread < best
        best = np.where(calmer, spread, best)
        result = np.where(calmer[..., None], colour, result)
    return result


def _stepped(picture: np.ndarray, steps: int) -> np.ndarray:
    """Brightness in `steps` steps with soft edges, hue kept."""
    value = picture.max(-1, keepdims=True)
    scaled = value * steps
    stepped = (np.floor(scaled) + smoothstep(0.35, 0.65, scaled % 1)) / steps
    return np.clip(picture * (stepped + 0.06) / (value + 0.06), 0, 1).astype(np.float32)


def _saturated(picture: np.ndarray, factor: float) -> np.ndarray:
    hsv = cv2.cvtColor(np.clip(picture, 0, 1).astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _outlines(regions: np.ndarray) -> np.ndarray:
    """Soft lines between regions, 0..1."""
    values = regions.astype(np.float32)
    change = (cv2.Sobel(values, cv2.CV_32F, 1, 0) != 0) | (cv2.Sobel(values, cv2.CV_32F, 0, 1) != 0)
    return cv2.GaussianBlur(change.astype(np.float32), (0, 0), 0.8)


def _dark_lines(picture: np.ndarray) -> np.ndarray:
    """Mask of what is darker than its surroundings, 0..1."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.clip(cv2.GaussianBlur(grey, (0, 0), 3) - cv2.GaussianBlur(grey, (0, 0), 1), 0, 1)
