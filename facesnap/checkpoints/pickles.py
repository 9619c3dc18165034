"""Is a torch pickle a plain archive of tensors? Decided before anything of it is unpickled.

`weights_only` alone is not enough: torch up to 2.5.1 hands TorchScript archives to its compiler, deflated entries are
inflated without a bound, and its list of harmless callables can still ask for any amount of memory. So the archive's
directory and every opcode of its pickle are read first, and only what `torch.save` writes for a state dict is given to
torch; `listings` reads the rest.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from facesnap.checkpoints.inert import FLOAT8, STORAGES

END_RECORD, END_RECORD_BYTES = b"PK\x05\x06", 22
ZIP64_LOCATOR, ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
ZIP64_RECORD, ZIP64_RECORD_BYTES = b"PK\x06\x06", 56
MOST_DIRECTORY_BYTES = 16 << 20
MOST_ENTRIES = 100_000
MOST_PICKLE_BYTES = 4 << 20  # names and shapes only: 850 tensors take less than 0.2 MiB
GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage UntypedStorage",
    *(f"torch {kind}" for kind in FLOAT8),
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in STORAGES),
}
# What pickle protocol 2 needs for dictionaries of tensors; no STACK_GLOBAL, INST, OBJ, NEWOBJ, EXT, buffers or frames.
_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINSTRING "
    "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 DICT LIST SETITEM SETITEMS APPEND APPENDS "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL BINPERSID REDUCE BUILD POP DUP"
)
OPCODES = frozenset(_OPCODES.split())
DAMAGE = (  # what readers raise over damaged files
    pickle.UnpicklingError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile, struct.error, OSError, EOFError,
    ValueError, LookupError, RuntimeError, ArithmeticError, AssertionError,
)  # fmt: skip


def archive_problem(path: Path) -> str | None:
    """Why a file is no archive as torch writes them, or None. Its directory alone is read."""
    size = path.stat().st_size
    try:
        directory, count = _directory(path, size)
        if directory > MOST_DIRECTORY_BYTES or count > MOST_ENTRIES:
            return f"its directory takes {directory} bytes for {count} entries"
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if len(entries) != count:
            return f"its directory lists {len(entries)} entries and claims {count}"
        return _entries_problem(entries, size)
    except DAMAGE as error:
        return f"its archive is damaged ({type(error).__name__}: {error})"


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


def list_entry(entries: Iterable[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """The entry that lists the tensors."""
    return next(one for one in entries if one.filename.partition("/")[2] == "data.pkl")


def is_plain(data: bytes) -> bool:
    """Whether a pickle has the opcodes and callables of state dicts alone, and none that would ask for memory."""
    return all(_is_usual(opcode.name, argument, len(data)) for opcode, argument, _ in pickletools.genops(data))


def _is_usual(opcode: str, argument: Any, most: int) -> bool:
    if opcode.endswith("BINPUT"):  # Python's reader would allocate a table of so many
        return int(argument or 0) <= most
    return argument in GLOBALS if opcode == "GLOBAL" else opcode in OPCODES
