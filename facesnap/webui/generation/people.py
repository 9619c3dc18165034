"""People of the WebUI's settings -> people as the pipeline takes them."""

from __future__ import annotations

import dataclasses

import numpy as np

from facesnap.errors import SettingsError
from facesnap.pipeline.region import region_map
from facesnap.settings.model import Person, Pose


def reference_names(person: Person, number: int) -> list[str]:
    """The words of messages for a person's photos. number: the person's, from 1."""
    return [f"reference {n} of person {number}" for n in range(1, len(person.references) + 1)]


def person_for(person: Person, number: int, init: np.ndarray | None = None) -> Person:
    """A person whose pictures are arrays, as the pipeline takes it.

    Args:
        person: with what the adapter can use alone (`facesnap.pipeline.usable`).
        number: the person's from 1, for messages.
        init: the picture that img2img starts from, or None.

    Raises:
        SettingsError: the pose picture or the init image is missing.
    """
    return dataclasses.replace(person, region=region_map(person.region), pose=pose_for(person.pose, init, number))


def pose_for(pose: Pose, init: np.ndarray | None = None, person: int = 1) -> Pose:
    """The pose with the init image as its picture, where it comes from there; see `person_for`."""
    if pose.source == "init":
        return dataclasses.replace(pose, source="picture", image=_given(init, person, "the init image", "use img2img"))
    if pose.source == "picture":
        _given(pose.image, person, f"the pose picture of person {person}", "add one")
    return pose


def _given(picture: np.ndarray | None, person: int, name: str, remedy: str) -> np.ndarray:
    if picture is None:
        raise SettingsError(
            f"The pose of person {person} is to come from {name}, which is missing.",
            expected="a picture with a face",
            remedy=f"{remedy}, or choose another pose source",
        )
    return picture
