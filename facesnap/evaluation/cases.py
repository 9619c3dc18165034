"""Cases of an evaluation: people, and for each of them pictures with a prompt, a seed and, in the world, a truth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.errors import SettingsError
from facesnap.faces.picture import read_picture
from facesnap.files import PICTURE_SUFFIXES, extensible
from facesnap.world import Look, SyntheticPerson, World, caption
from facesnap.world.splits import SPLITS, split_of

REFERENCE_YAW = 12.0  # degrees; people give photos that show them


@dataclass(frozen=True, eq=False)
class Case:
    """One picture that is asked for.

    Attributes:
        name: of files, unique. prompt, seed: the same for every adapter.
        truth: (H, W, 3) uint8 RGB, another true picture of the person, in the world just this one; or None.
        points: (72, 2) px asked for, or None. attributes: of the look that the prompt describes, or None.
    """

    name: str
    prompt: str
    seed: int
    truth: np.ndarray | None = None
    points: np.ndarray | None = None
    attributes: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class EvaluatedPerson:
    """One person with references (RGB uint8 pictures) and what is asked for of them."""

    name: str
    references: list[np.ndarray]
    cases: list[Case] = field(default_factory=list)


def world_people(
    first: int, people: int, pictures: int, size: int, world: World | None = None
) -> list[EvaluatedPerson]:
    """People of the synthetic world.

    The reference is a photo in soft light without glasses; what is asked for are looks of the world as they come, so
    that the true pictures say what any model could reach. `world`: one that is built already.

    Raises:
        SettingsError: the people are not held out.
    """
    if split_of(first) != "held_out":
        raise SettingsError(
            f"People from {first} on are those that models are trained on.",
            expected=f"held-out people, from {SPLITS['held_out'].start} on",
            remedy="leave --first out",
        )
    world, out = world or World(), []
    for seed in range(first, first + people):
        person = SyntheticPerson.sample(seed)
        look = Look.sample(0, person)
        view = replace(look.view, yaw=float(np.clip(look.view.yaw, -REFERENCE_YAW, REFERENCE_YAW)))
        plain = replace(look, style="photo", glasses="none", light="soft", view=view)
        evaluated = EvaluatedPerson(str(seed), [world.render(person, plain, size).image])
        for number in range(1, pictures + 1):
            picture = world.render(person, Look.sample(number, person), size)
            asked = picture.truth
            evaluated.cases.append(
                Case(
                    f"{seed}-{number}", caption(asked.look), _seed(evaluated.name, number), picture.image,
                    asked.points.astype(np.float64), asked.look.attributes(),
                )
            )  # fmt: skip
        out.append(evaluated)
    return out


def folder_people(folder: Path, prompts: Path, references: int = 1) -> list[EvaluatedPerson]:
    """People of a folder with one sub-folder of photos each; the first photos by name are the references.

    Args:
        prompts: text file, one prompt a line. references: how many photos are references; the next one, where there
            is one, is the true picture that distinguishes copying from likeness.

    Raises:
        SettingsError: no people, no photos or no prompts. PictureError: a photo cannot be read.
    """
    wanted = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    people = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not wanted or not people:
        raise SettingsError(
            f"{len(people)} people in {folder} and {len(wanted)} prompts in {prompts}.",
            expected="one sub-folder of photos a person, and one prompt a line",
            remedy="correct the folder or the prompts",
        )
    out = []
    for person in people:
        photos = sorted(file for file in person.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if len(photos) < references:
            raise SettingsError(
                f"{person} holds {len(photos)} photos.",
                expected=f"at least {references}",
                remedy="add photos, or take the folder away",
            )
        pixels = [read_picture(file, name=str(file)) for file in photos[: references + 1]]
        truth = pixels[references] if len(pixels) > references else None
        name = extensible(person.name)
        cases = [Case(f"{name}-{n}", prompt, _seed(person.name, n), truth) for n, prompt in enumerate(wanted, 1)]
        out.append(EvaluatedPerson(name, pixels[:references], cases))
    return out


def _seed(name: str, number: int) -> int:
    """The same for every adapter, another for every picture."""
    return zlib.crc32(f"{name}/{number}".encode())
