"""Photos in tar shards of webdataset's layout."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from facesnap.errors import SettingsError
from facesnap.files import PICTURE_SUFFIXES
from facesnap.training.photos import Passed, Photo, decoded, open_tar

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tb2", ".tz2", ".tar.xz", ".txz")
BESIDE = (".txt", ".json")
BY_ITS_NAME = "no picture by its name"

Parts = dict[str, tarfile.TarInfo]


def is_tar(file: Path) -> bool:
    """Whether a file is a tar by its name."""
    return file.name.lower().endswith(TAR_SUFFIXES) and not file.name.startswith(".")


def from_tar(file: Path, passed: Passed, name: str = "") -> Iterator[Photo]:
    """Members of one key belong together: the key ends at the first dot of a member's own name, its folder aside.

    A photo's person is its json's "person", else what precedes the last _ of the key. The json may hold "caption" and
    "points" too.

    Args:
        name: what the photos' keys call the tar; its own name where there is none.

    Raises:
        SettingsError: it cannot be read.
    """
    name = name or file.name
    try:
        with open_tar(file).opened() as tar:
            for key, parts in _members(tar, name, passed).items():
                kinds = [kind for kind in PICTURE_SUFFIXES if kind in parts]
                for kind in parts.keys() - {*kinds[:1], *(BESIDE if kinds else ())}:
                    reason = "a second picture of its key" if kind in kinds else _ending(kind)
                    passed.note(reason, f"{name}/{parts[kind].name}")
                if kinds:
                    photo = _photo(tar, file, (name, key), parts, kinds[0], passed)
                    if photo is not None:
                        yield photo
    except (tarfile.TarError, OSError) as error:
        raise SettingsError(
            f"{file.name} cannot be read ({error}).",
            expected="a whole tar, as it is or packed by gzip, bzip2 or xz, of pictures with .txt or .json",
            remedy="write the shard again",
        ) from error


def _members(tar: tarfile.TarFile, name: str, passed: Passed) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for member in tar:
        # Some programs of Windows write its own slashes.
        path = [part for part in member.name.replace("\\", "/").split("/") if part not in ("", ".")]
        if member.isdir() or not path:
            continue
        stem, _, kind = path[-1].partition(".")
        if not member.isfile():
            passed.note("a link inside a tar", f"{name}/{member.name}")
        elif not stem or any(part.startswith(".") and part != ".." for part in path):
            passed.note("a hidden file", f"{name}/{member.name}")
        else:
            parts = found.setdefault("/".join([*path[:-1], stem]), {})
            if f".{kind.lower()}" in parts:  # a tar that was added to: the last one counts, as tar itself has it
                passed.note("an older member of the same name", f"{name}/{parts[f'.{kind.lower()}'].name}")
            parts[f".{kind.lower()}"] = member
    return found


def _ending(kind: str) -> str:
    return f"{kind if kind != '.' else 'no ending'}, {BY_ITS_NAME}"


def _photo(
    tar: tarfile.TarFile, file: Path, place: tuple[str, str], parts: Parts, kind: str, passed: Passed
) -> Photo | None:
    """place: name of the tar, key inside it."""
    name, member, record = "/".join(place), parts[kind], {}
    if ".json" in parts:
        try:
            record = json.loads(decoded(_content(tar, parts[".json"])))
        except (ValueError, RecursionError):
            passed.note("its .json cannot be read", name)
            return None
        if not isinstance(record, dict):
            passed.note("its .json is no object", name)
            return None
    person, caption = record.get("person"), record.get("caption")
    if isinstance(person, bool) or not isinstance(person, (str, int, type(None))):
        passed.note("its person is no text", name)
        return None
    if ".txt" in parts:
        try:
            caption = decoded(_content(tar, parts[".txt"])).strip()
        except UnicodeDecodeError:
            passed.note("a caption that is not UTF-8", f"{name}.txt")
    if not isinstance(caption, (str, type(None))):
        passed.note("a caption that is no text", name)
        caption = None
    who = "" if person is None else str(person).strip()
    points = record.get("points")
    return Photo(name, who or _person(place[1]), caption or None, file, member.offset_data, member.size, points)


def _person(key: str) -> str:
    folder, _, stem = key.rpartition("/")
    prefix = stem.rpartition("_")[0]
    return f"{folder}/{prefix}".lstrip("/") if prefix else key


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None  # it is a file
    return stream.read()
