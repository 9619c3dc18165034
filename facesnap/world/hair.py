"""Hair: a shell over the scalp whose edge is cut out strand by strand.

The shell is a grid in polar angles around the crown (theta from the crown down, phi around it, 0 at the forehead),
pinned to the mean head, so that it follows every shape and pose. A cut gives its thickness and, for each azimuth,
the theta where it ends; long hair hangs from the widest ring under gravity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facesnap.world.head import HeadModel
from facesnap.world.mesh import Material, Mesh, blended, grid_faces, mesh, smoothstep, unit

_CENTRE = np.array([0.0, -0.150, -0.030])  # m, inside the mean skull
_TILT = np.deg2rad(20)  # the crown's axis leans back
CROWN = np.array([0.0, -np.cos(_TILT), np.sin(_TILT)])
_FRONT = np.array([0.0, -np.sin(_TILT), -np.cos(_TILT)])
_SIDE = np.array([1.0, 0.0, 0.0])
_AROUND, _DOWN = 97, 44  # grid size
_LOWEST = 2.45  # theta of the last ring, radians
_HANG_FROM = 1.50  # theta of the ring that long hair hangs from
EDGE_STEPS = 1440
_NEVER = 9.0  # an edge beyond the grid: not cut here
# The natural hairline on the mean head, from the forehead over temple and ear to the nape.
_HAIRLINE = np.array([
    [0, -0.205, -0.128], [0.030, -0.207, -0.121], [0.052, -0.196, -0.100], [0.066, -0.172, -0.078],
    [0.071, -0.145, -0.060], [0.074, -0.128, -0.045], [0.075, -0.158, -0.028], [0.074, -0.158, 0.005],
    [0.070, -0.125, 0.022], [0.055, -0.085, 0.040], [0.03, -0.070, 0.05], [0, -0.066, 0.052],
])  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """A hair style. Lengths in m.

    Attributes:
        thickness: over the skull.
        ragged: how unevenly the strands end, radians.
        close: share of the thickness that is cut away at the sides.
        length: how far it hangs down from the widest ring; 0 does not hang.
        fringe: the forehead is covered.
    """

    thickness: float
    ragged: float
    close: float = 0.0
    length: float = 0.0
    fringe: bool = False


CUTS: dict[str, Cut] = {
    "buzz cut": Cut(0.003, 0.008),
    "short": Cut(0.011, 0.012, close=0.50),
    "side parting": Cut(0.014, 0.012, close=0.35),
    "quiff": Cut(0.011, 0.010, close=0.65),
    "bob": Cut(0.018, 0.035, length=0.085, fringe=True),
    "short with fringe": Cut(0.013, 0.050, fringe=True),
    "long": Cut(0.016, 0.012, length=0.17),
    "long with fringe": Cut(0.016, 0.050, length=0.17, fringe=True),
    "afro": Cut(0.038, 0.020, close=0.30),
    "bun": Cut(0.006, 0.008),
}


class Hair(NamedTuple):
    """Grown hair.

    Attributes:
        meshes: the shell, and a bun where the cut has one.
        edge: (EDGE_STEPS,) theta where the shell ends, for phi from -pi to pi.
        curly: no strands but curls.
    """

    meshes: list[Mesh]
    edge: np.ndarray
    curly: bool


def edge_index(phi: np.ndarray) -> np.ndarray:
    """Index into an edge table for angles around the crown."""
    return ((phi + np.pi) / (2 * np.pi) * (EDGE_STEPS - 1)).astype(np.int64).clip(0, EDGE_STEPS - 1)


class HairGrid:
    """The grid, pinned to the mean head."""

    def __init__(self, model: HeadModel) -> None:
        self._model = model
        around, down = np.linspace(-np.pi, np.pi, _AROUND), np.linspace(0.02, _LOWEST, _DOWN)
        theta, phi = np.meshgrid(down, around, indexing="ij")
        self.theta, self.phi = theta.ravel(), phi.ravel()
        ring = np.cos(self.phi)[:, None] * _FRONT + np.sin(self.phi)[:, None] * _SIDE
        self._rays = np.cos(self.theta)[:, None] * CROWN + np.sin(self.theta)[:, None] * ring  # (G, 3)
        self.faces = grid_faces(_DOWN, _AROUND)
        self._triangle, self._weights = self._pins()
        line = unit(_HAIRLINE - _CENTRE)
        azimuth, height = np.abs(np.arctan2(line @ _SIDE, line @ _FRONT)), np.arccos(line @ CROWN)
        order = np.argsort(azimuth)
        self._edge_phi = np.linspace(-np.pi, np.pi, EDGE_STEPS)
        self._hairline = np.interp(np.abs(self._edge_phi), azimuth[order], height[order])

    def _pins(self) -> tuple[np.ndarray, np.ndarray]:
        """Triangle (G,) and barycentric weights (G, 3) of the outermost skin that each ray meets."""
        model = self._model
        outside = (model.material == Material.SKIN) & (model.ears.of_faces < 0.3) & (model.mouth_inside.of_faces < 0.3)
        outside &= (model.mean[model.faces, 1] < -0.04).all(1)
        chosen = np.flatnonzero(outside)
        corners = model.mean[model.faces[chosen]].astype(np.float64)
        origin = _CENTRE - corners[:, 0]
        first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        across = np.cross(origin, first)
        x, y, z = np.ascontiguousarray(second.T)  # by axes: sums of three along a row are slow
        by_axis = np.ascontiguousarray(first.T), np.ascontiguousarray(origin.T)
        reach = (second * across).sum(1)
        triangle, weights = np.full(len(self._rays), -1), np.zeros((len(self._rays), 3), dtype=np.float32)
        for i, ray in enumerate(self._rays):  # Moeller-Trumbore, all triangles at once
            side = (ray[1] * z - ray[2] * y, ray[2] * x - ray[0] * z, ray[0] * y - ray[1] * x)
            d, start = (edge[0] * side[0] + edge[1] * side[1] + edge[2] * side[2] for edge in by_axis)
            scale = 1 / np.where(np.abs(d) < 1e-14, 1e-14, d)
            u, v, distance = scale * start, scale * (across @ ray), scale * reach
            met = np.flatnonzero((u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6) & (distance > 0))
            if len(met):
                best = met[np.argmax(distance[met])]
                triangle[i], weights[i] = chosen[best], (1 - u[best] - v[best], u[best], v[best])
        for i in np.flatnonzero(triangle < 0).tolist():  # a ray through an ear or the neck: its neighbour's place
            hits = np.flatnonzero(triangle >= 0)
            nearest = hits[np.argmax(self._rays[hits] @ self._rays[i])]
            triangle[i], weights[i] = triangle[nearest], weights[nearest]
        return triangle, weights

    def grow(
        self, style: str, vertices: np.ndarray, normals: np.ndarray, turn: np.ndarray, rng: np.random.RandomState
    ) -> Hair:
        """Hair of a style of CUTS on a posed head.

        Args:
            vertices, normals: (V, 3) of the posed head.
            turn: the head's rotation (3, 3).
        """
        cut = CUTS[style]
        pinned = self._model.faces[self._triangle]  # (G, 3)
        scalp = blended(vertices, pinned, self._weights)
        rays = self._rays @ turn.T
        outwards = unit(blended(normals, pinned, self._weights) + rays)
        edge = self._cut_edge(style, cut, rng)
        shell = scalp + outwards * self._thickness(style, cut, edge, rng)[:, None]
        if cut.length:
            shell, edge = self._hang(shell, rays, turn, cut, edge, rng)
        angles = np.stack([self.phi, self.theta, np.zeros_like(self.phi)], axis=1)
        meshes = [mesh(shell, self.faces, Material.HAIR, angles)]
        normals = meshes[0].normals.reshape(_DOWN, _AROUND, 3)
        normals[:, 0] = normals[:, -1] = unit(normals[:, 0] + normals[:, -1])  # the grid meets itself at the back
        if style == "bun":
            place = int(np.argmin(np.abs(self.theta - 0.35) + np.abs(self.phi + np.pi)))  # just behind the crown
            meshes.append(_bun(shell[place] + 0.018 * rays[place], turn))
        return Hair(meshes, edge.astype(np.float32), style == "afro")

    def _cut_edge(self, style: str, cut: Cut, rng: np.random.RandomState) -> np.ndarray:
        """Theta where the hair ends, (EDGE_STEPS,)."""
        phi, edge = self._edge_phi, self._hairline.copy()
        around = np.abs(phi)
        if style == "side parting":
            edge += 0.10 * np.exp(-(((phi + 0.35) / 0.28) ** 2))
        if cut.fringe:
            depth = rng.uniform(0.15, 0.21) * smoothstep(0.95, 0.45, around) + 0.03
            edge = np.where(around < 0.85, self._hairline + depth, edge)
        if cut.length:
            edge = np.where(around > rng.uniform(0.98, 1.10), _NEVER, edge)
        return edge + cut.ragged * (0.8 * _waves(rng, 14) + 0.6 * _waves(rng, 60))

    def _thickness(self, style: str, cut: Cut, edge: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        """Distance of the shell from the scalp, (G,) m."""
        phi, theta = self.phi, self.theta
        in_front = 1 / (1 + (phi / 0.6) ** 4)
        thick = np.full(len(phi), cut.thickness * rng.uniform(0.85, 1.15))
        thick *= 1 - cut.close * smoothstep(0.9, 1.7, theta)
        if style == "short":
            thick *= 1 + 0.25 * in_front * smoothstep(0.3, 0.9, theta)
        if style == "quiff":
            thick += 0.017 * in_front * smoothstep(0.15, 0.8, theta)
        if style == "side parting":
            parting = np.exp(-(((phi - 0.62) / 0.10) ** 2)) * smoothstep(0.15, 0.4, theta) * (phi < 1.6)
            thick = thick * (1 - 0.75 * parting)
            thick += 0.009 * np.exp(-(((phi + 0.1) / 0.6) ** 2)) * smoothstep(0.3, 0.9, theta)
        if style == "afro":
            thick *= 1 + 0.10 * np.sin(phi * 9 + 3 * np.sin(theta * 7)) * np.sin(theta * 13)
            thick += 0.003 * rng.normal(size=len(phi))
        else:
            thick *= 1 + 0.10 * np.interp(phi, self._edge_phi, _waves(rng, 40)) * smoothstep(0.2, 0.7, theta)
        if cut.length:
            if not cut.fringe:
                parting = np.exp(-((phi / 0.09) ** 2)) * (theta < 1.2) * smoothstep(0.1, 0.35, theta)
                thick *= 1 - 0.6 * parting
            thick *= 1 + 0.4 * smoothstep(0.8, 1.6, theta)
        ends = np.interp(phi, self._edge_phi, np.minimum(edge, 5.0))
        reach = 0.35 if style == "afro" else 0.16
        return np.maximum(thick * np.sqrt(np.clip((ends - theta + 0.03) / reach, 0.03, 1)), 0.0022)

    def _hang(
        self, shell: np.ndarray, rays: np.ndarray, turn: np.ndarray, cut: Cut, edge: np.ndarray,
        rng: np.random.RandomState,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Let the shell below the widest ring hang down, mostly by gravity, a little with the head."""
        grid, rays = shell.reshape(_DOWN, _AROUND, 3).copy(), rays.reshape(_DOWN, _AROUND, 3)
        top = int(np.argmin(np.abs(np.linspace(0.02, _LOWEST, _DOWN) - _HANG_FROM)))
        down = unit(0.35 * (turn @ [0.0, 1.0, 0.0]) + [0.0, 0.65, 0.0])
        outwards = unit(rays[top] - (rays[top] @ down)[:, None] * down)
        wave, flare = rng.uniform(0, 0.004), rng.uniform(-0.02, 0.10)
        length = cut.length * rng.uniform(0.85, 1.2) + 0.05
        steps = _DOWN - 1 - top
        for k in range(1, steps + 1):
            fall = length * k / steps
            grid[top + k] = grid[top] + down * fall + outwards * (flare * fall + wave * np.sin(70 * fall))
        tips = _LOWEST - 0.25 * np.abs(cut.ragged * _waves(rng, 20)) - 0.12 * np.abs(_waves(rng, 50))
        return grid.reshape(-1, 3), np.minimum(edge, tips)


def _bun(centre: np.ndarray, turn: np.ndarray) -> Mesh:
    down, around = np.linspace(0, np.pi, 13), np.linspace(-np.pi, np.pi, 21)
    theta, phi = (axis.ravel() for axis in np.meshgrid(down, around, indexing="ij"))
    ball = np.stack([np.sin(theta) * np.cos(phi), -np.cos(theta), np.sin(theta) * np.sin(phi)], axis=1)
    coords = np.stack([phi, 0.8 + 0.5 * theta, 0 * phi], axis=1)
    return mesh(centre + 0.034 * ball @ turn.T, grid_faces(13, 21), Material.BUN, coords, ball @ turn.T)


def _waves(rng: np.random.RandomState, width: int) -> np.ndarray:
    """Smooth noise around the head with unit variance and about `width` steps long, (EDGE_STEPS,)."""
    window = np.hanning(width) / np.hanning(width).sum() * np.sqrt(width)
    noise = rng.normal(size=EDGE_STEPS)
    return np.convolve(np.concatenate([noise] * 3), window, "same")[EDGE_STEPS : 2 * EDGE_STEPS]
