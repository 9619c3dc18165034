"""One photo of a source, text beside it, and the record of what a source holds besides."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

KEPT_NAMES, SHOWN_NAMES = 1000, 3  # of what was passed over for one reason
# First bytes of a packed file -> what unpacks it.
PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
UNPACK_ERRORS = (EOFError, zlib.error, lzma.LZMAError)  # besides OSError


@dataclass(frozen=True)
class Photo:
    """One photo, not read yet.

    Attributes:
        key: its name in messages and in the index, the same on every machine.
        person: people of one name may stand in for each other as references.
        caption: or None where none is given.
        file: the photo, or the tar that holds it. offset, size: of the bytes inside a tar, unpacked where it is
            packed; size None: the whole file.
        points: the 72 landmarks where they are known, as the tar's json has them (not checked yet): [x, y] in pixels
            of the photo, from its upper left corner, in the order of `facesnap.landmarks.scheme`.
    """

    key: str
    person: str
    caption: str | None
    file: Path
    offset: int = 0
    size: int | None = None
    points: Any = None

    def read(self) -> bytes:
        """The photo's bytes. Raises OSError."""
        return self.file.read_bytes() if self.size is None else open_tar(self.file).part(self.offset, self.size)


@dataclass
class Passed:
    """What a source holds besides its photos: reason -> how many, and the first names."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def note(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        kept = self.names.setdefault(reason, [])
        if len(kept) < KEPT_NAMES:
            kept.append(name)

    def json(self) -> dict[str, Any]:
        """The record as reports hold it."""
        return {"passed_over": self.counts, "passed_over_names": self.names}

    def lines(self) -> list[str]:
        """One line for each reason, with the first names."""
        return [f"passed over {count}: {why} ({named(self.names[why], count)})" for why, count in self.counts.items()]


def named(names: Sequence[str], count: int) -> str:
    """The first of `count` names, for a line of text."""
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if count > SHOWN_NAMES else "")


class Tar:
    """A tar as it is, or unpacked into a temporary file that goes when it is no longer used.

    Raises:
        OSError: it cannot be read or unpacked.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        with file.open("rb") as stream:
            head = stream.read(6)
        unpack = next((unpack for start, unpack in PACKED.items() if head.startswith(start)), None)
        self._unpacked: Any = None
        if unpack is not None:
            self._unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this object)
            try:
                with unpack(file, "rb") as packed:
                    shutil.copyfileobj(packed, self._unpacked, 1 << 20)
            except UNPACK_ERRORS as error:
                raise OSError(f"{file.name} cannot be unpacked ({error})") from error

    def opened(self) -> tarfile.TarFile:
        """For its members. Raises tarfile.TarError."""
        if self._unpacked is None:
            return tarfile.open(self._file, "r:")
        self._unpacked.seek(0)
        return tarfile.open(fileobj=self._unpacked, mode="r:")

    def part(self, offset: int, size: int) -> bytes:
        """So many bytes from an offset on."""
        if self._unpacked is None:
            with self._file.open("rb") as stream:
                stream.seek(offset)
                return stream.read(size)
        with self._lock:
            self._unpacked.seek(offset)
            return bytes(self._unpacked.read(size))


def open_tar(file: Path) -> Tar:
    """A tar, unpacked once: photos are read in the order of their tars."""
    status = file.stat()
    return _open_tar(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _open_tar(file: Path, size: int, mtime_ns: int) -> Tar:
    return Tar(file)


def decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, with its mark or without, where it begins with two letters of ASCII.

    Raises:
        UnicodeDecodeError: another encoding, which cannot be known.
    """
    return content.decode(json.detect_encoding(content)).lstrip("\ufeff")
