"""The attribute judge: the attributes of a prompt that a picture shows, learned on training people alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.errors import CheckpointError
from facesnap.evaluation.blocks import Block, stem, to_tensor
from facesnap.remedies import command
from facesnap.training.network_files import SmallNetwork, metadata_of
from facesnap.world import captions, look, palette

# Attribute -> its values, from the world's own tables: a judge must not depend on which values its data happen to show.
VALUES: dict[str, tuple[str, ...]] = {
    "hair": tuple(look.HAIR), "hair_colour": tuple(look.HAIR_COLOURS), "glasses": tuple(look.GLASSES),
    "beard": tuple(look.BEARDS), "garment": tuple(look.GARMENTS), "clothing_colour": tuple(palette.CLOTHES),
    "background": tuple(palette.BACKGROUNDS), "light": tuple(look.LIGHTS), "style": tuple(look.STYLES),
}  # fmt: skip
COLOURS = ("hair_colour", "clothing_colour", "background")  # a colourless style shows none of them
SIDE = 128
WIDTHS = (24, 48, 96, 128, 160)
BATCH = 64


def named(attributes: Mapping[str, Any]) -> list[str]:
    """Those attributes of a look that its caption names, and so a picture can obey."""
    silent = set(COLOURS) if attributes["style"] in captions.COLOURLESS else set()
    if attributes["hair"] == "bald":
        silent.add("hair_colour")
    # A caption without glasses or beard asks for a face without them.
    return [name for name in VALUES if name not in silent]


class AttributeJudge(SmallNetwork):
    """Pictures (B, 3, 128, 128) RGB in 0..1 -> logits (B, values) of each attribute."""

    stage = "attributes"
    metadata: ClassVar[dict[str, str]] = {"values": json.dumps(VALUES)}

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(stem(WIDTHS[0]), *(Block(inner, outer, 2) for inner, outer in pairwise(WIDTHS)))
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTHS[-1], len(values)) for name, values in VALUES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        seen = self.body(pictures * 2 - 1)  # (B, 160, 4, 4)
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1)
        return {name: head(pooled).float() for name, head in self.heads.items()}

    @classmethod
    def load(cls, file: Path) -> AttributeJudge:
        """Read what `save` wrote, frozen; CheckpointError where it is another file, or made for other values."""
        model = super().load(file)
        if (found := metadata_of(file).get("values")) != cls.metadata["values"]:
            raise CheckpointError(
                f"{file} knows other attributes: {found}.",
                expected=cls.metadata["values"],
                remedy=f"train it again with {command('tiny attributes')}.",
            )
        return model

    @torch.no_grad()
    def values(self, images: np.ndarray) -> dict[str, list[str]]:
        """Pictures (N, H, W, 3) uint8 RGB -> the likeliest value of each attribute."""
        chosen: dict[str, list[str]] = {name: [] for name in VALUES}
        for start in range(0, len(images), BATCH):
            for name, logits in self(fitted(to_tensor(images[start : start + BATCH]))).items():
                chosen[name] += [VALUES[name][i] for i in logits.argmax(1).tolist()]
        return chosen


def fitted(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) at the judge's side."""
    if pictures.shape[-2:] == (SIDE, SIDE):
        return pictures
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def obedience(shown: Mapping[str, Sequence[str]], wanted: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Whether pictures show what was asked for.

    Args:
        shown: the judge's values of N pictures. wanted: the N looks' attributes.

    Returns:
        By attribute (N,) float: 1 right, 0 wrong, NaN where the prompt does not name it.
    """
    return {
        name: np.array(
            [float(values[i] == look[name]) if name in named(look) else np.nan for i, look in enumerate(wanted)]
        )
        for name, values in shown.items()
    }
