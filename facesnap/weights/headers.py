"""The kind of a weight file by names and shapes inside it: no tensor is read, nothing is unpickled or hashed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from facesnap.checkpoints import layout, native
from facesnap.checkpoints.files import TensorFile, names_in_damaged, read_outline
from facesnap.errors import CheckpointError
from facesnap.families import registry

ADAPTER, FAMILY, IDENTITY, OTHER = "facesnap", "family", "identity", "other"


@dataclass(frozen=True)
class Header:
    """The facts that a file states about itself.

    Attributes:
        kind: "facesnap" (our own adapters), "family" (public adapters), "identity" or "other".
        metadata: our own files' metadata, for names, licences and base models.
        base: "sd15" or "sdxl" where the file shows it, else empty.
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
    if registry.family_of_metadata(file.metadata):
        try:
            own = json.loads(file.metadata[native.KEY])
            return Header(ADAPTER, own, str(own.get("base", "")))
        except (ValueError, AttributeError, RecursionError) as error:
            return Header(ADAPTER, problem=f"Its metadata cannot be read ({error}).")
    families = registry.families_of(file.tensors)
    if not families:
        return Header(OTHER)
    try:
        return Header(FAMILY, base=registry.find(families[0]).base_of(file.tensors, where), families=families)
    except CheckpointError as error:
        return Header(FAMILY, families=families, problem=error.what)


def _damaged(path: Path, problem: str) -> Header:
    """A file that cannot be read is of the kind that its names were to make it."""
    names = names_in_damaged(path)
    if registry.family_of_metadata(names):
        return Header(ADAPTER, problem=problem)
    tops = {layout.PARTS.get(part) for name in names for part in name.split(".")}
    return Header(FAMILY if {"image_proj", "processors"} <= tops else OTHER, problem=problem)
