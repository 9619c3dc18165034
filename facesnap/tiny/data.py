"""The world's shards as memory-mapped arrays, one folder a split."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from facesnap.errors import SettingsError
from facesnap.faces.align import RECOGNISER_SIZE, aligned_crop
from facesnap.files import beside
from facesnap.landmarks.scheme import POINT_COUNT, five_points
from facesnap.remedies import command

# name -> (shape of one picture's entry, dtype)
ARRAYS: dict[str, tuple[Any, str]] = {
    "images": ("picture", "uint8"),  # (N, S, S, 3) RGB
    "crops": ((RECOGNISER_SIZE, RECOGNISER_SIZE, 3), "uint8"),  # aligned by the true five points, RGB
    "points": ((POINT_COUNT, 2), "float32"),  # px of the picture
    "boxes": ((4,), "float32"),  # the face: left, top, right, bottom in px
    "people": ((), "int32"),
}
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Portraits:
    """N pictures of one split; arrays are memory-mapped, `records` as `facesnap.world.Truth.record` has them.

    Attributes:
        split: of facesnap.world.splits.
        images: (N, S, S, 3) uint8 RGB. crops: (N, 112, 112, 3) uint8 RGB, aligned as a recogniser wants them.
        points: (N, 72, 2) px. boxes: (N, 4) px. people: (N,) seeds.
    """

    split: str
    images: np.ndarray
    crops: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    people: np.ndarray
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def captions(self) -> list[str]:
        return [record["caption"] for record in self.records]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64: people counted from 0 in the order of their seeds."""
        return np.unique(self.people, return_inverse=True)[1].astype(np.int64)

    @staticmethod
    def load(folder: Path) -> Portraits:
        """Open what `pack` wrote; SettingsError where it is not there."""
        file = folder / RECORDS
        if not file.is_file():
            raise SettingsError(
                f"There are no pictures in {folder}.",
                expected=f"arrays that {command('tiny data')} made.",
                remedy=f"run {command('tiny data')} with the same --state first.",
            )
        with file.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return Portraits(split=records[0]["split"], records=records, **arrays)


def pack(shards: Iterable[Path], folder: Path, count: int, size: int) -> Portraits:
    """Unpack tar shards of the world into arrays.

    The folder appears only when it is whole; where it is there already it is opened as it is.

    Args:
        shards: of one dataset. folder: for the arrays. count: pictures in the shards. size: side in px.

    Raises:
        SettingsError: the shards do not hold `count` pictures of one split.
    """
    if (folder / RECORDS).is_file():
        return Portraits.load(folder)
    part = beside(folder, ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    arrays = {
        name: open_memmap(
            part / f"{name}.npy", "w+", dtype, (count, *((size, size, 3) if shape == "picture" else shape))
        )
        for name, (shape, dtype) in ARRAYS.items()
    }
    records: list[dict[str, Any]] = []
    for shard in shards:
        for record, image in _members(shard):
            row = len(records)
            if row < count:
                points = np.asarray(record["points"], np.float32)
                arrays["images"][row], arrays["crops"][row] = image, aligned_crop(image, five_points(points))
                arrays["points"][row], arrays["boxes"][row] = points, record["box"]
                arrays["people"][row] = record["person"]
            records.append(record)
    splits = {record["split"] for record in records}
    if len(records) != count or len(splits) != 1:
        raise SettingsError(
            f"The shards for {folder} hold {len(records)} pictures of the splits {sorted(splits)}.",
            expected=f"{count} pictures of one split.",
            remedy="delete the shards and render them again.",
        )
    for array in arrays.values():
        array.flush()
    del arrays  # Windows moves no folder whose files are mapped
    text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    (part / RECORDS).write_text(text, encoding="utf-8")
    part.replace(folder)
    return Portraits.load(folder)


def _members(shard: Path) -> Iterable[tuple[dict[str, Any], np.ndarray]]:
    """The (record, picture (S, S, 3)) pairs of a shard; a picture's files follow one another."""
    with tarfile.open(shard) as tar:
        image = None
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None  # the shards hold plain files alone
            if member.name.endswith(".json"):
                assert image is not None  # the picture stands before its record
                yield json.load(stream), image
            elif member.name.count(".") == 1 and member.name.endswith(".png"):
                image = np.asarray(Image.open(io.BytesIO(stream.read())))
