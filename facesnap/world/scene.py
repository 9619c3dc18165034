"""A posed scene: the head with its expression, turned, with hair, garment, teeth and glasses around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from facesnap.landmarks.pose import rotation
from facesnap.world import skin
from facesnap.world.attire import Wardrobe, glasses
from facesnap.world.hair import Hair, HairGrid
from facesnap.world.head import HeadModel, head_model
from facesnap.world.look import Look
from facesnap.world.mesh import Material, Mesh, merge, mesh, vertex_normals
from facesnap.world.person import SyntheticPerson
from facesnap.world.seeds import stream

_PIVOT = np.array([0.0, -0.035, 0.0], dtype=np.float32)  # m, the head turns about it


@dataclass(frozen=True)
class PreparedPerson:
    """Parts that are computed once a person: the neutral head (V, 3) and the marks on its skin."""

    person: SyntheticPerson
    neutral: np.ndarray
    marks: skin.Marks


@dataclass(frozen=True)
class Scene:
    """Meshes in their places.

    Attributes:
        mesh: everything; the head comes first.
        head: (V, 3) vertices of the posed head, without a beard's bulk: the points' truth.
        turn: (3, 3) rotation of the head.
        hair: None for a bald head.
        beard: where it grows, a sheet of facesnap.world.skin, or None.
    """

    mesh: Mesh
    head: np.ndarray
    turn: np.ndarray
    hair: Hair | None
    beard: np.ndarray | None


class Stage:
    """Builds scenes with one head model."""

    def __init__(self, model: HeadModel) -> None:
        self._model = model
        self._grid = HairGrid(model)
        self._wardrobe = Wardrobe(model)

    def scene(self, prepared: PreparedPerson, look: Look) -> Scene:
        """Everything that the camera may see."""
        model, view, person = self._model, look.view, prepared.person
        expressed = model.expressed(prepared.neutral, view.actions)
        turn = rotation(view.yaw, view.pitch, view.roll).astype(np.float32)
        head = _posed(expressed, turn, model.follow)
        normals = vertex_normals(head, model.faces)
        outer, beard = head, None
        if look.beard != "none":
            beard = skin.draw_beard(look.beard, model, stream("beard", person.seed, look.seed))
            grows = skin.look_up(beard, model.mean) * model.skin * (model.mean[:, 2] < 0)
            bulk = grows * skin.BEARD_DEPTH.get(look.beard, 0.0)
            outer = head + normals * bulk[:, None].astype(np.float32)
        parts = [
            Mesh(outer, model.faces, model.material, model.mean, vertex_normals(outer, model.faces), model.openness)
        ]
        hair = None
        if look.hair != "bald":
            hair = self._grid.grow(look.hair, outer, normals, turn, stream("hair", person.seed, look.seed))
            parts += hair.meshes
        weight, shoulders = person.head.phenotypes["weight"], float(np.deg2rad(view.shoulders))
        parts += self._wardrobe.body(outer, look.garment, person.masculine, weight, shoulders)
        for vertices, faces, coords in self._wardrobe.teeth(prepared.neutral, expressed):
            whole = np.ones(len(vertices), dtype=np.float32)
            parts.append(mesh(_posed(vertices, turn, whole), faces, Material.TEETH, coords))
        if look.glasses != "none":
            parts += glasses(look.glasses, model.points(head), turn)
        return Scene(merge(parts), head, turn, hair, beard)


@lru_cache(maxsize=1)
def stage() -> Stage:
    """The one stage of this process: pinning the hair to the head takes a second."""
    return Stage(head_model())


def _posed(vertices: np.ndarray, turn: np.ndarray, follow: np.ndarray) -> np.ndarray:
    """Vertices (N, 3) turned about the neck, each as far as it follows the head (N,)."""
    offset = vertices.astype(np.float32) - _PIVOT
    share = follow[:, None]
    return _PIVOT + offset * (1 - share) + (offset @ turn.T) * share
