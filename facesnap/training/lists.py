"""Photos in lists: .csv and .tsv with a header, .json, .jsonl and .ndjson."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facesnap.errors import SettingsError
from facesnap.training.photos import Photo, decoded

TABLES, LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")
LIST_SUFFIXES = (*TABLES, ".json", *LINES)
COLUMNS = ("path", "person")
SEPARATORS = ",;\t|"  # of a .csv: Excel writes what the country's settings say


def from_list(file: Path) -> Iterator[Photo]:
    """The photos of a list, whose paths count from its folder.

    Raises:
        SettingsError: it cannot be read, holds no photos, or an entry has no path or person.
    """
    rows = _rows(file, _text(file))
    if not rows:
        raise SettingsError(
            f"{file.name} lists no photos.",
            expected=f"a first line with the columns {', '.join(COLUMNS)} and a line a photo"
            if file.suffix.lower() in TABLES
            else f"objects with {' and '.join(COLUMNS)}",
            remedy="correct the file",
        )
    for number, row in enumerate(rows, 1):
        if not _is_entry(row):
            raise SettingsError(
                f"Entry {number} of {file.name} is {str(row)[:80]}.",
                expected="path and person, and perhaps caption, as text",
                remedy="correct this entry",
            )
        yield Photo(row["path"], row["person"], row.get("caption") or None, _place(file.parent, row["path"]))


def _is_entry(row: Any) -> bool:
    if not isinstance(row, dict) or not all(isinstance(row.get(c), str) and row[c].strip() for c in COLUMNS):
        return False
    try:
        os.fsencode(row["path"])
    except UnicodeEncodeError:
        return False
    return "\0" not in row["path"] and isinstance(row.get("caption"), (str, type(None)))


def _place(folder: Path, path: str) -> Path:
    """The file of a path; lists made on Windows are read elsewhere, too."""
    file = folder / (Path(path).expanduser() if path.startswith("~/") else path)
    return file if "\\" not in path or file.exists() else folder / path.replace("\\", "/")


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return decoded(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{file.name} is neither in UTF-8 nor in UTF-16 (line {line}).",
            expected="UTF-8 or UTF-16, since what other bytes mean cannot be known",
            remedy="save it as UTF-8: in Excel as 'CSV UTF-8', in an editor with the encoding UTF-8",
        ) from error


def _rows(file: Path, text: str) -> list[Any]:
    suffix = file.suffix.lower()
    try:
        if suffix in TABLES:
            return list(_table(file, text))
        if suffix in LINES:
            return list(_lines(text))
        rows = json.loads(text)
    except (ValueError, csv.Error, RecursionError) as error:
        raise SettingsError(
            f"{file.name} cannot be read ({error}).",
            expected="a JSON object a line" if suffix in LINES else "a list of photos",
            remedy="correct the file; a list with an object a line is a .jsonl"
            if suffix == ".json"
            else "correct the file",
        ) from error
    if not isinstance(rows, list):
        raise SettingsError(f"{file.name} is no list.", expected="a JSON list", remedy="correct the file")
    return rows


def _lines(text: str) -> Iterator[Any]:
    """Entries of lines that end in \\n alone: a caption may hold what else ends a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error


def _table(file: Path, text: str) -> Iterator[dict[str, str]]:
    """Rows of a table by the columns of its first line, below the line with which Excel can name the separator."""
    header, _, below = text.partition("\n")
    if header.lower().startswith("sep="):
        text, header = below, below.partition("\n")[0]
    separator = max(SEPARATORS, key=lambda one: (set(COLUMNS) <= set(_columns(header, one)), header.count(one)))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    reader.fieldnames = [_word(name) for name in reader.fieldnames or ()]
    if text.strip() and not set(COLUMNS) <= set(reader.fieldnames):
        raise SettingsError(
            f"{file.name} has the columns {', '.join(reader.fieldnames)[:80]}.",
            expected=f"{', '.join(COLUMNS)} and perhaps caption in its first line",
            remedy="give the columns these names there, or add that line",
        )
    for row in reader:
        yield {**row, **{column: (row[column] or "").strip() for column in COLUMNS}}


def _columns(header: str, separator: str) -> list[str]:
    return [_word(name) for name in header.split(separator)]


def _word(name: str) -> str:
    return name.strip().strip('"').strip().lower()
