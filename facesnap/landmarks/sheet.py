"""A contact sheet: one reference as it is, in nine poses, and with every expression preset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Fit
from facesnap.landmarks.recombination import PoseSpec, recombine
from facesnap.landmarks.render import render_landmarks

TILE, CAPTION, COLUMNS = 288, 22, 7
_DOT = 0.009  # larger than in the landmark picture, so that a small tile can be read
POSES: dict[str, PoseSpec] = {
    "frontal": PoseSpec(),
    "yaw +20 (picture's right)": PoseSpec(yaw=20),
    "yaw +45": PoseSpec(yaw=45),
    "yaw -20 (picture's left)": PoseSpec(yaw=-20),
    "yaw -45": PoseSpec(yaw=-45),
    "pitch +20 (up)": PoseSpec(pitch=20),
    "pitch -20 (down)": PoseSpec(pitch=-20),
    "roll +25": PoseSpec(roll=25),
    "yaw 30 pitch 10 roll -15": PoseSpec(yaw=30, pitch=10, roll=-15),
}


def contact_sheet(basis: Basis, source: Fit, picture: np.ndarray) -> np.ndarray:
    """RGB uint8 sheet of the reference `picture` (H, W, 3), the landmarks found in it, poses and presets."""
    size = (TILE, TILE)
    own = recombine(basis, source, source, size=source.views[0].size) * source.views[0].size  # (72, 2) pixels
    photo, own = _cropped(picture, own)
    dots = _draw(own)
    tiles = [("reference", np.where(dots.any(2, keepdims=True), dots, photo)), ("as the reference", dots)]
    for name, pose in (*POSES.items(), *((name, PoseSpec(expression=name)) for name in basis.presets)):
        framed = replace(pose, position=(0.5, 0.5), size=0.55)
        tiles.append((name, _draw(recombine(basis, source, framed, size=size))))
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + CAPTION)), (24, 24, 24))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, (caption, tile) in enumerate(tiles):
        left, top = index % COLUMNS * TILE, index // COLUMNS * (TILE + CAPTION)
        sheet.paste(Image.fromarray(tile), (left, top))
        pen.text((left + 6, top + TILE + 5), caption, fill=(230, 230, 230), font=font)
    return np.asarray(sheet)


def _draw(points: np.ndarray) -> np.ndarray:
    return render_landmarks(points, (TILE, TILE), radius=_DOT)


def _cropped(picture: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A square tile of the picture about the face, and the points (72, 2) as fractions of that tile."""
    low, high = points.min(0), points.max(0)
    side = 1.5 * float((high - low).max())
    corner = (low + high) / 2 - side / 2
    box = (corner[0], corner[1], corner[0] + side, corner[1] + side)
    tile = Image.fromarray(picture).transform((TILE, TILE), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    return np.asarray(tile), (points - corner) / side
