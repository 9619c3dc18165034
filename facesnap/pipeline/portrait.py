"""A picture made, and the text inside it, which the WebUI extension reads like its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from facesnap.checkpoints.adapter import Adapter
from facesnap.faces.identity import Identity
from facesnap.faces.picture import read_picture
from facesnap.hosts.diffusers import Sampling
from facesnap.pipeline.cache import picture_digest
from facesnap.settings.field_types import Box
from facesnap.settings.infotext import Named, PersonFacts, fields, parameters
from facesnap.settings.model import Person, Pose, Settings
from facesnap.settings.words import PRESETS
from facesnap.version import __version__

KEY = "parameters"  # of the PNG text chunk, as the WebUIs have it


@dataclass(frozen=True)
class Portrait:
    """One picture made.

    Attributes:
        image: RGB. seed: its own. similarity: per person, cosine of the recogniser's vectors of reference and
            picture, -1..1, or None where the picture shows no face.
        infotext: prompt and parameters, as the WebUIs write them.
    """

    image: Image.Image
    seed: int
    similarity: tuple[float | None, ...] = ()
    infotext: str = ""

    def save(self, path: Path) -> None:
        """Write a PNG with the infotext inside; the folder is made."""
        info = PngImagePlugin.PngInfo()
        add = info.add_text if self.infotext.isascii() else info.add_itxt
        add(KEY, self.infotext)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image.save(path, pnginfo=info)


def resolved(person: Person, adapter: Adapter) -> Person:
    """The person with numbers in the place of the adapter's suggestions."""
    spec = adapter.ffrnet_spec
    suggested = 0.0 if spec is None else spec.strength
    return replace(
        person,
        strength=adapter.spec.strength if person.strength is None else person.strength,
        structure=suggested if person.structure is None else person.structure,
    )


def infotext(
    sampling: Sampling,
    model: str,
    adapter: Adapter,
    people: Sequence[tuple[Identity, Person]],
    settings: Settings,
    portrait: Portrait,
) -> str:
    """Parameters in the WebUI's form: prompt, negative prompt, then `key: value` pairs; defaults are omitted.

    Args:
        people, settings: with what the adapter can use alone (`facesnap.pipeline.usable`).
    """
    params: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampling.sampler,
        "CFG scale": sampling.cfg,
        "Seed": portrait.seed,
        "Size": f"{sampling.size[0]}x{sampling.size[1]}",
        "Model": model,
    }
    written = replace(
        settings,
        enabled=True,
        people=tuple(_written(adapter, who, person, settings.preset) for who, person in people),
    )
    scores = [*portrait.similarity, *[None] * len(people)]
    seen = [facts_of(who, person, score) for (who, person), score in zip(people, scores, strict=False)]
    params |= fields(written, Named(adapter.spec.name, adapter.digest), seen, version=__version__)
    return parameters(sampling.prompt, sampling.negative_prompt, params)


def _written(adapter: Adapter, identity: Identity, person: Person, preset: str) -> Person:
    """The person by name; settings of the landmarks are left out where their strength is 0."""
    person = resolved(replace(person, references=(), identity=identity.name), adapter)
    if adapter.ffrnet is None or person.structure != 0.0:
        return person
    window = {key: PRESETS[preset][key] for key in ("structure_start", "structure_end")}
    return replace(person, structure=0.0, pose=Pose(), **window)


def facts_of(identity: Identity, person: Person, similarity: float | None = None) -> PersonFacts:
    """The facts that an infotext holds about a person; pictures are paths or arrays."""
    region = None if isinstance(person.region, Box) else person.region
    return PersonFacts(identity.digest, identity.references, similarity, _digest(region), _digest(person.pose.image))


def _digest(picture: Any) -> str:
    """Of a picture's samples; "" without one."""
    if picture is None:
        return ""
    return picture_digest(np.asarray(read_picture(picture) if isinstance(picture, Path) else picture))
