"""Photos in lists: .csv with a header, .json, .jsonl."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facesnap.errors import SettingsError
from facesnap.training.photos import Photo, decoded

LIST_SUFFIXES = (".csv", ".json", ".jsonl")
COLUMNS = ("path", "person")
SEPARATORS = ",;\t"  # of a .csv: Excel writes what the country's settings say


def from_list(file: Path) -> Iterator[Photo]:
    """The photos of a list, whose paths count from its folder.

    Raises:
        SettingsError: it cannot be read, or an entry has no path or person.
    """
    for number, row in enumerate(_rows(file, _text(file)), 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(c), str) and row[c] for c in COLUMNS):
            raise SettingsError(
                f"Entry {number} of {file.name} is {str(row)[:80]}.",
                expected="path and person, and perhaps caption, as text",
                remedy="correct this entry",
            )
        yield Photo(row["path"], row["person"], row.get("caption") or None, file.parent / row["path"])


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
    try:
        if file.suffix.lower() == ".csv":
            return list(_table(text))
        if file.suffix.lower() == ".jsonl":  # by \n alone: a caption may hold what else ends a line
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        rows = json.loads(text)
    except (ValueError, csv.Error, RecursionError) as error:
        raise SettingsError(
            f"{file.name} cannot be read ({error}).", expected="a list of photos", remedy="correct the file"
        ) from error
    if not isinstance(rows, list):
        raise SettingsError(f"{file.name} is no list.", expected="a JSON list", remedy="correct the file")
    return rows


def _table(text: str) -> csv.DictReader:
    header = text.partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    return reader
