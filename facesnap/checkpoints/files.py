"""Reading files of unknown origin: .safetensors and torch pickles -> tensors by name.

Nothing in a file is executed, what it says of itself is never believed, and the tensors stay mapped to the file, so
that reading takes no more memory than the file has bytes.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from facesnap.checkpoints import downloads, float8, listings, pickles
from facesnap.checkpoints.inert import OBJECTS, ONLY_OBJECTS, Foreign, Outline
from facesnap.checkpoints.layout import PARTS, in_part, split_parts
from facesnap.errors import CheckpointError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of weights, lower case
MOST_BYTES = 64 << 30
MOST_HEADER_BYTES = 32 << 20
MOST_SHARED_BYTES = 16 << 20  # by which views of one storage may exceed a file: EVA-CLIP saves its tables per block
MOST_NAMES = 2  # of one tensor: IP-Adapter's trainers save each processor below the UNet and below adapter_modules
MOST_TENSORS = 50_000
MOST_ENTRIES = 200_000  # of nested dictionaries, whatever they hold
LONGEST_NAME = 400
DEEPEST = 4  # dictionaries inside dictionaries
STATE_DICT = "state_dict."
FETCH_AGAIN = "the download was cut short, or the file is damaged or of another kind; fetch it again"
SAVE_AGAIN = (
    "take the .safetensors file of the same weights, or save the weights alone in the program that made it (a WebUI's "
    "checkpoint merger writes .safetensors)"
)
# Of the elements in pickles (keys of inert.STORAGES) and in safetensors, as each names them.
DTYPES = {"Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64,
          "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
          "Bool": torch.bool, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
          "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}  # fmt: skip

_HEADER_NAME = re.compile(rb'"([^"\\]{1,400})": ?\{"dtype"')

Leaf = TypeVar("Leaf")


@dataclass(frozen=True)
class TensorFile:
    """The content of a file.

    Attributes:
        tensors: by name; names of nested dictionaries are joined by dots. What else a training checkpoint holds
            beside them (counters, settings, lists, objects) is left out.
        metadata: of a .safetensors file; empty for pickles.
        kind: "safetensors" or "pickle", by content and not by suffix.
        objects: classes of the first Python objects that were left out of a pickle, which torch alone does not read.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    kind: str
    objects: tuple[str, ...] = ()


def read_file(path: Path | str) -> TensorFile:
    """Read a file of tensors, on the CPU, in the dtypes that it has; float8 is raised (see `float8.raised`).

    Args:
        path: .safetensors, or .bin, .pt, .pth, .ckpt as torch.save writes or wrote it.

    Raises:
        CheckpointError: missing, truncated, damaged, of another kind; a pickle that names what can run programs, holds
            objects in the places of tensors or no dictionary of tensors; tensors that claim more than the file has.
    """
    return _read(Path(path), data=True)


def read_outline(path: Path | str) -> TensorFile:
    """The same as `read_file`, with tensors on the meta device: names, shapes and the file's dtypes, no data.

    It takes milliseconds and a few kilobytes for files of any size: only the header, or a pickle's list, is read.

    Raises:
        CheckpointError: as `read_file`, for every fault that shows without the data.
    """
    return _read(Path(path), data=False)


def _read(path: Path, data: bool) -> TensorFile:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is a folder." if path.is_dir() else f"There is no checkpoint file {path}.",
            expected="a .safetensors file, or a .bin, .pt, .pth or .ckpt of torch",
            remedy=_weights_in(path) if path.is_dir() else "correct the path",
        )
    size = path.stat().st_size
    if fault := downloads.fault_of(path):
        raise _refusal(path, fault.reason, "a whole file of weights", fault.remedy)
    if not 16 <= size <= MOST_BYTES:
        raise _unreadable(path, f"it has {size} bytes")
    file = _read_pickle(path, data) if _kind(path, size) == "pickle" else _read_safetensors(path, data)
    tensors = _without_empty(path, file.tensors)
    _check_tensors(path, tensors, size, "cpu" if data else "meta")
    return replace(file, tensors=float8.raised(tensors, path.name))


