"""Remedies that work where they stand: the same deed on the command line, in a program, and inside a WebUI.

A WebUI has buttons and no `facesnap` command, and packages that somebody installs into it by hand may move what it
pins. On the command line a command is called as this installation has it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

COMMAND_LINE, WEBUI = PLACES = ("command line", "WebUI")

# Deed -> how it is done on the command line, and in a WebUI. {facesnap} is the program.
DEEDS = {
    "look after packages": (
        "run `{facesnap} doctor`: it names the command that installs what is missing",
        "restart the WebUI: before it starts, FaceSnap installs what face analysis lacks, and says in the console what "
        "it could not install and why",
    ),
    "download": (
        "run `{facesnap} download {name}` (licence: {licence})",
        "open Models at the foot of FaceSnap's accordion, choose {name} and press Download (licence: {licence})",
    ),
    "accept the licence": (
        "read it, and run `{facesnap} download {name} --accept-licence`",
        "read it, tick its box under Models in FaceSnap's accordion, and press Download again",
    ),
    "see what can be downloaded": (
        "`{facesnap} download --list` names public ones",
        "Models at the foot of FaceSnap's accordion has public ones",
    ),
    "download from elsewhere": (
        "download it again, or from another server (--mirror)",
        "press Download again; if it fails again, fetch the file by hand from the page that is named there",
    ),
    "choose another folder": (
        "choose another folder with --folder",
        "start the WebUI with --facesnap-dir and another folder",
    ),
    "see where files lie": (
        "`{facesnap} doctor` lists those of this machine and says where to put one",
        "Models at the foot of FaceSnap's accordion says which folder they lie in",
    ),
    "give an encoder": (
        "give --encoder FILE; `{facesnap} doctor` lists those of this machine",
        "put it into models/clip_vision, or choose it under Models at the foot of FaceSnap's accordion",
    ),
    "give a pack": ("give --pack", "choose a pack in Settings, FaceSnap"),
    "analyse with a pack": (
        "make the identity anew from its photos with --pack {pack}",
        "save the identity anew from its photos with the face-analysis pack {pack}: choose an adapter made for it, or "
        "the pack in Settings, FaceSnap",
    ),
    "see the faces": (
        "look at `{facesnap} analyse PHOTO --draw OUT.png`, which numbers the faces",
        "press Preview, which numbers the faces",
    ),
    "see what a file is": (
        "choose an adapter file; `{facesnap} inspect FILE` says what a file is",
        "choose an adapter file from the list Adapter",
    ),
    "say the family": (
        "say which: --family {one} or --family {other}",
        "say which: the adapter '{name}{mark}{one}' or '{name}{mark}{other}', typed into the list Adapter or sent to "
        "the API",
    ),
    "make an identity": ("`{facesnap} identity make`", "Save or delete an identity in FaceSnap's accordion"),
    "switch structure off": ("set the structure strength (--structure) to 0", "set Structure strength to 0"),
    "analyse on the CPU": (
        "install onnxruntime-gpu for your CUDA version in place of onnxruntime (not beside it), or use provider cpu; "
        "`{facesnap} doctor` shows what is installed",
        "choose cpu in Settings, FaceSnap, Analyse faces on",
    ),
    "install a reader": (
        "install {package}",
        "install {package} into the WebUI's Python without its dependencies (--no-deps), so that the WebUI's Pillow "
        "stays",
    ),
}
_here = COMMAND_LINE


def stand_in(place: str) -> None:
    """Say where this process runs: one of PLACES. Without it, on the command line."""
    global _here
    if place not in PLACES:
        raise ValueError(place)
    _here = place


def remedy(deed: str, **words: str) -> str:
    """How to do a deed of DEEDS in this place; words fill in its names."""
    return DEEDS[deed][PLACES.index(_here)].format(facesnap=program(), **words)


def command(arguments: str) -> str:
    """A command of ours, as this installation has it, between backquotes; for what the command line alone can do."""
    return f"`{program()} {arguments}`"


def program() -> str:
    """`facesnap` where this or any shell finds it, else `python -m facesnap`."""
    found = Path(sys.argv[0]).stem.lower() == "facesnap" or shutil.which("facesnap")
    return "facesnap" if found else "python -m facesnap"
