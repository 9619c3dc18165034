"""Is a torch pickle a plain archive of tensors, and of which? Decided before anything of it is unpickled.

`weights_only` alone is not enough: torch up to 2.5.1 hands TorchScript archives to its compiler, deflated entries are
inflated without a bound, and its list of harmless callables can still ask for any amount of memory. So the archive's
directory and every opcode of its pickle are read first, and only what `torch.save` writes for a state dict passes.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

END_RECORD, END_RECORD_BYTES = b"PK\x05\x06", 22
ZIP64_LOCATOR, ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
ZIP64_RECORD, ZIP64_RECORD_BYTES = b"PK\x06\x06", 56
MOST_DIRECTORY_BYTES = 16 << 20
MOST_ENTRIES = 100_000
MOST_PICKLE_BYTES = 4 << 20  # names and shapes only: 850 tensors take less than 0.2 MiB
STORAGES = {"Float": 4, "Half": 2, "BFloat16": 2, "Double": 8, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
            "Bool": 1}  # bytes of an element  # fmt: skip
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")  # one byte an element, in storages without a kind
GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage UntypedStorage",
    *(f"torch {kind}" for kind in FLOAT8),
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in STORAGES),
}
# How problems begin that lie in a pickle alone, whose archive is sound.
OBJECTS = "it holds Python objects beside its tensors"
ONLY_OBJECTS = "it holds Python objects and no tensor"
OPCODE = "its pickle uses the opcode"
TOO_LONG = "its list of tensors takes"
UNTYPED = "Untyped"
# What pickle protocol 2 needs for dictionaries of tensors; no STACK_GLOBAL, INST, OBJ, NEWOBJ, EXT, buffers or frames.
_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINSTRING "
    "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 DICT LIST SETITEM SETITEMS APPEND APPENDS "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL BINPERSID REDUCE BUILD POP DUP"
)
OPCODES = frozenset(_OPCODES.split())
MOST_AXES = 16
DAMAGE = (  # what readers raise over damaged files
    pickle.UnpicklingError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile, struct.error, OSError, EOFError,
    ValueError, LookupError, RuntimeError, ArithmeticError, AssertionError,
)  # fmt: skip


class Outline(NamedTuple):
    """Stands where a tensor is. A tuple: nothing that a pickle does to objects can change it."""

    kind: str  # a key of STORAGES, or one of FLOAT8
    shape: tuple[int, ...]
    # Where it lies, in elements, and in which storage: of pickles that torch does not read (see `inert`).
    offset: int = 0
    stride: tuple[int, ...] = ()
    key: str = ""


class Storage(NamedTuple):
    """Stands where the memory of tensors is."""

    kind: str  # a key of STORAGES, or UNTYPED
    elements: int  # elements; bytes of an untyped one
    key: str = ""
    first: int = 0  # element, where it is a part of a storage


def outline_of(path: Path) -> tuple[str | None, Any]:
    """(problem, content): why a file is no plain archive of tensors, or None and an Outline where a tensor is.

    Reads the archive's directory and the list of tensors, no tensor. Nothing is executed, and memory is bounded by the
    limits above whatever the file says of itself.
    """
    size = path.stat().st_size
    try:
        directory, count = _directory(path, size)
        if directory > MOST_DIRECTORY_BYTES or count > MOST_ENTRIES:
            return f"its directory takes {directory} bytes for {count} entries", None
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) != count:
                return f"its directory lists {len(entries)} entries and claims {count}", None
            problem = _entries_problem(entries, size)
            return (problem, None) if problem else _outline(archive, entries)
    except DAMAGE as error:
        return f"its archive is damaged ({type(error).__name__}: {error})", None


def _directory(path: Path, size: int) -> tuple[int, int]:
    """(bytes, entries) of the zip's central directory, which Python's zipfile would read whole."""
    with path.open("rb") as file:
        tail_bytes = min(size, END_RECORD_BYTES + ZIP64_LOCATOR_BYTES)
        file.seek(size - tail_bytes)
        tail = file.read(tail_bytes)
        end = tail[-END_RECORD_BYTES:]
        # torch writes no comment; with one, two readers of the file could see two different directories.
        if not end.startswith(END_RECORD) or end.count(END_RECORD) != 1 or end[-2:] != b"\0\0":
            raise zipfile.BadZipFile("no end of the directory: the download was cut short, or something was appended")
        here, count, directory, offset = struct.unpack("<HHLL", end[8:20])
        if not tail.startswith(ZIP64_LOCATOR):
            if here != count:
                raise zipfile.BadZipFile("a directory in several files")
            return directory, count
        # Readers take the 64-bit record where there is one; the short one must say the same.
        place = size - END_RECORD_BYTES - ZIP64_LOCATOR_BYTES - ZIP64_RECORD_BYTES
        if place < 0 or struct.unpack("<Q", tail[8:16])[0] != place:
            raise zipfile.BadZipFile("a 64-bit directory whose locator points elsewhere")
        file.seek(place)
        record = file.read(ZIP64_RECORD_BYTES)
        if not record.startswith(ZIP64_RECORD):
            raise zipfile.BadZipFile("a 64-bit directory that is none")
        wide = struct.unpack("<QQQQ", record[24:56])  # entries here, entries, bytes, offset
        for short, long, full in zip((here, count, directory, offset), wide, (16, 16, 32, 32), strict=True):
            if short not in (long, 2**full - 1) or wide[0] != wide[1]:
                raise zipfile.BadZipFile("two directories that contradict each other")
        return wide[2], wide[1]


def _entries_problem(entries: list[zipfile.ZipInfo], size: int) -> str | None:
    names = [entry.filename for entry in entries]
    if len({name.casefold() for name in names}) != len(names):
        return "two of its entries have one name"
    if len({name.split("/")[0] for name in names}) != 1:
        return "its entries do not lie in one folder"
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            return f"its entry {entry.filename[:80]} is compressed or encrypted; torch stores tensors as they are"
    declared = sum(entry.file_size for entry in entries)
    if declared > size:
        return f"its entries claim {declared} bytes in a file of {size}"
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return "it is a TorchScript program"
    if "data.pkl" not in inside:
        return "it holds no data.pkl"
    return None


def _outline(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> tuple[str | None, Any]:
    entry = list_entry(entries)
    if entry.file_size > MOST_PICKLE_BYTES:
        return f"{TOO_LONG} {entry.file_size} bytes", None
    data = archive.read(entry)
    problem = next(_opcode_problems(data), None)
    if problem:
        return problem, None
    claims = _Claims(io.BytesIO(data))
    content = claims.load()
    folder = entry.filename.removesuffix("data.pkl")
    sizes = {e.filename: e.file_size for e in entries}
    # torch maps as many bytes as the pickle claims, whatever the archive says: beyond a storage lies the next one.
    for key, claimed in claims.storages.items():
        if sizes.get(f"{folder}data/{key}") != claimed:
            found = sizes.get(f"{folder}data/{key}")
            return f"a tensor claims {claimed} bytes, its storage {key} has {found}", None
    return None, content


def list_entry(entries: Iterable[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """The entry that lists the tensors."""
    return next(one for one in entries if one.filename.partition("/")[2] == "data.pkl")


class _Claims(pickle.Unpickler):
    """Goes through a pickle whose opcodes have passed, with an Outline for every tensor, and keeps the storages."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections":
            return collections.OrderedDict
        if name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        return {"_rebuild_tensor_v2": _tensor, "_rebuild_tensor_v3": _float8}.get(name) or _Named(name)

    def persistent_load(self, pid: Any) -> Storage:
        _, storage, key, _, count = pid
        kind = storage.name.removesuffix("Storage")
        claimed = (1 if kind == UNTYPED else STORAGES[kind]) * count
        if self.storages.setdefault(str(key), claimed) != claimed or not isinstance(count, int) or count < 0:
            raise ValueError(f"storage {str(key)[:40]} is of two sizes")
        return Storage(kind, count)


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], *_: object) -> Outline:
    """In the place of torch._utils._rebuild_tensor_v2."""
    if not isinstance(storage, Storage) or storage.kind == UNTYPED:
        raise ValueError("a tensor without a storage of its kind")
    return shaped(storage.kind, offset, shape)


