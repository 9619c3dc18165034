"""The notice that is shown once, before the first picture of a person."""

from __future__ import annotations

from html import escape
from pathlib import Path

from facesnap.webui.ui.html import WARNING, note

TITLE = "Before the first picture"
TEXT = (
    "FaceSnap makes pictures of a real person from a photo. Use photos of yourself or of people who agreed to it. Do "
    "not pass the results off as photographs, and do not use them to deceive, to harass or to put a person into scenes "
    "they did not agree to.",
    "Photos stay on this machine. A saved identity holds numbers that describe a face: it is biometric data, keep it "
    "as you keep the photo. Pictures carry the identity's name and a short hash, never the photo.",
    "The weights of insightface's packs (buffalo_l, antelopev2) are for non-commercial research only. AuraFace may be "
    "used commercially.",
)
VERSION = "1"  # raise it when the text says something new
FILE = ".consent"


def notice() -> str:
    """The notice as HTML."""
    texts = "".join(f"<p>{escape(text)}</p>" for text in TEXT)
    return note(f"<p><b>{escape(TITLE)}</b></p>{texts}", WARNING, f' data-version="{VERSION}"')


def is_needed(folder: Path) -> bool:
    """Whether the notice has still to be shown. folder: FaceSnap's own, `Folders.own`."""
    try:
        return (folder / FILE).read_text(encoding="utf-8").strip() != VERSION
    except OSError:
        return True


def remember(folder: Path) -> None:
    """Do not show it again. Raises OSError where the folder cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(VERSION + "\n", encoding="utf-8")
