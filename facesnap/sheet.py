"""Contact sheets: labelled pictures side by side, such as the reference beside the results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GROUND, INK = (250, 250, 248), (30, 30, 30)
MARGIN, LINE = 12, 18
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def contact_sheet(
    rows: Sequence[Sequence[tuple[Image.Image, str]]], *, cell: int = 256, title: str = ""
) -> Image.Image:
    """Lay labelled pictures out in rows.

    Args:
        rows: (picture, caption) in each cell; captions may hold line breaks.
        cell: side in pixels of the square that each picture is fitted into.
        title: text above; may hold line breaks.

    Returns:
        RGB picture.
    """
    own = font(14)
    columns = max(len(row) for row in rows)
    heights = [cell + LINE * max(len(_wrap(text, cell, own)) for _, text in row) + MARGIN for row in rows]
    width = MARGIN + columns * (cell + MARGIN)
    head = _wrap(title, width - 2 * MARGIN, own) if title else []
    sheet = Image.new("RGB", (width, MARGIN + LINE * len(head) + MARGIN * bool(head) + sum(heights)), GROUND)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(head):
        draw.text((MARGIN, MARGIN + i * LINE), line, INK, own)
    top = MARGIN + LINE * len(head) + MARGIN * bool(head)
    for row, height in zip(rows, heights, strict=True):
        for column, (picture, text) in enumerate(row):
            left = MARGIN + column * (cell + MARGIN)
            fitted = picture.convert("RGB")
            fitted.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(fitted, (left + (cell - fitted.width) // 2, top + (cell - fitted.height) // 2))
            for i, line in enumerate(_wrap(text, cell, own)):
                draw.text((left, top + cell + 2 + i * LINE), line, INK, own)
        top += height
    return sheet


def tiled(rows: Sequence[Sequence[np.ndarray] | np.ndarray], scale: int = 2) -> Image.Image:
    """Rows of as many pictures (S, S, 3) uint8 RGB each under one another, enlarged."""
    joined = Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    return joined.resize((joined.width * scale, joined.height * scale), Image.Resampling.LANCZOS)


def font(size: int) -> Font:
    """Pillow's own font, of a size in px."""
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _wrap(text: str, width: int, font: Font) -> list[str]:
    """Lines no wider than `width` pixels, broken at spaces."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines
