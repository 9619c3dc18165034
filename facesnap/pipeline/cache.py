"""Results kept by the content they were made from, with a bound on memory."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.files import cached_sha256


def bytes_of(value: Any) -> int:
    """Bytes of the tensors and arrays in a value: itself, in containers and in dataclasses."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if dataclasses.is_dataclass(value):
        value = vars(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(bytes_of, parts))


class ContentCache:
    """Least recently used results go first once the bound is passed. Safe for several threads.

    Args:
        max_bytes: bound on the sum of the sizes; a result larger than it is made but not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Sum of the sizes of what is kept."""
        with self._lock:
            return sum(size for _, size in self._entries.values())

    def get(self, key: Hashable, make: Callable[[], Any], size_of: Callable[[Any], int] = bytes_of) -> Any:
        """The kept result for a key, or a new one from `make`, whose size in bytes `size_of` gives.

        Two threads that miss at once may both make it; results are equal, since the key is their content.
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = make()
        size = size_of(value)
        with self._lock:
            self._entries[key] = (value, size)
            self._entries.move_to_end(key)
            while self._entries and sum(s for _, s in self._entries.values()) > self.max_bytes:
                self._entries.popitem(last=False)
        return value


def picture_digest(pixels: np.ndarray) -> str:
    """sha256 of a picture's shape, kind of sample and samples."""
    pixels = np.ascontiguousarray(pixels)
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def content_digest(picture: Path | np.ndarray) -> str:
    """sha256 of a file's content or of a picture in memory; the path itself where there is no such file: reading it
    will say what is wrong."""
    if isinstance(picture, np.ndarray):
        return picture_digest(picture)
    path = Path(picture)
    return cached_sha256(path) if path.is_file() else str(path)