def _weights_in(folder: Path) -> str:
    """The remedy for a folder in the place of a file: the first few weights right inside it."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"give one of its files: {', '.join(names[:5])}{more}" if names else "give a file; it holds no weights itself"
    )


def _kind(path: Path, size: int) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith((b"PK\x03\x04", listings.OLD)):
        if path.suffix.lower() == ".safetensors":  # torch goes by the suffix
            raise _unreadable(path, "it is a pickle of torch under the name of a .safetensors file; call it .bin")
        return "pickle"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length + 8 <= size:
        if length > MOST_HEADER_BYTES:
            raise _unreadable(path, f"its header takes {length} bytes")
        return "safetensors"
    if head[:4].lower() == b"gguf":
        raise _unreadable(path, "it is a GGUF file, whose weights are quantised in blocks")
    if path.suffix.lower() == ".safetensors":
        raise _unreadable(path, "it cannot be read as safetensors")
    raise _unreadable(path, "it is no archive of torch")


def _read_safetensors(path: Path, data: bool) -> TensorFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if len(names) > MOST_TENSORS:
                raise _unreadable(path, f"it lists {len(names)} tensors")
            if data:
                tensors = {name: file.get_tensor(name) for name in names}
            else:
                parts = {name: file.get_slice(name) for name in names}
                tensors = {n: _outline(part.get_shape(), part.get_dtype()) for n, part in parts.items()}
            return TensorFile(tensors, dict(file.metadata() or {}), "safetensors")
    except (SafetensorError, *pickles.DAMAGE) as error:
        raise _unreadable(path, f"it cannot be read as safetensors: {error}") from error


def _outline(shape: Sequence[int], kind: str) -> Tensor:
    return torch.empty(tuple(shape), dtype=DTYPES[kind], device="meta")


def _read_pickle(path: Path, data: bool) -> TensorFile:
    listing = listings.listing_of(path)
    if listing.problem:
        raise _unreadable(path, listing.problem)
    if data and listing.places is None:
        found = _flat(path, _load(path), Tensor)
        return TensorFile({name: tensor.detach() for name, tensor in found.items()}, {}, "pickle")
    outlines = _flat(path, listing.content, Outline)
    try:
        if data and listing.places is not None:
            tensors = listings.mapped(path, outlines, listing.places, DTYPES)
        else:
            tensors = {name: _outline(outline.shape, outline.kind) for name, outline in outlines.items()}
    except (RuntimeError, OverflowError) as error:
        raise _unreadable(path, f"a tensor of an impossible size ({error})") from error
    if listing.objects:
        _check_objects(path, listing, tensors)
    return TensorFile(tensors, {}, "pickle", listing.objects)


def _load(path: Path) -> Any:
    """The content of a plain archive of tensors, by torch."""
    try:
        # torch.serialization.load: WebUIs replace torch.load by one that returns None. 2.1 wants a str for mmap.
        return torch.serialization.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, *pickles.DAMAGE) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # whose advice is to run whatever is in the file
            first = f"torch {torch.__version__} does not read this pickle"
        raise _unreadable(path, first) from error


def _check_objects(path: Path, listing: listings.Listing, tensors: Mapping[str, Tensor]) -> None:
    """Raise where an object stands in the place of a tensor or of a part; elsewhere objects do not matter."""
    if not tensors:
        raise _unreadable(path, f"{ONLY_OBJECTS} ({', '.join(listing.objects)})")
    whole = split_parts(tensors) is not None
    for name, found in _leaves(path, listing.content, Foreign):
        last = name.rpartition(".")[2]
        inside = in_part(name) and last in ("weight", "bias", "latents")
        if inside or (not whole and not found and (in_part(name) or last in PARTS)):
            raise CheckpointError(
                f"{path.name} cannot be used: its {name[:80]} is {found.path[:80]}, an object and no "
                f"{'tensor' if inside else 'dictionary of tensors'}.",
                expected="the tensors themselves (a module's state_dict(), weights that are not packed or sharded)",
                remedy=SAVE_AGAIN,
            )


def _flat(path: Path, content: Any, leaf: type[Leaf]) -> dict[str, Leaf]:
    """The leaves of nested dictionaries by name; of a training checkpoint, those of its state dict."""
    if not isinstance(content, dict):
        raise _unreadable(path, f"it holds a {type(content).__name__}")
    found: dict[str, Leaf] = {}
    for name, value in _leaves(path, content, leaf):
        if name in found or len(found) >= MOST_TENSORS:
            raise _unreadable(path, f"it holds {name[:80]} twice, or more than {MOST_TENSORS} tensors")
        found[name] = value
    inside = {name.removeprefix(STATE_DICT): value for name, value in found.items() if name.startswith(STATE_DICT)}
    beside = {name.split(".")[0] for name in found}
    return found if not inside or beside & PARTS.keys() else inside


def _leaves(path: Path, content: Mapping[Any, Any], leaf: type[Leaf]) -> Iterator[tuple[str, Leaf]]:
    waiting, seen = deque([("", content, DEEPEST)]), 0
    while waiting:
        prefix, inner, depth = waiting.popleft()
        for key, value in inner.items():
            seen += 1
            if seen > MOST_ENTRIES:
                raise _unreadable(path, f"it has more than {MOST_ENTRIES} entries")
            if not isinstance(key, (str, int)):  # no name of a tensor
                continue
            name = f"{prefix}{key}"
            long = len(name) > LONGEST_NAME
            if isinstance(value, leaf):
                if long:
                    raise _unreadable(path, f"it has an entry named {name[:80]!r}...")
                yield name, value
            elif isinstance(value, dict) and depth > 1 and not long:  # deeper ones hold no part of an adapter
                waiting.append((f"{name}.", value, depth - 1))


def _without_empty(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with elements, and markers of float8: trainers keep empty ones beside the weights, and in their
    places where the weights are spread over several files."""
    kept = {name: tensor for name, tensor in tensors.items() if tensor.numel() or float8.is_marker(name)}
    empty = next((name for name in tensors if name not in kept and in_part(name)), None)
    if empty is not None:
        raise CheckpointError(
            f"{path.name} cannot be used: its tensor {empty[:80]} is empty.",
            expected="the weights themselves; training that spreads them over several files (ZeRO stage 3, FSDP) "
            "leaves empty tensors in their places",
            remedy="gather the weights into one file with the program that saved it (DeepSpeed: zero_to_fp32.py beside "
            "the checkpoint), or fetch it again",
        )
    return kept


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], size: int, device: str) -> None:
    """No tensor claims more than it has, and all together little more than the file: views repeat a storage freely."""
    if not tensors:
        raise _unreadable(path, "it holds no tensor")
    total = 0
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and tensor.device.type == device and not tensor.is_quantized
        if not plain or len(name) > LONGEST_NAME:
            raise _unreadable(path, f"its tensor {name[:80]} is {tuple(tensor.shape)}, {tensor.layout}, not plain")
        nbytes = tensor.numel() * tensor.element_size()
        total += nbytes
        if nbytes > tensor.untyped_storage().nbytes() or total > MOST_NAMES * size + MOST_SHARED_BYTES:
            raise _unreadable(path, f"its tensor {name} {tuple(tensor.shape)} claims more than the file's {size} bytes")


