"""Frozen files: where they lie, how they are read, and networks kept as names and shapes instead of weights.

A network's file is kept as JSON of its header: the metadata and each tensor's name, type and shape. `thaw` writes the
whole file again with values drawn by each tensor's name, so that no order of modules matters.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATA, PICTURES, IDENTITIES, CHECKPOINTS = (HERE / name for name in ("data", "pictures", "identities", "checkpoints"))
MODELS, PREPARED = HERE / "models", HERE / "prepared"
HEADER = ".header.json"
_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def load(name: str) -> Any:
    """One of the frozen JSON files."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def save(name: str, value: Any, folder: Path = DATA) -> None:
    """Write one, an entry a line where it is a list or an object."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_short(one)}" for key, one in value.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(map(_short, value)) + "\n]\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def header_of(file: Path) -> dict[str, Any]:
    """Metadata and tensors of a safetensors file: {"metadata": {...}, "tensors": {name: [type, *shape]}}."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        found = json.loads(stream.read(size))
    metadata = found.pop("__metadata__", {})
    tensors = {name: [found[name]["dtype"], *found[name]["shape"]] for name in sorted(found)}
    return {"metadata": metadata, "tensors": tensors}


def freeze(file: Path, out: Path) -> None:
    """Keep a safetensors file's header."""
    save(out.name + HEADER.removesuffix(".json"), header_of(file), out.parent)


def freeze_folder(folder: Path, out: Path) -> None:
    """Keep a folder of a model: its small files as they are, its networks' headers."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            freeze(file, target)
        else:
            shutil.copyfile(file, target)


def frozen_header(name: str) -> dict[str, Any]:
    """The header of a frozen file below `models`."""
    return json.loads((MODELS / (name + HEADER)).read_text(encoding="utf-8"))


def thaw(name: str, out: Path) -> Path:
    """Write a network again. name: of the frozen file, below `models`. out: file to write."""
    from safetensors.numpy import save_file

    header = frozen_header(name)
    tensors = {key: _draw(key, kind, tuple(shape)) for key, (kind, *shape) in header["tensors"].items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, header["metadata"])
    return out


def thaw_folder(name: str, out: Path) -> Path:
    """Write a folder of a model again."""
    source = MODELS / name
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target = out / file.relative_to(source)
        if file.name.endswith(HEADER):
            thaw(file.relative_to(MODELS).as_posix().removesuffix(HEADER), Path(str(target).removesuffix(HEADER)))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return out


def _draw(name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values by name that keep activations at a magnitude of about 1."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) <= 1:
        values = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
    else:
        gain = 1.7 if "cond_embedding" in name else 1.0
        values = gain * noise / math.sqrt(math.prod(shape[1:]))
    return np.asarray(values, dtype=_TYPES[kind])


def masked(text: str) -> str:
    """An infotext without what may differ with a machine's arithmetic or a version: hashes and the version."""
    return re.sub(r"\[[0-9a-f]{10}\]", "[HASH]", re.sub(r"FaceSnap version: [^,\n]+", "FaceSnap version: X", text))


def differences(now: Any, before: Any, where: str = "", near: float = 0.0) -> list[str]:
    """Every difference of two plain values, by its place.

    Args:
        near: by how much numbers with a fraction may differ, as a share of the larger one or of 1.
    """
    if isinstance(now, dict) and isinstance(before, dict):
        found = [f"{where}.{key} is gone" for key in before if key not in now]
        found += [f"{where}.{key} is new" for key in now if key not in before]
        for key in before:
            found += differences(now[key], before[key], f"{where}.{key}", near) if key in now else []
        return found
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        pairs = enumerate(zip(now, before, strict=True))
        return [one for n, pair in pairs for one in differences(*pair, f"{where}[{n}]", near)]
    if isinstance(now, float) and isinstance(before, float) and abs(now - before) <= near * max(1.0, abs(before)):
        return []
    return [] if now == before and type(now) is type(before) else [f"{where} was {before!r}, is {now!r}"]
