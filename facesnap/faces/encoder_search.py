"""The image encoder that an adapter was trained with, among the files of a WebUI: by content, not by file name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from facesnap.checkpoints.files import SUFFIXES
from facesnap.errors import EncoderError
from facesnap.faces.encoder import fingerprint_of
from facesnap.faces.encoder_files import encoder_parents, find_encoder
from facesnap.faces.known import ENCODER_FILES, ENCODER_SOURCES, advice, encoder_key
from facesnap.remedies import remedy

CLASS_EMBEDDINGS = (
    "vision_model.embeddings.class_embedding", "visual.class_embedding", "class_embedding",
    "visual.cls_token", "visual.trunk.cls_token", "cls_token",  # of EVA-CLIP's tower
)  # fmt: skip


def encoder_of(fingerprint: str, name: str, model_dirs: Iterable[str | os.PathLike] = ()) -> Path:
    """The file of an adapter's encoder.

    Args:
        fingerprint: `ImageEncoder.fingerprint`; empty where the adapter only has a name.
        name: `ImageEncoder.name` such as "ViT-H/14 1280x32 proj1024", or the name of a file.

    Raises:
        EncoderError: none of the files is that encoder; says where they were looked for. Or the adapter names none.
    """
    if not fingerprint and not name:
        raise EncoderError(
            "The adapter looks at pictures, but does not say through which image encoder.",
            expected="a public file of the published widths, or a FaceSnap checkpoint that names its encoder",
            remedy=f"fetch the adapter again, or {remedy('give an encoder')}",
        )
    model_dirs = list(model_dirs)
    if fingerprint:
        for file in candidates(model_dirs):
            if _fingerprint(file, file.stat().st_mtime_ns) == fingerprint:
                return file
    known = encoder_key(name)
    try:
        return find_encoder(known, model_dirs)
    except EncoderError as error:
        source = ENCODER_SOURCES.get(known, "the encoder that comes with the adapter")
        places = ", ".join(map(str, encoder_parents(model_dirs))) or "no folder of models is known"
        raise EncoderError(
            f"The image encoder {name} was not found.",
            expected=f"{' or '.join(ENCODER_FILES.get(known, ('its .safetensors file',)))} in one of: {places}",
            remedy=advice(known, f"download {source} into models/clip_vision"),
        ) from error


def candidates(model_dirs: Iterable[str | os.PathLike] = ()) -> Iterator[Path]:
    """Files that may be image encoders: those of the usual folders, and one folder deeper."""
    seen: set[Path] = set()
    for parent in encoder_parents(model_dirs):
        for file in sorted([*parent.glob("*"), *parent.glob("*/*")]) if parent.is_dir() else []:
            if file.suffix.lower() in SUFFIXES and file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


@lru_cache(maxsize=1024)
def _fingerprint(file: Path, mtime_ns: int) -> str:
    """Of a .safetensors file, by one small tensor; "" of others, and of pickles, which would have to be read whole."""
    from safetensors import SafetensorError, safe_open

    if file.suffix.lower() != ".safetensors":
        return ""
    try:
        with safe_open(file, framework="pt") as opened:
            names = set(opened.keys())
            found = next((name for name in CLASS_EMBEDDINGS if name in names), None)
            return "" if found is None else fingerprint_of(opened.get_tensor(found))
    except (OSError, SafetensorError, ValueError):
        return ""
