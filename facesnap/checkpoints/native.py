"""Our own format: one .safetensors file with the mixer, the ID projections and metadata."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facesnap.attach.conditioning import Rule
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.checkpoints.files import read_file
from facesnap.errors import CheckpointError, FaceSnapError
from facesnap.models.lora import AttentionLora
from facesnap.models.mixers import Mixer, empty_mixer
from facesnap.models.projections import IDProjections

KEY = "facesnap"  # of the metadata
VERSION = 1
_FETCH_AGAIN = "the file is damaged or of another kind; fetch or convert it again"


def save(adapter: Adapter, path: Path | str) -> None:
    """Write an adapter; the file appears whole or not at all.

    Args:
        path: where to; an existing file is replaced.
    """
    path = Path(path)
    tensors = {f"mixer.{k}": v for k, v in adapter.mixer.state_dict().items()}
    tensors |= {f"projections.{k}": v for k, v in adapter.projections.state_dict().items()}
    tensors |= adapter.lora.tensors() if adapter.lora else {}
    tensors = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata=_metadata(adapter))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path | str) -> Adapter:
    """Read an adapter; every name, shape and value is checked before it is returned.

    Raises:
        CheckpointError: missing, truncated, not safetensors, foreign, of an unknown version; tensors missing, extra,
            of a wrong shape, or holding NaN or infinity; metadata that contradicts the tensors.
    """
    path = Path(path)
    file = read_file(path)
    spec, counts = _parse(path, file.metadata)
    lora, state = AttentionLora.split(file.tensors)
    return Adapter(spec, *build(state, spec, counts, path.name), digest=sha256_of(path), lora=lora)


def build(
    state: Mapping[str, Tensor], spec: AdapterSpec, counts: Mapping[str, Any] | None, where: str
) -> tuple[Mixer, IDProjections]:
    """Networks from tensors named `mixer.*` and `projections.*`.

    Args:
        counts: "levels" and "tokens" as the metadata tells them; they must agree with the tensors. None:
            the file has no metadata.
        where: name of the source, for messages.
    """
    parts: dict[str, dict[str, Tensor]] = {"mixer": {}, "projections": {}}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise CheckpointError(
                f"{where} holds the tensor {name}, {tuple(tensor.shape)}.",
                expected="only tensors named mixer.* and projections.*",
                remedy="update FaceSnap if the file is newer, else fetch it again",
            )
        parts[part][rest] = tensor
    try:
        mixer = empty_mixer(parts["mixer"], shortcut=spec.shortcut, dim_head=spec.dim_head)
        projections = IDProjections.from_state_dict(parts["projections"])
    except FaceSnapError as error:
        raise CheckpointError(f"{where}: {error.what}", expected=error.expected, remedy=error.remedy) from error
    for module, part in ((mixer, "mixer"), (projections, "projections")):
        _assign(module, parts[part], f"{where}: {part}.")
    _check_counts(mixer, projections, _counts(mixer) if counts is None else counts, where)
    return mixer.eval(), projections.eval()


def _metadata(adapter: Adapter) -> dict[str, str]:
    """One key with JSON: safetensors writes several keys in no fixed order, and equal adapters make equal files."""
    spec = dataclasses.asdict(adapter.spec) | {"rule": adapter.spec.rule.value, "format_version": VERSION}
    return {KEY: json.dumps(spec | _counts(adapter.mixer), ensure_ascii=False, sort_keys=True)}


def _counts(mixer: Mixer) -> dict[str, Any]:
    return {"levels": list(mixer.config.clip_levels), "tokens": dict(mixer.config.token_counts)}


def _parse(path: Path, metadata: Mapping[str, str]) -> tuple[AdapterSpec, dict[str, Any]]:
    if KEY not in metadata:
        raise CheckpointError(
            f"{path.name} is not a FaceSnap checkpoint.",
            expected=f"safetensors metadata with the key {KEY!r}",
            remedy="choose a FaceSnap checkpoint, or convert the file",
        )
    try:
        values = json.loads(metadata[KEY])
        version = values.pop("format_version")
        if version != VERSION:
            raise CheckpointError(
                f"{path.name} has format version {version!r}.", expected=f"version {VERSION}", remedy="update FaceSnap"
            )
        counts = {key: values.pop(key) for key in ("levels", "tokens")}
        values["rule"] = Rule(values["rule"])
        spec = AdapterSpec(**values)
        _check_types(spec)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The metadata of {path.name} cannot be read ({type(error).__name__}: {error}).",
            expected="the fields of AdapterSpec, levels and tokens as JSON",
            remedy=_FETCH_AGAIN,
        ) from error
    return spec, counts


def _check_types(spec: AdapterSpec) -> None:
    defaults = AdapterSpec(base="sd15", recogniser="")
    for f in dataclasses.fields(spec):
        value, like = getattr(spec, f.name), getattr(defaults, f.name)
        number = type(like) is float and type(value) in (int, float)
        if type(value) is not type(like) and not number:
            raise TypeError(f"{f.name} is {value!r}")


def _assign(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Give a module on the meta device its tensors, after comparing all names, shapes and values."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    missing = [f"{n} {s}" for n, s in wanted.items() if n not in state]
    extra = [f"{n} {tuple(t.shape)}" for n, t in state.items() if n not in wanted]
    wrong = [
        f"{n} {tuple(state[n].shape)} instead of {s}"
        for n, s in wanted.items()
        if n in state and tuple(state[n].shape) != s
    ]
    for kind, names in (("missing", missing), ("extra", extra), ("of a wrong shape", wrong)):
        if names:
            raise CheckpointError(
                f"{where}* has {len(names)} tensors {kind}: {', '.join(names[:4])}.",
                expected=f"exactly the {len(wanted)} tensors of this mixer and these projections",
                remedy=_FETCH_AGAIN,
            )
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{where}{name} ({tensor.dtype}) holds NaN, infinity or no floating-point numbers.",
                expected="finite floating-point numbers",
                remedy="the training diverged or the file is damaged; use another checkpoint",
            )
    module.load_state_dict(dict(state), assign=True)


def _check_counts(mixer: Mixer, projections: IDProjections, counts: Mapping[str, Any], where: str) -> None:
    found = _counts(mixer)
    groups = set(found["tokens"])
    for told, read, what in (
        (counts["levels"], found["levels"], "CLIP levels"),
        (counts["tokens"], found["tokens"], "token counts"),
        (sorted(projections.groups), sorted(groups), "token groups of the projections"),
        (projections.context, mixer.config.context, "context width of the projections"),
    ):
        if told != read:
            raise CheckpointError(
                f"{where}: its {what} are {told}, those of its mixer {read}.",
                expected="metadata, mixer and projections that agree",
                remedy=_FETCH_AGAIN,
            )


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
