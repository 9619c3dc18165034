"""What a weight file is, told by names and shapes inside it: no tensor is read, nothing is unpickled or hashed."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from facesnap.checkpoints import layout, native
from facesnap.checkpoints.files import TensorFile, read_outline
from facesnap.errors import CheckpointError
from facesnap.families import registry

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
ADAPTER, FAMILY, CONTROLNET, IDENTITY, OTHER = "facesnap", "family", "controlnet", "identity", "other"
_LARGEST_HEADER = 32 << 20
_LARGEST_PICKLE = 4 << 20
_CONTROLNET_PARTS = ("controlnet_cond_embedding.", "input_hint_block.", "control_model.", "zero_convs.")


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        kind: "facesnap" (our own adapters), "family" (public adapters), "controlnet", "identity" or "other".
        metadata: our own files' metadata, for names, licences and base models.
        base: "sd15" or "sdxl" where the file tells, else empty.
        families: of a public adapter, those that its tensors allow (see `registry.families_of`).
        problem: why the file cannot be used although it looks like an adapter, else empty.
    """

    kind: str
    metadata: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    families: tuple[str, ...] = ()
    problem: str = ""


def read_header(path: Path) -> Header:
    """The header of a weight file; files that are no weights are "other". Remembered until size or time change."""
    try:
        status = path.stat()
    except OSError:
        return Header(OTHER)
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: Path, size: int, mtime_ns: int) -> Header:
    try:
        return _header(read_outline(path), path.name)
    except CheckpointError as error:
        return _damaged(path, error.what)
    except OSError as error:
        return Header(OTHER, problem=str(error))


def _header(file: TensorFile, where: str) -> Header:
    if file.metadata.get("format") == "facesnap-identity":
        return Header(IDENTITY, file.metadata)
    if native.KEY in file.metadata:
        try:
            own = json.loads(file.metadata[native.KEY])
            return Header(ADAPTER, own, str(own.get("base", "")))
        except (ValueError, AttributeError, RecursionError) as error:
            return Header(ADAPTER, problem=f"Its metadata cannot be read ({error}).")
    families = registry.families_of(file.tensors)
    if not families:
        return Header(CONTROLNET if _is_controlnet(file.tensors) else OTHER)
    return _family(file.tensors, families, where)


def _family(tensors: dict[str, Tensor], families: tuple[str, ...], where: str) -> Header:
    try:
        return Header(FAMILY, base=layout.base_of(tensors, where), families=families)
    except CheckpointError as error:
        return Header(FAMILY, families=families, problem=error.what)


def _damaged(path: Path, problem: str) -> Header:
    """What a file that cannot be read was to be: a download cut short still lists its names at the beginning."""
    try:
        names = list(_names(path))
    except (OSError, ValueError, zipfile.BadZipFile, LookupError, NotImplementedError, RuntimeError):
        return Header(OTHER, problem=problem)
    if native.KEY in names:
        return Header(ADAPTER, problem=problem)
    tops = {layout.PARTS.get(name.split(".")[0]) for name in names}
    return Header(FAMILY if {"image_proj", "processors"} <= tops else OTHER, problem=problem)


def _is_controlnet(names: Iterable[str]) -> bool:
    return any(name.startswith(_CONTROLNET_PARTS) for name in names)


def _names(path: Path) -> Iterable[str]:
    """Names in the JSON of a .safetensors file or the pickle of a torch file, read as text or opcodes."""
    with path.open("rb") as file:
        head = file.read(9)
        length = int.from_bytes(head[:8], "little")
        if head[8:] == b"{" and 2 <= length <= _LARGEST_HEADER:
            header = json.loads(b"{" + file.read(length - 1))
            metadata = header.pop("__metadata__", None)
            return [*header, *(metadata if isinstance(metadata, dict) else ())]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = next((i for i in archive.infolist() if i.filename.endswith("data.pkl")), None)
            if inner is None or inner.file_size > _LARGEST_PICKLE:
                return []
            return list(_texts(archive.read(inner)))
    with path.open("rb") as file:  # older torch, or a zip that lost its end: the pickle stands at the beginning
        beginning = file.read(_LARGEST_PICKLE)
    start = beginning.find(b"\x80\x02") if beginning.startswith(b"PK") else 0
    return list(_texts(beginning[max(start, 0) :]))


def _texts(pickles: bytes) -> Iterable[str]:
    stream = io.BytesIO(pickles)  # old torch files: several pickles in a row, then raw data
    while stream.tell() < len(pickles):
        try:
            for _, value, _ in pickletools.genops(stream):
                if isinstance(value, str):
                    yield value
        except (ValueError, IndexError):
            return
