"""HTML of the accordion: status lines, thumbnails, the preview. Everything that comes from people is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import combinations

from PIL import Image

from facesnap.errors import FaceSnapError, PictureError
from facesnap.faces.picture import read_picture
from facesnap.webui.ui.preview import PersonPreview, PhotoPreview

THUMBNAIL, SHOWN = 96, 640  # px of the longer side
INFO, WARNING, ERROR = "info", "warning", "error"


def note(content: str, kind: str, attributes: str = "") -> str:
    """A block around HTML. kind: INFO, WARNING or ERROR."""
    return f'<div class="facesnap-note facesnap-{kind}"{attributes}>{content}</div>'


def status(lines: Sequence[str], kind: str = INFO) -> str:
    """A block of lines; nothing for none. kind: INFO, WARNING or ERROR."""
    return note("".join(f"<p>{escape(line)}</p>" for line in lines), kind, ' role="status"') if lines else ""


def problem(error: FaceSnapError) -> str:
    """An error: what happened, what was expected, and the remedy."""
    rest = f"Expected: {error.expected.rstrip('.')}. Remedy: {error.remedy.rstrip('.')}."
    return note(f"<p><b>{escape(error.what)}</b></p><p>{escape(rest)}</p>", ERROR, ' role="alert"')


def thumbnails(files: Sequence[bytes] | None) -> str:
    """The photos that were chosen, small; a file that is no picture says so."""
    cells = []
    for n, data in enumerate(files or (), 1):
        try:
            picture = Image.fromarray(read_picture(data, name=f"photo {n}"))
        except PictureError as error:
            cells.append(f'<span class="facesnap-bad" title="{escape(error.what)}">?</span>')
            continue
        cells.append(f'<img src="{_data(picture, THUMBNAIL)}" alt="photo {n}">')
    return f'<div class="facesnap-thumbs">{"".join(cells)}</div>' if cells else ""


def preview(seen: PersonPreview, number: int) -> str:
    """The analysis of one person."""
    parts = [f'<div class="facesnap-seen" data-person="{number}">', status(seen.warnings, WARNING)]
    if seen.identity is not None:
        one = seen.identity
        scores = ", ".join(f"{score:.2f}" for score in one.scores)
        photos = f"{one.references} photo{'s' * (one.references > 1)} (quality {scores})"
        parts.append(status([f"Saved identity '{one.name}' from {photos}, made with the pack {one.alias}."]))
    parts += [_look(look) for look in seen.looks]
    if seen.likeness is not None:
        rows = [look.title for look in seen.looks if look.chosen is not None][: len(seen.likeness)]
        both = combinations(range(len(rows)), 2)
        pairs = [f"{rows[a]} and {rows[b].lower()}: {seen.likeness[a, b]:.2f}" for a, b in both]
        parts.append(status(["Similarity (1: same photo, below 0.2: strangers). " + "; ".join(pairs) + "."]))
    return "".join(parts) + "</div>"


def _look(look: PhotoPreview) -> str:
    if look.error is not None:
        return problem(look.error)
    assert look.chosen is not None and look.marked is not None and look.crop is not None
    face, quality = look.chosen, look.chosen.quality
    which = f"face {look.place} of {look.faces}" if look.faces > 1 else "one face"
    bars = "".join(
        f'<label>{name}<meter min="0" max="1" low="0.4" high="0.6" optimum="1" value="{value:.3f}"></meter>'
        f"<span>{value:.2f}</span></label>"
        for name, value in (
            ("quality", quality.score), ("detection", quality.detection), ("sharpness", quality.sharpness),
            ("frontalness", quality.frontalness), ("size", quality.size),
            ("landmarks", quality.landmarks),
        )
    )  # fmt: skip
    width, height = face.picture_size
    return (
        '<figure class="facesnap-look">'
        f'<img class="facesnap-marked" src="{_data(look.marked, SHOWN)}" alt="{escape(look.title)} with its faces">'
        f'<img class="facesnap-crop" src="{_data(look.crop, look.crop.width)}" alt="the face, upright">'
        f"<figcaption><b>{escape(look.title)}</b><span>{width} x {height}, {which}, found by {escape(face.found_by)}"
        f'</span><div class="facesnap-bars">{bars}</div></figcaption></figure>'
    )


def _data(picture: Image.Image, longest: int) -> str:
    """A data URL; no file is written for it."""
    small = picture.convert("RGB")
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
