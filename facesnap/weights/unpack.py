"""A pack's zip -> a folder of its ONNX files; whatever the zip says of itself, memory and disk stay bounded."""

from __future__ import annotations

import contextlib
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from threading import Event
from typing import IO

from facesnap.errors import ChecksumError, StoppedError
from facesnap.files import beside, sha256_of
from facesnap.remedies import remedy
from facesnap.weights.transfer import BLOCK, full

MOST_ENTRIES = 100
MOST_UNPACKED = 4 << 30
SUFFIX = ".onnx"


def unpack(archive: Path, folder: Path, inside: Mapping[str, str], stop: Event) -> None:
    """The ONNX files of a zip, wherever they lie in it, side by side in a new folder; all of them or none.

    Args:
        folder: does not exist, or is empty. inside: name -> sha256 of files that are known.

    Raises:
        ChecksumError: damaged, unsafe, or not what was published. DiskFullError, OSError, StoppedError.
    """
    unpacked = beside(folder, ".unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, archive)
            needed = sum(entry.file_size for entry in entries.values())
            if shutil.disk_usage(archive.parent).free < needed:
                raise full(archive.parent, needed)
            unpacked.mkdir(parents=True)
            for name, entry in entries.items():
                with opened.open(entry) as source, (unpacked / name).open("wb") as target:
                    _copy(source, target, entry.file_size, unpacked / name, stop)
        for name, expected in inside.items():
            found = sha256_of(unpacked / name, stop) if (unpacked / name).is_file() else "nothing"
            if found != expected:
                raise _bad(archive, f"its {name} has the sha256 {found[:16]}, not {expected[:16]}")
        with contextlib.suppress(OSError):
            folder.rmdir()  # an empty one may be there
        unpacked.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad(archive, f"it is damaged ({error})") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _checked(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Name -> entry of the ONNX files. Every entry must stay inside, though only names are used."""
    entries = opened.infolist()
    if len(entries) > MOST_ENTRIES:
        raise _bad(archive, f"it has {len(entries)} entries")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in entry.filename:
            raise _bad(archive, f"its entry {entry.filename[:80]!r} leads outside")
        hidden = any(part.startswith((".", "__")) for part in path.parts)  # __MACOSX/._x.onnx
        if entry.is_dir() or hidden or path.suffix.lower() != SUFFIX:
            continue
        if path.name.lower() in map(str.lower, found):
            raise _bad(archive, f"it holds {path.name[:80]!r} twice")
        found[path.name] = entry
    if not found:
        raise _bad(archive, "it holds no ONNX file")
    if sum(entry.file_size for entry in found.values()) > MOST_UNPACKED:
        raise _bad(archive, f"it claims more than {MOST_UNPACKED >> 30} GB unpacked")
    return found


def _copy(source: IO[bytes], target: IO[bytes], size: int, path: Path, stop: Event) -> None:
    """Python's zipfile stops at the announced size and compares the checksum there."""
    copied = 0
    while block := source.read(BLOCK):
        if stop.is_set():
            raise StoppedError(f"Unpacking {path.name} was stopped.", expected="all files", remedy="start it again")
        copied += len(block)
        target.write(block)
    if copied != size:
        raise zipfile.BadZipFile(f"{path.name} has {copied} of {size} bytes")


def _bad(archive: Path, what: str) -> ChecksumError:
    return ChecksumError(
        f"The zip {archive.name} cannot be used: {what}.",
        expected="the published zip of the pack",
        remedy=f"it was removed; {remedy('download from elsewhere')}",
    )
