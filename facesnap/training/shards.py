"""Prepared data on disk: safetensors shards, each with its index, and one file that says how they were made.

    prepared.json        format, settings, names and sizes of what made them
    shard-00007.safetensors, shard-00007.jsonl     tensors "<row>.<name>"; one line a photo, kept or dropped
    zero.safetensors     the encoder's hidden states of an empty picture: the unconditional case

A shard is there when its .jsonl is: both files are written under another name and renamed, the index last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from facesnap.errors import SettingsError
from facesnap.files import write_atomically
from facesnap.training.network_files import save_tensors

FORMAT = 1
HEAD = "prepared.json"
ZERO = "zero.safetensors"


def write_json(file: Path, value: Any) -> None:
    """Write JSON; the file appears whole or not at all."""
    _write(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def claim(file: Path, wanted: dict[str, Any]) -> list[str]:
    """Write a JSON record where there is none; else the keys in which the one that is there differs, sorted."""
    if not file.is_file():
        write_json(file, wanted)
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    wanted = json.loads(json.dumps(wanted))  # tuples as lists
    return sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))


def write_shard(folder: Path, number: int, rows: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
    """Write one shard; rows without an "error" have tensors."""
    file = _shard(folder, number)
    save_tensors(tensors, file)
    _write(file.with_suffix(".jsonl"), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def has_shard(folder: Path, number: int) -> bool:
    return _shard(folder, number).with_suffix(".jsonl").is_file()


def read_rows(folder: Path, number: int) -> list[dict[str, Any]]:
    text = _shard(folder, number).with_suffix(".jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]  # a caption may hold what else ends a line


class Shards:
    """Prepared data, opened for reading.

    Attributes:
        head: what `prepared.json` says. rows: of the photos that were kept, in order.
        people: {person: numbers of its rows}.
        zero: {level: (1, P, W)} hidden states of an empty picture.

    Raises:
        SettingsError: not prepared, not finished, of another format, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head = self._read_head()
        self.rows: list[dict[str, Any]] = []
        self._places: list[tuple[int, int]] = []
        for number in range(self.head["shards"]):
            if not has_shard(folder, number):
                raise SettingsError(
                    f"Shard {number} of {self.head['shards']} in {folder} is missing.",
                    expected="data that were prepared to the end",
                    remedy="run `facesnap prepare` again: it goes on where it stopped",
                )
            for place, row in enumerate(read_rows(folder, number)):
                if "error" not in row:
                    self.rows.append(row)
                    self._places.append((number, place))
        if not self.rows:
            raise SettingsError(
                f"No photo of {folder} was kept.", expected="at least one", remedy="read report.json there"
            )
        self.people: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            self.people.setdefault(row["person"], []).append(index)
        self.zero = {int(name): tensor for name, tensor in load_file(folder / ZERO).items()}
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def tensor(self, index: int, name: str, part: int | None = None) -> Tensor:
        """One tensor of a photo; part: only this entry of its first axis is read."""
        number, place = self._places[index]
        key = f"{place}.{name}"
        try:
            if number not in self._open:
                self._open[number] = safe_open(_shard(self.folder, number), framework="pt")
            if part is None:
                return self._open[number].get_tensor(key)
            return self._open[number].get_slice(key)[part : part + 1][0]
        except (SafetensorError, OSError) as error:
            raise SettingsError(
                f"{name} of {self.rows[index]['key']} cannot be read from shard {number} ({error}).",
                expected="a whole shard",
                remedy="delete the shard's two files and run `facesnap prepare` again",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # loader processes open files of their own

    def _read_head(self) -> dict[str, Any]:
        file = self.folder / HEAD
        try:
            head = json.loads(file.read_text(encoding="utf-8"))
            if head["format"] == FORMAT:
                return dict(head)
            what = f"{file} has format {head['format']}."
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"{file} cannot be read ({error})."
        raise SettingsError(
            what, expected=f"data of format {FORMAT}", remedy="run `facesnap prepare` into this folder first"
        )


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _write(file: Path, text: str) -> None:
    write_atomically(file, lambda part: part.write_bytes(text.encode("utf-8", "backslashreplace")))
