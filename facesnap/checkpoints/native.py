"""Our own format: one .safetensors file with the mixer, the ID projections, perhaps FFRNet, and metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from facesnap.attach.conditioning import Rule
from facesnap.checkpoints import build
from facesnap.checkpoints.adapter import Adapter, AdapterSpec, FamilyMatch
from facesnap.checkpoints.files import TensorFile, read_file
from facesnap.errors import CheckpointError
from facesnap.files import sha256_of, write_atomically

KEY = "facesnap"  # of the metadata
VERSION = 1


def save(adapter: Adapter, path: Path | str) -> None:
    """Write an adapter; the file appears whole or not at all, and replaces an existing one."""
    path = Path(path)
    tensors = {k: v.detach().to("cpu").contiguous() for k, v in build.state_dict(adapter).items()}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=_metadata(adapter)))


def load(path: Path | str) -> Adapter:
    """Read an adapter; every name, shape and value is checked before it is returned.

    Raises:
        CheckpointError: missing, truncated, not safetensors, foreign, of an unknown version; tensors missing, extra,
            of a wrong shape, or holding NaN or infinity; metadata that contradicts the tensors.
    """
    path = Path(path)
    return from_file(read_file(path), path.name, sha256_of(path), FamilyMatch(KEY, "by its metadata"))


def from_file(file: TensorFile, where: str, digest: str, detection: FamilyMatch) -> Adapter:
    """As `load`, of a file that has been read.

    Args:
        where: its name, for messages. digest: sha256 of its content.
    """
    spec, counts, ffrnet = _parse(where, file.metadata)
    return build.build(file.tensors, spec, counts, ffrnet, where, digest, detection)


def _metadata(adapter: Adapter) -> dict[str, str]:
    """One key with JSON: safetensors writes several keys in no fixed order, and equal adapters make equal files."""
    values = dataclasses.asdict(adapter.spec) | {"rule": adapter.spec.rule.value, "format_version": VERSION}
    values |= build.counts(adapter.mixer)
    if adapter.ffrnet is not None:
        values["ffrnet"] = build.ffrnet_metadata(adapter)
    return {KEY: json.dumps(values, ensure_ascii=False, sort_keys=True)}


def _parse(where: str, metadata: Mapping[str, str]) -> tuple[AdapterSpec, dict[str, Any], dict[str, Any] | None]:
    if KEY not in metadata:
        raise CheckpointError(
            f"{where} is not a FaceSnap checkpoint.",
            expected=f"safetensors metadata with the key {KEY!r}",
            remedy="choose a FaceSnap checkpoint, or convert the file",
        )
    try:
        values = json.loads(metadata[KEY])
        version = values.pop("format_version")
        if version != VERSION:
            raise CheckpointError(
                f"{where} has format version {version!r}.", expected=f"version {VERSION}", remedy="update FaceSnap"
            )
        counts = {key: values.pop(key) for key in ("levels", "tokens")}
        ffrnet = values.pop("ffrnet", None)
        if ffrnet is not None:
            build.check_ffrnet_metadata(ffrnet)
        values["rule"] = Rule(values["rule"])
        spec = AdapterSpec(**values)
        build.check_types(spec, AdapterSpec(base="sd15", recogniser=""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The metadata of {where} cannot be read ({type(error).__name__}: {error}).",
            expected="the fields of AdapterSpec, levels, tokens and perhaps ffrnet as JSON",
            remedy=build.FETCH_AGAIN,
        ) from error
    return spec, counts, ffrnet