def _unreadable(path: Path, reason: str) -> CheckpointError:
    if reason.startswith((OBJECTS, ONLY_OBJECTS)):
        return _refusal(path, reason, "tensors alone, since objects of a pickle can run any program", SAVE_AGAIN)
    expected = "a whole file of tensors: safetensors, or a pickle of dictionaries of tensors alone"
    return _refusal(path, reason, expected, FETCH_AGAIN)


def _refusal(path: Path, reason: str, expected: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"{path.name} cannot be used: {reason[:300]}.", expected=expected, remedy=remedy)


def names_in_damaged(path: Path) -> list[str]:
    """Names of tensors and keys of metadata in a file that `read_file` refuses, as far as they can be made out.

    A download cut short still lists its names at the beginning: in the JSON of a .safetensors file, or in the pickle
    of a torch file, read as text and opcodes. Nothing is executed; empty where there are none.
    """
    try:
        return list(_damaged_names(path))
    except pickles.DAMAGE:
        return []


def _damaged_names(path: Path) -> Iterable[str]:
    with path.open("rb") as file:
        head = file.read(9)
        length = int.from_bytes(head[:8], "little")
        if head[8:] == b"{" and 2 <= length <= MOST_HEADER_BYTES:
            text = b"{" + file.read(length - 1)
            if len(text) < length:  # cut short within the names
                return [name.decode("utf-8", "replace") for name in _HEADER_NAME.findall(text)]
            header = json.loads(text)
            metadata = header.pop("__metadata__", None)
            return [*header, *(metadata if isinstance(metadata, dict) else ())]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = next((i for i in archive.infolist() if i.filename.endswith("data.pkl")), None)
            if inner is None or inner.file_size > pickles.MOST_PICKLE_BYTES:
                return []
            return _texts(archive.read(inner))
    with path.open("rb") as file:  # older torch, or a zip that lost its end: the pickle stands at the beginning
        beginning = file.read(pickles.MOST_PICKLE_BYTES)
    start = beginning.find(b"\x80\x02") if beginning.startswith(b"PK") else 0
    return _texts(beginning[max(start, 0) :])


def _texts(data: bytes) -> list[str]:
    """The strings of several pickles in a row (old torch files), up to the raw data behind them."""
    stream, found = io.BytesIO(data), []
    try:
        while stream.tell() < len(data):
            for _, value, _ in pickletools.genops(stream):
                if isinstance(value, str):
                    found.append(value)  # what was found before a fault counts
    except (ValueError, IndexError):
        pass
    return found
