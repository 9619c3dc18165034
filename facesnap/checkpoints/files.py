"""Reading files that nobody vouches for: .safetensors and torch pickles -> tensors by name.

Nothing in a file is executed, what it says of itself is never believed, and the tensors stay mapped to the file, so
that reading takes no more memory than the file has bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from facesnap.checkpoints import pickles
from facesnap.errors import CheckpointError

MOST_BYTES = 64 << 30
MOST_HEADER_BYTES = 32 << 20
MOST_SHARED_BYTES = 16 << 20  # by which views of one storage may exceed a file: EVA-CLIP saves its tables per block
MOST_TENSORS = 50_000
LONGEST_NAME = 400
DEEPEST = 4  # dictionaries inside dictionaries
FETCH_AGAIN = "the download was cut short, or the file is damaged or of another kind; fetch it again"
READER_ERRORS = (
    pickle.UnpicklingError, OSError, EOFError, MemoryError, ValueError, RuntimeError, LookupError, TypeError,
    AttributeError, OverflowError, AssertionError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        tensors: by name; names of nested dictionaries are joined by dots.
        metadata: of a .safetensors file; empty for pickles.
        kind: "safetensors" or "pickle", by content and not by suffix.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    kind: str


def read_file(path: Path | str) -> TensorFile:
    """Read a file of tensors, on the CPU, in the dtypes that it has.

    Args:
        path: .safetensors, or .bin, .pt, .pth, .ckpt as torch.save has written it since 1.6.

    Raises:
        CheckpointError: missing, truncated, damaged, of another kind; a pickle that holds or does anything but
            dictionaries of tensors; tensors that claim more than the file has.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint file {path}.",
            expected="a .safetensors file, or a .bin, .pt or .pth of torch",
            remedy="correct the path",
        )
    size = path.stat().st_size
    if not 16 <= size <= MOST_BYTES:
        raise _unreadable(path, f"it has {size} bytes")
    kind = _kind(path, size)
    file = _read_pickle(path) if kind == "pickle" else _read_safetensors(path)
    _check_tensors(path, file.tensors, size)
    return file


def _kind(path: Path, size: int) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        if path.suffix.lower() == ".safetensors":  # torch goes by the suffix
            raise _unreadable(path, "it is a pickle of torch under the name of a .safetensors file; call it .bin")
        return "pickle"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length + 8 <= size:
        if length > MOST_HEADER_BYTES:
            raise _unreadable(path, f"its header takes {length} bytes")
        return "safetensors"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        raise _unreadable(path, "it is a web page or a message of a server")
    if text.startswith(b"version https://git-lfs"):
        raise _unreadable(path, "it is a pointer of git-lfs, not the file itself")
    if path.suffix.lower() == ".safetensors":
        raise _unreadable(path, "it cannot be read as safetensors")
    raise _unreadable(path, "it is no archive of torch; files older than torch 1.6 have to be saved again")


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if len(names) > MOST_TENSORS:
                raise _unreadable(path, f"it lists {len(names)} tensors")
            return TensorFile({n: file.get_tensor(n) for n in names}, dict(file.metadata() or {}), "safetensors")
    except (SafetensorError, *READER_ERRORS) as error:
        raise _unreadable(path, f"it cannot be read as safetensors: {error}") from error


def _read_pickle(path: Path) -> TensorFile:
    problem = pickles.problem_of(path)
    if problem:
        raise _unreadable(path, problem)
    try:
        # torch.serialization.load: WebUIs replace torch.load by one that returns None. 2.1 wants a str for mmap.
        content = torch.serialization.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, *READER_ERRORS) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _unreadable(path, first) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # of a training checkpoint; its counters and such are of no use here
    if not isinstance(content, dict):
        raise _unreadable(path, f"it holds a {type(content).__name__}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in _leaves(path, content, "", DEEPEST):
        if name in tensors or len(tensors) >= MOST_TENSORS:
            raise _unreadable(path, f"it holds {name[:80]} twice, or more than {MOST_TENSORS} tensors")
        tensors[name] = tensor
    return TensorFile(tensors, {}, "pickle")


def _leaves(path: Path, content: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if depth == 0 or not content:
        raise _unreadable(path, f"its dictionary {prefix[:80]} is empty or nested too deeply")
    for key, value in content.items():
        name = f"{prefix}{key}"
        if not isinstance(key, (str, int)) or len(name) > LONGEST_NAME:
            raise _unreadable(path, f"it has an entry named {name[:80]!r}")
        if isinstance(value, Tensor):
            yield name, value.detach()
        elif isinstance(value, dict):
            yield from _leaves(path, value, f"{name}.", depth - 1)
        else:
            raise _unreadable(path, f"its entry {name} is a {type(value).__name__}")


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """No tensor claims more than it has, and all together little more than the file: views repeat a storage freely."""
    if not tensors:
        raise _unreadable(path, "it holds no tensor")
    total = 0
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() == 0 or len(name) > LONGEST_NAME:
            raise _unreadable(path, f"its tensor {name[:80]} is {tuple(tensor.shape)}, {tensor.layout}, not plain")
        nbytes = tensor.numel() * tensor.element_size()
        total += nbytes
        if nbytes > tensor.untyped_storage().nbytes() or total > size + MOST_SHARED_BYTES:
            raise _unreadable(path, f"its tensor {name} {tuple(tensor.shape)} claims more than the file's {size} bytes")


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} cannot be used: {reason[:300]}.",
        expected="a whole file of tensors: safetensors, or a pickle of dictionaries of tensors alone",
        remedy=FETCH_AGAIN,
    )
