"""Everything that a head carries and stands on: neck and garment, glasses, teeth."""

from __future__ import annotations

import numpy as np

from facesnap.world.head import HeadModel
from facesnap.world.mesh import Material, Mesh, grid_faces, mesh, smoothstep, tube, unit

_ROWS, _AROUND = 26, 65  # grid of the body
# Where along the body (0 neck rim .. 1 below the picture) the skin ends, at the sides and in the middle of the front.
_COLLAR = {"t-shirt": (0.13, 0.17), "v-neck": (0.12, 0.42), "turtleneck": (-1.0, -1.0), "hoodie": (0.10, 0.22)}
_COLLAR_TRIM = 0.03
_RINGS = {"round": (0.0225, 0.0225, 1.0), "square": (0.0270, 0.0185, 0.45), "sunglasses": (0.0285, 0.0225, 0.62)}
_WIRE = {"round": 0.0011, "square": 0.0015, "sunglasses": 0.0016}


class Wardrobe:
    """Builds the meshes around a head of the model."""

    def __init__(self, model: HeadModel) -> None:
        self._model = model
        # Skin vertices on an edge that only one triangle has, at the neck.
        edges = np.concatenate([model.faces[:, [0, 1]], model.faces[:, [1, 2]], model.faces[:, [2, 0]]])
        edges, count = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)
        open_ends = np.unique(edges[count == 1])
        self._rim = open_ends[model.skin[open_ends]]
        self.angles = np.linspace(-np.pi, np.pi, _AROUND)

    def body(self, vertices: np.ndarray, garment: str, masculine: float, weight: float, yaw: float) -> list[Mesh]:
        """Neck and shoulders below a posed head, `yaw` radians to the picture's right, in a garment.

        Paint coordinates are (angle, place along the body, 0).
        """
        rim = self._neck_rim(vertices)
        base = rim.mean(0)
        ring = rim - base
        width = 0.165 + 0.030 * masculine + 0.020 * weight
        place = np.linspace(0, 1, _ROWS)
        # (place, metres below the rim's mean, half width, half depth); the rim itself is row 0.
        knots = np.array([
            [0.00, 0.000, 0.00, 0.00], [0.12, 0.016, 0.059, 0.058], [0.25, 0.029, 0.082, 0.068],
            [0.40, 0.040, 0.6 * width, 0.080], [0.55, 0.054, 0.82 * width, 0.090], [0.70, 0.085, width, 0.100],
            [1.00, 0.330, 1.03 * width, 0.110],
        ])  # fmt: skip
        drop, half_width, half_depth = (np.interp(place, knots[:, 0], knots[:, k]) for k in (1, 2, 3))
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
        oval = np.stack([half_width[:, None] * np.sin(self.angles), np.repeat(drop[:, None], _AROUND, axis=1),
                         -half_depth[:, None] * np.cos(self.angles) + 0.006], axis=-1) @ turn.T  # fmt: skip
        # The neck's own slanted rim turns into level shoulders.
        share = smoothstep(0.0, 0.30, place)[:, None, None]
        collar_of_rim = ring * (1 + 0.5 * place)[:, None, None] + np.stack([0 * drop, drop, 0 * drop], axis=-1)[:, None]
        grid = (base + collar_of_rim * (1 - share) + oval * share).reshape(-1, 3)
        coords = np.stack(np.broadcast_arrays(self.angles, place[:, None], 0.0), axis=-1).reshape(-1, 3)
        parts = [mesh(grid, grid_faces(_ROWS, _AROUND), Material.BODY, coords, (grid - base) * [1, 0, 1])]
        if garment == "turtleneck":
            parts.append(self._roll_collar(rim))
        if garment == "hoodie":
            parts.append(self._hood(rim, turn))
        return parts

    def _neck_rim(self, vertices: np.ndarray) -> np.ndarray:
        """The lower edge of the head's mesh, resampled by angle around the neck: (_AROUND, 3), 0 rad in front."""
        rim = vertices[self._rim].astype(np.float64)
        middle = rim.mean(0)
        angle = np.arctan2(rim[:, 0] - middle[0], middle[2] - rim[:, 2])
        return np.stack([np.interp(self.angles, angle, rim[:, k], period=2 * np.pi) for k in range(3)], axis=1)

    def _roll_collar(self, rim: np.ndarray) -> Mesh:
        """A collar that stands up around the neck, with a rolled upper edge."""
        middle = rim.mean(0)
        out = unit((rim - middle) * [1, 0, 1])
        back = smoothstep(-0.2, 0.9, -np.cos(self.angles))[:, None]
        profile = ((-0.030, 0.016), (-0.012, 0.012), (0.004, 0.009), (0.017, 0.0085), (0.021, 0.006), (0.019, 0.001))
        rows = [rim + out * off + [0, -1, 0] * (height * (1 + 0.35 * back)) for height, off in profile]
        place = np.linspace(1.0, 0.45, len(rows))
        coords = np.stack(np.broadcast_arrays(self.angles, place[:, None], 0.0), axis=-1).reshape(-1, 3)
        vertices, faces = np.concatenate(rows), grid_faces(len(rows), _AROUND)
        return mesh(vertices, faces, Material.BODY, coords, (vertices - middle) * [1, 0, 1])

    def _hood(self, rim: np.ndarray, turn: np.ndarray) -> Mesh:
        """A folded hood: a thick roll around the neck, open and thin in front."""
        angles = np.linspace(-np.pi, np.pi, 49)
        behind = smoothstep(-1.0, 0.7, -np.cos(angles))
        out = np.stack([np.sin(angles), 0 * angles, -np.cos(angles)], axis=1)
        line = rim.mean(0) + (out * (0.066 + 0.018 * behind)[:, None] + np.stack(
            [0 * angles, 0.044 - 0.052 * behind, 0.004 + 0 * angles], axis=1)) @ turn.T  # fmt: skip
        sides = np.linspace(0, 2 * np.pi, 11)
        radius = (0.009 + 0.015 * behind)[:, None, None]
        off = np.cos(sides)[None, :, None] * (out @ turn.T)[:, None] + np.sin(sides)[None, :, None] * [0.0, -1.15, 0.0]
        roll = line[:, None] + radius * off
        coords = np.stack(np.broadcast_arrays(angles[:, None], 0.7 + 0.1 * np.cos(sides), 0.0), axis=-1).reshape(-1, 3)
        faces = grid_faces(len(angles), len(sides))
        return mesh(roll.reshape(-1, 3), faces, Material.HOOD, coords, off.reshape(-1, 3))

    def teeth(self, neutral: np.ndarray, expressed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Both rows of teeth as (vertices, faces, coords) in the frame of the unposed head.

        The upper row belongs to the skull, the lower one follows the jaw. Coordinates are (place along the arch,
        0 gum .. 1 edge, 0).
        """
        rest, now = self._model.points(neutral), self._model.points(expressed)
        width = 0.92 * float(rest[57, 0] - rest[52, 0]) / 2
        drop = float(now[8, 1] - rest[8, 1])
        upper = self._arch(rest[63], width, gum=-0.0085, edge=0.0022, back=0.0045)
        jaw = np.array([0.0, 0.92 * drop, 0.25 * drop])
        lower = self._arch(rest[70] + jaw, 0.92 * width, gum=0.0085, edge=0.0012, back=0.0065)
        return [upper, lower]

    @staticmethod
    def _arch(
        lip: np.ndarray, width: float, *, gum: float, edge: float, back: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A row of teeth `back` m behind the middle of a lip, from `gum` to `edge` m below it."""
        along, rows = np.linspace(-1, 1, 25), np.linspace(0, 1, 4)
        x = width * along
        depth = back + 0.55 * width * along**2 + 0.25 * width * along**4
        grid = np.stack(np.broadcast_arrays(
            lip[0] + x, lip[1] + gum + (edge - gum) * rows[:, None], lip[2] + depth), axis=-1)  # fmt: skip
        coords = np.stack(np.broadcast_arrays(x, rows[:, None], 0.0), axis=-1)
        return grid.reshape(-1, 3), grid_faces(len(rows), len(along)), coords.reshape(-1, 3)


def glasses(kind: str, points: np.ndarray, turn: np.ndarray) -> list[Mesh]:
    """Glasses on a posed head.

    Args:
        kind: a name of _RINGS.
        points: the head's 72 points (72, 3).
        turn: the head's rotation (3, 3).
    """
    right, down, away = turn.T
    half_width, half_height, power = _RINGS[kind]
    size = float(np.linalg.norm(points[48] - points[36])) / 0.0863  # of the mean head's outer-eye distance
    half_width, half_height = half_width * size, half_height * size
    wire = _WIRE[kind]
    centres = [points[36:44].mean(0), points[44:52].mean(0)]
    centres = [c - 0.014 * away + 0.002 * down for c in centres]
    turns = np.linspace(0, 2 * np.pi, 41)
    x = np.sign(np.cos(turns)) * np.abs(np.cos(turns)) ** power * half_width
    y = np.sign(np.sin(turns)) * np.abs(np.sin(turns)) ** power * half_height
    if kind == "sunglasses":
        y = np.where(y > 0, 1.1 * y, 0.85 * y)
    parts = []
    for side, centre, ear in ((-1, centres[0], points[0]), (1, centres[1], points[9])):
        ring = centre + x[:, None] * right + y[:, None] * down
        parts.append(tube(ring, wire, Material.FRAME))
        hinge = centre + right * side * half_width - down * 0.45 * half_height
        bend = hinge + right * side * 0.006 + away * 0.010
        hook = ear + right * side * 0.006 - down * 0.004 - away * 0.004
        parts.append(tube(_polyline([hinge, bend, hook], 7), wire, Material.FRAME))
        if kind == "sunglasses":
            fan = np.stack([np.zeros(40, dtype=np.int64), np.arange(1, 41), np.arange(2, 42)], axis=1)
            disc = np.concatenate([centre[None], ring])
            spread = np.concatenate([[[0.0, 0.0]], np.stack([x / half_width, y / half_height], axis=1)])
            coords = np.concatenate([spread, np.zeros((len(disc), 1))], axis=1)
            parts.append(mesh(disc, fan, Material.LENS, coords))
    inner = half_width * 0.97
    bridge = [centres[0] + right * inner, (centres[0] + centres[1]) / 2 - away * 0.003 - down * 0.003,
              centres[1] - right * inner]  # fmt: skip
    parts.append(tube(_polyline([b - down * 0.25 * half_height for b in bridge], 6), wire, Material.FRAME))
    return parts


def _polyline(stations: list[np.ndarray], steps: int) -> np.ndarray:
    """`steps` points a leg through stations."""
    u = np.linspace(0, len(stations) - 1, steps * (len(stations) - 1) + 1)
    return np.stack([np.interp(u, np.arange(len(stations)), [s[k] for s in stations]) for k in range(3)], axis=1)


def garment_begins(garment: str, angle: np.ndarray) -> np.ndarray:
    """Place along the body where the garment begins, for angles around it (0 in front)."""
    side, front = _COLLAR[garment]
    narrow = 0.30 if garment == "v-neck" else 0.9
    return side + (front - side) * np.exp(-(np.abs(angle / narrow) ** (1.3 if garment == "v-neck" else 2)))


def collar_trim(garment: str, angle: np.ndarray, place: np.ndarray) -> np.ndarray:
    """1 on the darker hem beside the collar's edge."""
    beyond = place - garment_begins(garment, angle)
    return ((beyond > 0) & (beyond < _COLLAR_TRIM)).astype(np.float32)
