"""Pictures that show what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from facesnap.errors import SettingsError
from facesnap.faces.align import ENCODER_SIZE
from facesnap.faces.face import Face
from facesnap.sheet import font

CHOSEN, OTHER = (46, 204, 113), (149, 165, 166)
# Left eye, right eye, nose, mouth corners, as seen in the picture.
POINTS = ((231, 76, 60), (46, 204, 113), (52, 152, 219), (241, 196, 15), (155, 89, 182))
LONGEST, SHORTEST = 1280, 448  # px of the drawn photo's height or width: labels stay readable
MARGIN = 12


def draw_faces(faces: Sequence[Face], chosen: Face) -> Image.Image:
    """`mark_faces`, and beside it the chosen one's aligned crop and a legend."""
    photo, quality = mark_faces(faces, chosen), chosen.quality
    lines = (
        f"found by: {chosen.found_by}",
        f"quality {quality.score:.2f}",
        f"  detection {quality.detection:.2f}",
        f"  sharpness {quality.sharpness:.2f}",
        f"  frontalness {quality.frontalness:.2f}",
        f"  size {quality.size:.2f}",
        f"  landmarks {quality.landmarks:.2f}",
    )
    column = ENCODER_SIZE + 2 * MARGIN
    height = max(photo.height, ENCODER_SIZE + 3 * MARGIN + 20 * len(lines))
    sheet = Image.new("RGB", (photo.width + column, height), "white")
    sheet.paste(photo, (0, 0))
    sheet.paste(Image.fromarray(chosen.crop(ENCODER_SIZE)), (photo.width + MARGIN, MARGIN))
    pen, own = ImageDraw.Draw(sheet), font(15)
    for row, text in enumerate(lines):
        pen.text((photo.width + MARGIN, ENCODER_SIZE + 2 * MARGIN + 20 * row), text, fill="black", font=own)
    return sheet


def mark_faces(faces: Sequence[Face], chosen: Face) -> Image.Image:
    """The photo with boxes, points and numbers of all faces."""
    picture = Image.fromarray(faces[0].picture)
    longer = max(picture.size)
    scale = LONGEST / longer if longer > LONGEST else max(1.0, SHORTEST / longer)
    photo = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    pen = ImageDraw.Draw(photo)
    line = max(2, round(max(photo.size) / 300))
    for index, face in enumerate(faces):
        colour = CHOSEN if face is chosen else OTHER
        # Pixel centres at whole numbers: the middle of pixel x lies at (x + 0.5) * scale of the drawing.
        box = [(float(value) + 0.5) * scale for value in face.box]
        pen.rectangle(box, outline=colour, width=line)
        for (x, y), dot in zip((face.kps + 0.5) * scale, POINTS, strict=True):
            pen.ellipse((x - 1.5 * line, y - 1.5 * line, x + 1.5 * line, y + 1.5 * line), fill=dot, outline="white")
        _label(pen, box, f"{index}: {face.score:.2f}", colour, photo.size)
    return photo


def save_png(image: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "PNG")
    except OSError as error:
        raise SettingsError(
            f"The drawing cannot be written to {path} ({error}).",
            expected="a place that can be written to.",
            remedy="choose another.",
        ) from error


def _label(
    pen: ImageDraw.ImageDraw, box: list[float], text: str, colour: tuple[int, ...], size: tuple[int, int]
) -> None:
    own = font(max(14, round(max(size) / 45)))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=own)
    width, height = right - left + 8, bottom - top + 8
    x = min(max(0.0, box[0]), size[0] - width)
    y = box[1] - height if box[1] >= height else min(max(0.0, box[1]), size[1] - height)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + 4 - left, y + 4 - top), text, fill="black", font=own)
