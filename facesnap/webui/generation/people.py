"""People of the settings -> what the pipeline takes: reference pictures, regions, poses, strengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facesnap.checkpoints.adapter import Adapter
from facesnap.faces.face import Choice
from facesnap.families.registry import find
from facesnap.pipeline.person import PersonSettings
from facesnap.webui.generation.args import Box, Person, Settings
from facesnap.webui.generation.pictures import decode
from facesnap.webui.generation.poses import pose_settings

REGION_SIDE = 256  # cells of the map of a region given as a box


def reference_pictures(person: Person, number: int) -> tuple[list[np.ndarray], list[str]]:
    """A person's photos as RGB uint8 (H, W, 3), and what messages call them.

    Raises:
        PictureError: one of them is no picture.
    """
    names = [f"reference {n} of person {number}" for n in range(1, len(person.references) + 1)]
    return [decode(one, name) for one, name in zip(person.references, names, strict=True)], names


def face_choice(person: Person) -> Choice:
    """A word, or the face's number from the largest (0) down."""
    return int(person.face) if person.face.isdigit() else person.face


def person_settings(
    settings: Settings, person: Person, number: int, adapter: Adapter, init: Any = None
) -> PersonSettings:
    """What the pipeline is told of one person.

    Args:
        settings: of the whole generation. number: the person's from 1, for messages.
        adapter: without an FFRNet there are no landmarks; only PuLID's has a mode.
        init: the picture that img2img starts from, or None.

    Raises:
        SettingsError, PictureError: the pose or the region cannot be used.
    """
    shaped = adapter.ffrnet is not None
    pose = pose_settings(person.pose, init, number) if shaped else None
    return PersonSettings(
        strength=person.strength,
        s_struct=person.s_struct,
        start=person.start,
        end=person.end,
        block_strengths=dict(person.blocks),
        region=region_map(person.region, f"the region of person {number}"),
        structure=(person.structure if pose is not None else 0.0) if shaped else None,
        structure_start=person.structure_start,
        structure_end=person.structure_end,
        pose=pose,
        lora=person.lora,
        lora_in_region=person.lora_in_region,
        match_model_card=settings.model_card,
        pulid_mode=settings.pulid_mode if find(adapter.spec.family).modes else None,
    )


def unused_pose(person: Person, adapter: Adapter) -> bool:
    """Whether a pose was chosen that an adapter without FFRNet cannot follow."""
    asked = person.pose.source not in ("none", "reference") or person.pose.numbers or person.pose.expression
    return bool(adapter.ffrnet is None and person.structure > 0 and asked)


def region_map(region: object, name: str) -> torch.Tensor | None:
    """A region as a map (H, W), 0..1: a box by fractions, or a mask picture, white where the person is."""
    if region is None:
        return None
    if isinstance(region, Box):
        columns = _coverage(region.x, region.x + region.w)
        return _coverage(region.y, region.y + region.h)[:, None] * columns[None]  # (H, 1) * (1, W)
    grey = decode(region, name).mean(axis=2) / 255  # (H, W, 3) -> (H, W)
    return torch.from_numpy(grey).float().clamp(0, 1)


def _coverage(start: float, end: float) -> torch.Tensor:
    """(REGION_SIDE,) share of each cell that lies between two fractions."""
    edges = torch.arange(REGION_SIDE + 1) / REGION_SIDE
    return ((edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0) * REGION_SIDE).clamp(0, 1)
