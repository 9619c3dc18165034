"""A rendered picture and what is known about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from facesnap.world.captions import caption
from facesnap.world.look import Look
from facesnap.world.person import SyntheticPerson
from facesnap.world.splits import split_of

# Kinds of surface, in the order of their numbers in a region map.
REGIONS = ("background", "skin", "eyes", "mouth", "hair", "neck", "clothing", "glasses")


@dataclass(frozen=True)
class Truth:
    """Everything known about a picture.

    Attributes:
        person: the identity.
        look: attributes, expression and pose.
        points: (72, 2) float32 px in the project's order; (0, 0) is the picture's upper left corner.
        seen: (72,) bool, the point is in the picture and not hidden by hair, glasses or the head itself.
        box: the face from hairline to chin, left, top, right, bottom in px.
        regions: (size, size) uint8, numbers of REGIONS.
    """

    person: SyntheticPerson
    look: Look
    points: np.ndarray
    seen: np.ndarray
    box: tuple[float, float, float, float]
    regions: np.ndarray

    def record(self) -> dict[str, Any]:
        """All but the region map as plain data, for a JSON sidecar."""
        view = asdict(self.look.view)
        view["gaze"], view["shift"] = list(view["gaze"]), list(view["shift"])
        view["actions"] = {name: round(amount, 6) for name, amount in view["actions"].items()}
        return {
            "person": self.person.seed,
            "split": split_of(self.person.seed),
            "identity": self.person.traits(),
            "caption": caption(self.look),
            "attributes": self.look.attributes(),
            "view": view,
            "points": np.round(self.points.astype(np.float64), 3).tolist(),
            "seen": self.seen.tolist(),
            "box": [round(side, 2) for side in self.box],
        }


@dataclass(frozen=True)
class Picture:
    """`image` (size, size, 3) uint8 RGB and its truth."""

    image: np.ndarray
    truth: Truth


def face_box(mean: np.ndarray, projected: np.ndarray) -> tuple[float, float, float, float]:
    """The box around the face's vertices, which are known by their place on the mean head (V, 3)."""
    face = (mean[:, 1] > -0.207) & (mean[:, 1] < -0.030) & (mean[:, 2] < -0.062)
    low, high = projected[face].min(0), projected[face].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
