"""A pack's zip -> a folder of its ONNX files; whatever the zip says of itself, memory and disk stay bounded."""

from __future__ import annotations

import contextlib
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from facesnap.errors import ChecksumError
from facesnap.files import sha256_of
from facesnap.weights.transfer import BLOCK, full

MOST_ENTRIES = 100
MOST_UNPACKED = 4 << 30
SUFFIX = ".onnx"


def unpack(archive: Path, folder: Path, inside: Mapping[str, str]) -> None:
    """The ONNX files of a zip, wherever they lie in it, side by side in a new folder; all of them or none.

    Args:
        folder: does not exist, or is empty. inside: name -> sha256 of files that are known.

    Raises:
        ChecksumError: damaged, unsafe, or not what was published. DiskFullError, OSError.
    """
    beside = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, archive)
            needed = sum(entry.file_size for entry in entries.values())
            if shutil.disk_usage(archive.parent).free < needed:
                raise full(archive.parent, needed)
            beside.mkdir(parents=True)
            for name, entry in entries.items():
                with opened.open(entry) as source, (beside / name).open("wb") as target:
                    shutil.copyfileobj(source, target, BLOCK)  # up to the announced size, and checks the CRC there
                if (beside / name).stat().st_size != entry.file_size:
                    raise zipfile.BadZipFile(f"{name} is shorter than {entry.file_size} bytes")
        for name, expected in inside.items():
            found = sha256_of(beside / name) if (beside / name).is_file() else "nothing"
            if found != expected:
                raise _bad(archive, f"its {name} has the sha256 {found[:16]}, not {expected[:16]}")
        with contextlib.suppress(OSError):
            folder.rmdir()  # an empty one may be there
        beside.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad(archive, f"it is damaged ({error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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


def _bad(archive: Path, what: str) -> ChecksumError:
    return ChecksumError(
        f"The zip {archive.name} cannot be used: {what}.",
        expected="the published zip of the pack",
        remedy="it was removed; download it again, or from another server (--mirror)",
    )
