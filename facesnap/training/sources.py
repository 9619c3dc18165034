"""Sources of photos: folders of people, lists, tar shards in webdataset's layout."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facesnap.errors import SettingsError
from facesnap.files import PICTURE_SUFFIXES

COLUMNS = ("path", "person")


@dataclass(frozen=True)
class Photo:
    """One photo, not read yet.

    Attributes:
        key: its name in messages and in the index, the same on every machine.
        person: people of one name may stand in for each other as references.
        caption: or None where none is given.
        file: the photo, or the tar that holds it. offset, size: of the bytes inside a tar; size None: the whole file.
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
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read() if self.size is None else stream.read(self.size)


def find_photos(source: Path) -> list[Photo]:
    """All photos of a source, sorted by key.

    Args:
        source: a folder with a sub-folder a person (photos right inside it are people of their own), a folder of
            .tar shards, one .tar, or a list (.csv with a header, .json, .jsonl) with the columns path, person and
            perhaps caption.

    Raises:
        SettingsError: nothing there, no photos, or a list that cannot be read.
    """
    if source.is_file() and source.suffix.lower() in (".csv", ".json", ".jsonl"):
        found = list(_from_list(source))
    elif source.is_file() and source.suffix.lower() == ".tar":
        found = list(_from_tar(source))
    elif source.is_dir():
        tars = sorted(source.glob("*.tar"))
        found = [photo for tar in tars for photo in _from_tar(tar)] if tars else list(_from_folder(source))
    else:
        raise SettingsError(
            f"{source} is no source of photos.",
            expected="a folder, a .tar, or a .csv, .json or .jsonl list",
            remedy="correct the path",
        )
    if not found:
        raise SettingsError(
            f"{source} holds no photos.",
            expected=", ".join(PICTURE_SUFFIXES),
            remedy="give the folder above the people's",
        )
    return sorted(found, key=lambda photo: photo.key)


def _from_folder(root: Path) -> Iterator[Photo]:
    for file in root.rglob("*"):
        if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file():
            key = file.relative_to(root).as_posix()
            person = key.split("/")[0] if "/" in key else key
            text = file.with_suffix(".txt")
            caption = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
            yield Photo(key, person, caption or None, file)


def _from_list(file: Path) -> Iterator[Photo]:
    for number, row in enumerate(_rows(file), 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(c), str) and row[c] for c in COLUMNS):
            raise SettingsError(
                f"Entry {number} of {file.name} is {str(row)[:80]}.",
                expected="path and person, and perhaps caption, as text",
                remedy="correct this entry",
            )
        yield Photo(row["path"], row["person"], row.get("caption") or None, file.parent / row["path"])


def _rows(file: Path) -> list[Any]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        if file.suffix.lower() == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        if file.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = json.loads(text)
    except ValueError as error:
        raise SettingsError(
            f"{file.name} cannot be read ({error}).", expected="a list of photos", remedy="correct the file"
        ) from error
    if not isinstance(rows, list):
        raise SettingsError(f"{file.name} is no list.", expected="a JSON list", remedy="correct the file")
    return rows


def _from_tar(file: Path) -> Iterator[Photo]:
    """Members of one stem belong together; a photo's person is its json's "person", else what precedes the last _.

    The json may hold "caption" and "points" too.
    """
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                stem, _, kind = member.name.partition(".")
                if member.isfile():
                    members.setdefault(stem, {})[f".{kind.lower()}"] = member
            for stem, parts in members.items():
                photo = next((parts[kind] for kind in PICTURE_SUFFIXES if kind in parts), None)
                if photo is None:
                    continue
                record = _json(tar, parts.get(".json"))
                text = parts.get(".txt")
                caption = _text(tar, text).strip() if text is not None else record.get("caption")
                person = record.get("person")
                person = str(person) if person is not None else stem.rpartition("_")[0] or stem
                key, points = f"{file.name}/{stem}", record.get("points")
                yield Photo(key, person, caption or None, file, photo.offset_data, photo.size, points)
    except (tarfile.TarError, ValueError) as error:
        raise SettingsError(
            f"{file.name} cannot be read ({error}).",
            expected="an uncompressed tar with pictures and .txt or .json of the same names",
            remedy="write the shard again",
        ) from error


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream = tar.extractfile(member)
    assert stream is not None
    return stream.read().decode("utf-8", errors="replace")


def _json(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    record = json.loads(_text(tar, member)) if member is not None else {}
    return record if isinstance(record, dict) else {}
