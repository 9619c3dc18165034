"""What a weight file is, told by names inside it alone: no tensor is read, nothing is unpickled, nothing is hashed."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
ADAPTER, FAMILY, CONTROLNET, IDENTITY, OTHER = "facesnap", "family", "controlnet", "identity", "other"
_LARGEST_HEADER = 64 << 20
_LARGEST_PICKLE = 8 << 20
# Top-level names of the public adapters of the same family (IP-Adapter, InstantID, PuLID).
_FAMILY_TOPS = {"image_proj", "ip_adapter", "id_adapter", "id_adapter_attn_layers"}
_CONTROLNET_PARTS = ("controlnet_cond_embedding.", "input_hint_block.", "control_model.", "zero_convs.")


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        kind: "facesnap" (our own adapters), "family" (public adapters), "controlnet", "identity" or "other".
        metadata: our own files' metadata, for names, licences and base models.
    """

    kind: str
    metadata: dict[str, Any]

    @property
    def base(self) -> str:
        """ "sd15" or "sdxl" where the file tells, else empty."""
        return str(self.metadata.get("base", ""))


def read_header(path: Path) -> Header:
    """The header of a weight file; files that cannot be read are "other". Remembered until size or time change."""
    try:
        status = path.stat()
    except OSError:
        return Header(OTHER, {})
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: Path, size: int, mtime_ns: int) -> Header:
    try:
        if path.suffix.lower() == ".safetensors":
            return _safetensors(path)
        return Header(_kind(_pickled_names(path)), {})
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, IndexError):
        return Header(OTHER, {})  # a download cut short, or no weights at all


def _safetensors(path: Path) -> Header:
    """The file begins with the length (8 bytes, little endian) of a JSON object: tensor names, __metadata__."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LARGEST_HEADER:
            return Header(OTHER, {})
        header = json.loads(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        return Header(OTHER, {})
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("format") == "facesnap-identity":
        return Header(IDENTITY, metadata)
    if "facesnap" in metadata:
        own = json.loads(metadata["facesnap"])
        return Header(ADAPTER, own if isinstance(own, dict) else {})
    return Header(_kind(header), {})


def _kind(names: Iterable[str]) -> str:
    names = list(names)
    if _FAMILY_TOPS & {name.split(".")[0] for name in names}:
        return FAMILY
    return CONTROLNET if any(name.startswith(_CONTROLNET_PARTS) for name in names) else OTHER


def _pickled_names(path: Path) -> list[str]:
    """Texts in a torch file's pickle, read as opcodes; nothing is executed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = next((i for i in archive.infolist() if i.filename.endswith("data.pkl")), None)
            if inner is None or inner.file_size > _LARGEST_PICKLE:
                return []
            pickles = archive.read(inner)
    else:
        with path.open("rb") as file:
            pickles = file.read(_LARGEST_PICKLE)
    return list(_texts(pickles))


def _texts(pickles: bytes) -> Iterable[str]:
    stream = io.BytesIO(pickles)  # old torch files: several pickles in a row, then raw data
    while stream.tell() < len(pickles):
        try:
            for _, value, _ in pickletools.genops(stream):
                if isinstance(value, str):
                    yield value
        except (ValueError, IndexError):
            return
