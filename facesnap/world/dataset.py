"""Datasets of the world: tar shards in webdataset's layout, resumable, the same bytes for any number of workers.

A shard holds the pictures of a run of people. The members of picture 3 of person 17 are

    0000017_003.png          the picture
    0000017_003.json         Truth.record(): caption, attributes, view, 72 points, face box
    0000017_003.txt          the caption alone
    0000017_003.regions.png  kind of surface by pixel, numbers of `regions` in world.json

`world.json` beside the shards says what the folder holds.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from facesnap.errors import SettingsError
from facesnap.files import write_atomically
from facesnap.sheet import tiled
from facesnap.world.captions import caption
from facesnap.world.look import Look
from facesnap.world.person import SyntheticPerson
from facesnap.world.render import World, checked_size
from facesnap.world.splits import people as checked_people
from facesnap.world.splits import split_of
from facesnap.world.truth import REGIONS, Picture

FORMAT = 1
MANIFEST = "world.json"
PEOPLE_PER_SHARD = 32

Progress = Callable[[Iterable[Path], int], Iterable[Path]]  # (finished shards, how many there will be)


@dataclass(frozen=True)
class Dataset:
    """Content of a folder of pictures.

    Attributes:
        first, people: seed of the first person, and how many follow one another; all of one split.
        pictures: of each person.
        size: side in pixels.
    """

    first: int
    people: int
    pictures: int
    size: int = 128

    def __post_init__(self) -> None:
        checked_people(self.first, self.people)
        checked_size(self.size)
        if self.pictures < 1:
            raise SettingsError(
                f"{self.pictures} pictures of each person.", expected="at least one.", remedy="change --pictures."
            )

    def shards(self) -> dict[str, range]:
        """File name -> people in it."""
        stop = self.first + self.people
        starts = range(self.first, stop, PEOPLE_PER_SHARD)
        parts = [range(start, min(start + PEOPLE_PER_SHARD, stop)) for start in starts]
        return {f"people-{part[0]:07d}-{part[-1]:07d}.tar": part for part in parts}

    def manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "split": split_of(self.first),
            **vars(self),
            "regions": list(REGIONS),
            "anny": version("anny"),
        }

    def write(self, folder: Path, *, workers: int = 1, progress: Progress = lambda done, count: done) -> list[Path]:
        """Render every shard that is not there yet.

        A shard appears under its name only when it is whole, so an interrupted run goes on where it stopped.

        Args:
            folder: made if missing.
            workers: processes; 1 renders in this one.
            progress: wraps the finished shards, e.g. tqdm.

        Returns:
            All shards of the dataset, in order.

        Raises:
            SettingsError: the folder holds another dataset or cannot be written to, or a worker died.
        """
        shards = self.shards()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim(folder / MANIFEST)
            missing = {name: part for name, part in shards.items() if not (folder / name).is_file()}
            jobs = [(folder / name, part, self.pictures, self.size) for name, part in missing.items()]
            for _ in progress(_rendered(jobs, workers), len(jobs)):
                pass
        except OSError as error:
            raise SettingsError(
                f"The pictures cannot be written to {folder} ({error}).",
                expected="a folder that can be written to, with 30 kB of room a picture.",
                remedy="choose another, or make room; finished shards are kept.",
            ) from error
        return [folder / name for name in shards]

    def _claim(self, file: Path) -> None:
        """Write the manifest, or check that the one in place is this dataset's."""
        wanted = self.manifest()
        if not file.is_file():
            file.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            raise SettingsError(
                f"{file} describes another dataset: {found}.",
                expected=str(wanted),
                remedy="choose an empty folder, or the options that the folder was made with.",
            )


Job = tuple[Path, range, int, int]  # file, people, pictures, size


def _rendered(jobs: list[Job], workers: int) -> Iterator[Path]:
    """Render jobs and yield each file when it is whole."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(write_shard, jobs)
        return
    context = multiprocessing.get_context("spawn")  # the same on every system; forking with torch's threads is not safe
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        try:
            for future in as_completed([pool.submit(write_shard, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise SettingsError(
                "A rendering process died, perhaps for want of memory.",
                expected="about 1 GB for each worker.",
                remedy="start again with fewer --workers; finished shards are kept.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def write_shard(job: Job) -> Path:
    """Render one shard."""
    write_atomically(job[0], partial(_write_tar, job))
    return job[0]


def _write_tar(job: Job, part: Path) -> None:
    _, people, pictures, size = job
    world = _world()
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for seed in people:
            person = SyntheticPerson.sample(seed)
            for number in range(pictures):
                picture = world.render(person, Look.sample(number, person), size)
                for name, content in members(picture, f"{seed:07d}_{number:03d}"):
                    info = tarfile.TarInfo(name)  # no owner, no time: the bytes depend on the picture alone
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def members(picture: Picture, key: str) -> list[tuple[str, bytes]]:
    """The files of one picture: (name, content)."""
    record = json.dumps(picture.truth.record(), separators=(",", ":"))
    return [
        (f"{key}.png", _png(picture.image)),
        (f"{key}.json", record.encode()),
        (f"{key}.txt", caption(picture.truth.look).encode()),
        (f"{key}.regions.png", _png(picture.truth.regions)),
    ]


def mosaic(people: Iterable[int], pictures: int, *, size: int = 128) -> Image.Image:
    """A row of pictures for each person, enlarged."""
    world, chosen = _world(), map(SyntheticPerson.sample, people)
    return tiled([[world.render(one, Look.sample(n, one), size).image for n in range(pictures)] for one in chosen])


_world = lru_cache(maxsize=1)(World)  # the one of this process


def _one_thread() -> None:
    """Workers share the machine by processes, not by threads."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return stream.getvalue()
