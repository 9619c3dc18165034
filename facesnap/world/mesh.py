"""Meshes of one scene: vertices, triangles and what a painter needs to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike


class Material(IntEnum):
    """Material of a triangle."""

    SKIN = 0
    TONGUE = 1
    EYE = 2
    TEETH = 3
    HAIR = 4
    BUN = 5
    BODY = 6  # neck and garment
    HOOD = 7
    FRAME = 8
    LENS = 9


TWO_SIDED = (Material.HAIR, Material.LENS, Material.TEETH)


@dataclass(frozen=True)
class Mesh:
    """One object, x right, y down, z away, in metres.

    Attributes:
        vertices: (N, 3) float32.
        faces: (T, 3) int64.
        material: (T,) int64 of Material.
        coords: (N, 3) float32, where the painter looks the surface up: the mean head's position for skin, eyes
            and tongue, angles and lengths for the rest.
        normals: (N, 3) float32.
        openness: (N,) float32 in 0..1, less in creases.
    """

    vertices: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    coords: np.ndarray
    normals: np.ndarray
    openness: np.ndarray


def mesh(
    vertices: np.ndarray, faces: np.ndarray, material: Material, coords: np.ndarray, away: np.ndarray | None = None
) -> Mesh:
    """An object of one material with smooth normals, its faces turned to look along `away` (N, 3) where given."""
    vertices = vertices.astype(np.float32)
    normals = vertex_normals(vertices, faces)
    if away is not None and (normals * away).sum() < 0:
        faces = faces[:, ::-1]
        normals = vertex_normals(vertices, faces)
    materials, openness = np.full(len(faces), material, dtype=np.int64), np.ones(len(vertices), dtype=np.float32)
    return Mesh(vertices, faces, materials, coords.astype(np.float32), normals, openness)


def merge(parts: Sequence[Mesh]) -> Mesh:
    """All objects as one mesh."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    moved = [replace(part, faces=part.faces + start) for part, start in zip(parts, starts, strict=True)]
    return Mesh(*(np.concatenate([getattr(part, one.name) for part in moved]) for one in fields(Mesh)))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals, (N, 3) float32, outwards for triangles that are anticlockwise from outside."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # (T, 3)
    flat = faces.ravel()
    sums = [np.bincount(flat, np.repeat(normal[:, axis], 3), len(vertices)) for axis in range(3)]
    return unit(np.stack(sums, axis=1)).astype(np.float32)


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid of rows * columns vertices: (2 (rows - 1) (columns - 1), 3)."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    return np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])


def tube(line: np.ndarray, radius: float, material: Material, sides: int = 6) -> Mesh:
    """A tube along a line (N, 3)."""
    forward = unit(np.gradient(line, axis=0))
    helper = np.where(np.abs(forward[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    across = unit(np.cross(forward, helper))
    up = np.cross(forward, across)
    turn = np.linspace(0, 2 * np.pi, sides + 1)[None, :, None]
    ring = np.cos(turn) * across[:, None] + np.sin(turn) * up[:, None]  # (N, sides + 1, 3)
    vertices, away = (line[:, None] + radius * ring).reshape(-1, 3), ring.reshape(-1, 3)
    return mesh(vertices, grid_faces(len(line), sides + 1), material, np.zeros_like(vertices), away)


def f32(values: ArrayLike) -> np.ndarray:
    """An array of float32."""
    return np.array(values, dtype=np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors at length 1 along the last axis."""
    return vectors / (np.sqrt(dot(vectors, vectors))[..., None] + 1e-12)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products along the last axis. (einsum is many times faster here than a sum over three numbers.)"""
    return np.einsum("...k,...k->...", a, b)


def blended(values: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values (N, D) of vertices at barycentric places: corners (M, 3), weights (M, 3) -> (M, D)."""
    mixed = values[corners[:, 0]] * weights[:, :1]
    mixed += values[corners[:, 1]] * weights[:, 1:2]
    mixed += values[corners[:, 2]] * weights[:, 2:]
    return mixed


def smoothstep(low: float, high: float, x: np.ndarray | float) -> np.ndarray:
    """0 at `low` and before, 1 at `high` and beyond (either may be the larger), smooth between."""
    t = np.clip((np.asarray(x) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
