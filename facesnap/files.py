"""Files by the standard library alone: the hash of one, writing one whole or not at all, and names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Event

from facesnap.errors import SettingsError, StoppedError

# Of the formats that `facesnap.faces.picture` reads; lower case.
PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".heic", ".heif", ".hif", ".bmp", ".dib",
    ".gif", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jpf", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
BLOCK = 1 << 20  # bytes
SHORT_NAME, LONG_NAME = 40, 200  # bytes; file systems allow 255, some 143
SAMPLES, SAMPLE = 64, 4 << 10  # blocks of a sampled file, and bytes of each
# Marks of copies, as browsers, desktops of several languages, notebooks and web drives make them.
_COPY_WORDS = "copy|kopie|kopia|copie|copia|cópia|копия|副本|コピー"
_COPY = re.compile(
    rf"^copy of |( ?\(\d+\)|\[\d+\]| ?[-\u2013\u2014] ?({_COPY_WORDS})\d*| ({_COPY_WORDS})( \d+)?)+$", re.IGNORECASE
)
_BRANCH = re.compile(r"[-_ ](main|master)$", re.IGNORECASE)  # of a repository that was downloaded as a zip


def sha256_of(path: Path, stop: Event | None = None) -> str:
    """sha256 of a file, in hexadecimal.

    Args:
        stop: set it to stop.

    Raises:
        StoppedError: `stop` was set. OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            if stop is not None and stop.is_set():
                raise StoppedError(
                    f"Checking {path.name} was stopped.", expected="its checksum", remedy="start it again"
                )
            digest.update(block)
    return digest.hexdigest()


def cached_sha256(path: Path) -> str:
    """sha256 of a file, remembered until its size or time of change differs."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def beside(path: Path, ending: str) -> Path:
    """A hidden name beside a file or folder, always the same, for what is not whole yet.

    Of a long name only a digest stands in it, so that it never is too long where the file's own is not.
    """
    name = path.name if len(os.fsencode(path.name)) <= SHORT_NAME else _mark(path.name)
    return path.with_name(f".{name}{ending}")


def extensible(name: str) -> str:
    """A name that file names can be made of by appending a few words; a long one is cut, and stays unique."""
    return name if len(os.fsencode(name)) <= LONG_NAME else f"{name[:SHORT_NAME]}-{_mark(name)}"


def _mark(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def sampled_sha256(path: Path) -> str:
    """sha256 of a file's size and of blocks spread over it, remembered as `cached_sha256` does.

    Cheap for files of gigabytes, and not meant against those who make two files alike on purpose.
    """
    status = path.stat()
    return _sampled(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sampled(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for n in range(SAMPLES):
            file.seek(max(size - SAMPLE, 0) * n // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def check_folder(folder: Path, name: str) -> None:
    """Refuse what cannot be a folder to write to, before the slow part; nothing is made.

    Args:
        name: what people call it, such as "--out".

    Raises:
        SettingsError: it is a file, or lies below one.
    """
    for place in (folder, *folder.parents):
        if place.is_file():
            raise SettingsError(
                f"{name} is {folder}, and {place} is a file.", expected="a folder, which is made where it is missing",
                remedy=f"give {name} another folder",
            )  # fmt: skip


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that appears under its name whole, or not at all; an existing one is replaced.

    Args:
        path: of the file; its folder is made where it is missing.
        write: writes the content to the path that it is given, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(path, ".partial")  # one name: what a killed run left behind is overwritten
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def without_copy_marks(name: str) -> str:
    """A file's stem without the marks of copies."""
    return _COPY.sub("", name)


def unpacked_name(folder: str) -> str:
    """A folder's name as its repository or archive has it: without the marks of copies and the name of a branch."""
    return without_copy_marks(_BRANCH.sub("", without_copy_marks(folder)))
