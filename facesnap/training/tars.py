"""Photos in tar shards of webdataset's layout."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facesnap.errors import SettingsError
from facesnap.files import PICTURE_SUFFIXES
from facesnap.training.photos import Passed, Photo, decoded, open_tar

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
BESIDE = (".txt", ".json")

Parts = dict[str, tarfile.TarInfo]


def is_tar(file: Path) -> bool:
    """Whether a file is a tar by its name."""
    return file.name.lower().endswith(TAR_SUFFIXES) and not file.name.startswith(".")


def from_tar(file: Path, passed: Passed) -> Iterator[Photo]:
    """Members of one key belong together: the key ends at the first dot of a member's own name, its folder aside.

    A photo's person is its json's "person", else what precedes the last _ of the key. The json may hold "caption" and
    "points" too.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        with open_tar(file).opened() as tar:
            for key, parts in _members(tar, file, passed).items():
                kinds = [kind for kind in PICTURE_SUFFIXES if kind in parts]
                for kind in parts.keys() - {*kinds[:1], *(BESIDE if kinds else ())}:
                    reason = "a second picture of its key" if kind in kinds else _ending(kind)
                    passed.note(reason, f"{file.name}/{parts[kind].name}")
                if kinds:
                    photo = _photo(tar, file, key, parts, kinds[0], passed)
                    if photo is not None:
                        yield photo
    except (tarfile.TarError, OSError) as error:
        raise SettingsError(
            f"{file.name} cannot be read ({error}).",
            expected="a whole tar, as it is or packed by gzip, bzip2 or xz, of pictures with .txt or .json",
            remedy="write the shard again",
        ) from error


def _members(tar: tarfile.TarFile, file: Path, passed: Passed) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for member in tar:
        path = [part for part in member.name.split("/") if part not in ("", ".")]
        if member.isdir() or not path:
            continue
        stem, _, kind = path[-1].partition(".")
        if not member.isfile():
            passed.note("a link inside a tar", f"{file.name}/{member.name}")
        elif not stem:
            passed.note("a hidden file", f"{file.name}/{member.name}")
        else:
            found.setdefault("/".join([*path[:-1], stem]), {})[f".{kind.lower()}"] = member
    return found


def _ending(kind: str) -> str:
    return f"{kind if kind != '.' else 'no ending'}, no picture by its name"


def _photo(tar: tarfile.TarFile, file: Path, key: str, parts: Parts, kind: str, passed: Passed) -> Photo | None:
    name, member, record = f"{file.name}/{key}", parts[kind], {}
    if ".json" in parts:
        try:
            record = json.loads(decoded(_content(tar, parts[".json"])))
        except (ValueError, RecursionError):
            passed.note("its .json cannot be read", name)
            return None
        record = record if isinstance(record, dict) else {}
    caption: Any = record.get("caption")
    if ".txt" in parts:
        try:
            caption = decoded(_content(tar, parts[".txt"])).strip()
        except UnicodeDecodeError:
            passed.note("a caption that is not UTF-8", f"{file.name}/{parts['.txt'].name}")
    folder, _, stem = key.rpartition("/")
    prefix = stem.rpartition("_")[0]
    person = record.get("person")
    if person is None:
        person = f"{folder}/{prefix}".lstrip("/") if prefix else key
    return Photo(
        name, str(person), str(caption) if caption else None, file, member.offset_data, member.size,
        record.get("points"),
    )  # fmt: skip


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None  # it is a file
    return stream.read()
