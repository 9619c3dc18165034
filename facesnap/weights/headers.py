"""The kind of a weight file by names and shapes inside it: no tensor is read, nothing is unpickled or hashed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from facesnap.checkpoints import downloads, layout, native
from facesnap.checkpoints.files import TensorFile, names_in_damaged, read_outline
from facesnap.errors import CheckpointError
from facesnap.families import registry

ADAPTER, FAMILY, IDENTITY, NOTHING, OTHER = "facesnap", "family", "identity", "nothing", "other"


@dataclass(frozen=True)
class Header:
    """The facts that a file states about itself.

    Attributes:
        kind: "facesnap" (our own adapters), "family" (public adapters), "identity", "nothing" (what a download left
            in the place of weights) or "other".
        metadata: our own files' metadata, for names, licences and base models.
        base: "sd15" or "sdxl" where the file shows it, else empty.
        families: of a public adapter, those that its tensors allow (see `registry.families_of`).
        problem: why the file cannot be used although it looks like an adapter, or cannot be read, else empty.
        remedy: what to do then.
    """

    kind: str
    metadata: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    families: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""


def read_header(path: Path) -> Header:
    """The header of a weight file; files that are no weights are "other". Remembered until size or time change."""
    try:
        status = path.stat()
    except OSError:
        return _left_over(path)
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: Path, size: int, mtime_ns: int) -> Header:
    try:
        return _header(read_outline(path), path.name)
    except CheckpointError as error:
        return _damaged(path, error)
    except OSError as error:
        return Header(OTHER, problem=str(error))


def _left_over(path: Path) -> Header:
    """Of a file that is nothing but what a download left, or is not there."""
    try:
        fault = downloads.fault_of(path)
    except OSError:
        return Header(OTHER)
    return (
        Header(NOTHING, problem=f"{path.name} cannot be used: {fault.reason}.", remedy=fault.adapter_remedy)
        if fault
        else Header(OTHER)
    )


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
        return Header(FAMILY, families=families, problem=error.what, remedy=error.remedy)


def _damaged(path: Path, error: CheckpointError) -> Header:
    """A file that cannot be read is of the kind that its names were to make it."""
    nothing = _left_over(path)
    if nothing.kind == NOTHING:
        return nothing
    names = names_in_damaged(path)
    tops = {layout.PARTS.get(part) for name in names for part in name.split(".")}
    family = FAMILY if {"image_proj", "processors"} <= tops else OTHER
    kind = ADAPTER if registry.family_of_metadata(names) else family
    return Header(kind, problem=error.what, remedy=error.remedy)
