"""The adapters on this machine: found by name, by hash, or as the one that fits the base model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from facesnap.checkpoints.native import KEY
from facesnap.errors import MissingWeightsError

FOLDER = "FaceSnap"  # below the WebUI's models folder
LEAST_HASH = 6


def adapter_folders(model_dirs: Iterable[Path]) -> list[Path]:
    """Folders that may hold adapters: those given, and FaceSnap/ below each."""
    return list(dict.fromkeys(place for folder in model_dirs for place in (Path(folder) / FOLDER, Path(folder))))


def adapter_files(model_dirs: Sequence[Path]) -> dict[Path, str]:
    """Adapter files and the base ("sd15" or "sdxl") each was made for, by name."""
    found: dict[Path, str] = {}
    for folder in adapter_folders(model_dirs):
        for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            base = _base(file)
            if base is not None:
                found.setdefault(file, base)
    return found


def find_adapter(name: str, base: str, model_dirs: Sequence[Path]) -> Path:
    """The file of an adapter.

    Args:
        name: file name with or without extension, the start of its sha256, or empty for the one that fits.
        base: of the UNet, "sd15" or "sdxl"; decides where the name is empty.

    Raises:
        MissingWeightsError: there is none.
    """
    files = adapter_files(model_dirs)
    places = ", ".join(map(str, adapter_folders(model_dirs))) or "no folder is known"
    if not name:
        fitting = [file for file, made_for in files.items() if made_for == base]
        if fitting:
            return fitting[0]
        raise MissingWeightsError(
            f"There is no FaceSnap adapter for {base} among {len(files)} adapters.",
            expected=f"a FaceSnap checkpoint made for {base} in one of: {places}",
            remedy="put one there and refresh the list of models",
        )
    key = name.strip().lower()
    for file in files:
        if key in (file.name.lower(), file.stem.lower()):
            return file
    if len(key) >= LEAST_HASH and all(c in "0123456789abcdef" for c in key):
        from facesnap.faces.packs import file_sha256

        for file in files:
            if file_sha256(file).startswith(key):
                return file
    known = ", ".join(file.stem for file in files) or "none"
    raise MissingWeightsError(
        f"There is no adapter '{name}'.",
        expected=f"one of: {known}; in {places}",
        remedy="correct the name, or put the file there and refresh the list of models",
    )


def _base(file: Path) -> str | None:
    """The base that a checkpoint's metadata names; None where it is no adapter of ours."""
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            values = json.loads((opened.metadata() or {}).get(KEY, "null"))
    except (SafetensorError, OSError, ValueError):
        return None
    base = values.get("base") if isinstance(values, dict) else None
    return base if isinstance(base, str) else None
