"""The tensors that a torch pickle lists, whichever of torch's formats it is in and whatever stands beside them.

Plain archives of tensors are torch's own to read. Archives with objects, and files in the format of torch before 1.6
or of `_use_new_zipfile_serialization=False`, are listed by `inert`; their tensors are then mapped from where they lie.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from facesnap.checkpoints import pickles
from facesnap.checkpoints.inert import OBJECTS, WIDTHS, Machine, Outline, RefusedError

OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch's older format begins: a pickle of a number
OLD_PROTOCOL = 1001
MOST_BYTES = 16 << 20  # of a pickle: 850 tensors take less than 0.2 MiB; images and tables beside them are not kept
OTHER_ORDER = "it was written by a machine of the other byte order"
ALIGNED = 8  # bytes, of the widest element
LOCAL_HEADER, LOCAL_HEADER_BYTES = b"PK\x03\x04", 30


class Listing(NamedTuple):
    """The content of a file.

    Attributes:
        problem: why the file is not read, or "". content: with an `inert.Outline` where a tensor is, and an
            `inert.Foreign` where an object is. objects: the first classes of those.
        places: storage -> (first byte in the file, bytes); None where torch itself reads the file.
    """

    problem: str
    content: Any = None
    objects: tuple[str, ...] = ()
    places: Mapping[str, tuple[int, int]] | None = None


def listing_of(path: Path) -> Listing:
    """The tensors that a file lists; no tensor is read, nothing is executed, and memory is bounded."""
    try:
        with path.open("rb") as file:
            if file.read(len(OLD)) == OLD:
                return _old(file, path.stat().st_size)
        problem = pickles.archive_problem(path)
        return Listing(problem) if problem else _archive(path)
    except RefusedError as error:
        return Listing(str(error))
    except pickles.DAMAGE as error:
        return Listing(f"its archive is damaged ({type(error).__name__}: {error})")


def _archive(path: Path) -> Listing:
    """An archive whose directory is sound."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        entry = pickles.list_entry(entries.values())
        if entry.file_size > MOST_BYTES:
            return Listing(f"its list of tensors takes {entry.file_size} bytes")
        data, machine = archive.read(entry), Machine()
        content = machine.run(io.BytesIO(data))
        folder, places = entry.filename.removesuffix("data.pkl"), {}
        # torch maps as many bytes as the pickle claims, whatever the archive says: beyond a storage lies the next one.
        for key, (kind, count) in machine.storages.items():
            claimed, found = WIDTHS[kind] * count, entries.get(f"{folder}data/{key}")
            if found is None or found.file_size != claimed:
                has = None if found is None else found.file_size
                return Listing(f"a tensor claims {claimed} bytes, its storage {key[:40]} has {has}")
            places[key] = (_first_byte(file, found), claimed)
        if pickles.is_plain(data) and not machine.objects and not machine.odd:
            return Listing("", content)
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order)[:9] != sys.byteorder.encode():
            return Listing(OTHER_ORDER)
    return Listing("", content, tuple(machine.objects), places)


def _first_byte(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Of an entry's content, behind a header of its own."""
    file.seek(entry.header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    if not header.startswith(LOCAL_HEADER):
        raise zipfile.BadZipFile("an entry that does not lie where the directory says")
    first = (
        entry.header_offset + LOCAL_HEADER_BYTES + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    )
    if first + entry.file_size > file.seek(0, 2):
        raise zipfile.BadZipFile("an entry beyond the end of the file")
    return first


def _old(file: BinaryIO, size: int) -> Listing:
    """Five pickles in a row (a number, the protocol, the machine, the content, the storages), then the storages."""
    file.seek(0)
    stream, machine = io.BytesIO(file.read(MOST_BYTES)), Machine()
    _, protocol, system, content, keys = (machine.run(stream) for _ in range(5))
    if protocol != OLD_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        return Listing("it is in an unknown format of torch")
    if system.get("little_endian") is not (sys.byteorder == "little"):
        return Listing(OTHER_ORDER)
    if any(type(key) not in (str, int) for key in keys) or sorted(map(str, keys)) != sorted(machine.storages):
        return Listing(f"{OBJECTS} ({', '.join(machine.objects)}), whose data cannot be told from the tensors'")
    place, places = stream.tell(), {}
    for key in map(str, keys):
        kind, count = machine.storages[key]
        file.seek(place)
        head = file.read(8)  # how many elements follow
        claimed = WIDTHS[kind] * count
        if int.from_bytes(head, "little") != count or place + 8 + claimed > size:
            return Listing(f"a tensor claims {claimed} bytes, its storage {key[:40]} has others or is cut short")
        places[key] = (place + 8, claimed)
        place += 8 + claimed
    return Listing("", content, tuple(machine.objects), places)


def mapped(path: Path, outlines: Mapping[str, Outline], places: Mapping[str, tuple[int, int]],
           dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of outlines, on the CPU and mapped to the file; copied where they lie at odd bytes, as in old files.

    Args:
        places: see `Listing`. dtypes: by kinds of outlines.
    """
    whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    parts = {key: (first % ALIGNED, whole[first : first + count]) for key, (first, count) in places.items()}
    used = {one.key for one in outlines.values()}
    storages = {key: part.clone() if odd else part for key, (odd, part) in parts.items() if key in used}
    return {
        name: torch.empty(0, dtype=dtypes[one.kind]).set_(storages[one.key], one.offset, one.shape, one.stride)
        for name, one in outlines.items()
    }
