"""The pose of the settings -> the pose of the landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from facesnap.errors import SettingsError
from facesnap.landmarks.recombination import PoseSpec
from facesnap.pipeline.shape import REFERENCE, PoseSettings
from facesnap.settings.model import Pose
from facesnap.webui.generation.pictures import decode


def pose_settings(pose: Pose, init: Any = None, person: int = 1) -> PoseSettings | None:
    """What `Shapes.shape` needs for a pose of the settings; None where no landmarks are to act.

    Numbers and expression of the settings replace the source's own. The source "canvas" has no driver: what is left
    out is a frontal, neutral face of half the picture's shorter side in its middle (the defaults of PoseSpec).

    Args:
        pose: of one person.
        init: the picture that img2img starts from, as the host has it; None in txt2img.
        person: its number from 1, for messages.

    Raises:
        SettingsError: the source is "picture" without a picture, or "init" where there is no init image.
        PictureError: the pose picture or the init image cannot be read.
    """
    if pose.source == "none":
        return None
    driver: Any = None
    if pose.source == "reference":
        driver = REFERENCE
    elif pose.source == "picture":
        driver = _picture(pose.image, person, f"the pose picture of person {person}", "add one")
    elif pose.source == "init":
        driver = _picture(init, person, "the init image", "use img2img")
    return PoseSettings(driver, pose_spec(pose), pose.framing)  # type: ignore[arg-type]


def pose_spec(pose: Pose) -> PoseSpec:
    """The numbers and the expression of a pose; what is not given is None."""
    position = None if pose.x is None and pose.y is None else (pose.x, pose.y)
    return PoseSpec(pose.yaw, pose.pitch, pose.roll, position, pose.size, pose.expression)


def _picture(value: Any, person: int, name: str, remedy: str) -> np.ndarray:
    if value is None:
        raise SettingsError(
            f"The pose of person {person} is to come from {name}, which is missing.",
            expected="a picture with a face",
            remedy=f"{remedy}, or choose another pose source",
        )
    return decode(value, name)