def _float8(storage: Storage, offset: int, shape: tuple[int, ...], *more: object) -> Outline:
    """In the place of torch._utils._rebuild_tensor_v3, whose seventh argument is the dtype."""
    kind = getattr(more[3], "name", "") if len(more) > 3 else ""
    if kind not in FLOAT8 or not isinstance(storage, Storage) or storage.kind != UNTYPED:
        raise ValueError("a tensor of an unknown dtype")
    return shaped(kind, offset, shape)


def shaped(kind: str, offset: int, shape: tuple[int, ...]) -> Outline:
    """The outline of a tensor, or ValueError where its sizes are none."""
    if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
        raise ValueError("a tensor without a shape")
    if any(type(n) is not int or not 0 <= n < 2**40 for n in (offset, *shape)):
        raise ValueError("a tensor of an impossible size")
    return Outline(kind, shape)


class _Named(NamedTuple):
    """Stands for a kind of storage or a dtype; calling one, which would ask torch for memory, is an error."""

    name: str


def _opcode_problems(data: bytes) -> Iterator[str]:
    """Opcodes and callables that no state dict needs; nothing is executed."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in OPCODES:
            yield f"{OPCODE} {opcode.name}"
        elif opcode.name.endswith("BINPUT") and int(argument or 0) > len(data):
            yield "its pickle asks for a table of " + str(argument)  # which Python's reader would allocate
        elif opcode.name == "GLOBAL" and argument not in GLOBALS:
            yield f"{OBJECTS} ({str(argument).replace(' ', '.', 1)[:120]!r}), which are not read"
