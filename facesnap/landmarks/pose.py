"""Rotations, angles and closed-form poses of the scaled-orthographic camera u = s R_2x3 S + t.

Signs, as the viewer of the picture sees them: positive yaw turns the face to the picture's right, positive
pitch makes it look up, positive roll tilts the top of the head to the picture's right. Degrees. All zero is
frontal. The frame is that of facesnap.landmarks.basis: x right, y down, z away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """R = R_roll R_pitch R_yaw as a (3, 3) matrix; angles in degrees."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in np.deg2rad([yaw, pitch, roll]))
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return tilt @ nod @ turn


def angles(matrix: np.ndarray) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees of a rotation matrix, the inverse of `rotation` for |pitch| < 90."""
    # Row 3 of R is (cp sy, -sp, cp cy); column 2 is (-sr cp, cr cp, -sp).
    yaw = np.arctan2(matrix[2, 0], matrix[2, 2])
    pitch = np.arcsin(np.clip(-matrix[2, 1], -1, 1))
    roll = np.arctan2(-matrix[0, 1], matrix[1, 1])
    yaw, pitch, roll = np.rad2deg([yaw, pitch, roll])
    return float(yaw), float(pitch), float(roll)


def exponential(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector (3,) in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])  # cross @ v = (x, y, z) x v
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def rigid_alignment(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that turns centred points `source` (N, 3) best onto centred `target` (N, 3)."""
    u, _, vt = np.linalg.svd(target.T @ source)
    sign = np.sign(np.linalg.det(u @ vt))
    return u @ np.diag([1.0, 1.0, sign]) @ vt


def closed_form_pose(
    shape: np.ndarray, points: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale s, rotation R (3, 3) and translation t (D,) that put `shape` (N, 3) best on `points` (N, D).

    2D: affine least squares, then the nearest scaled orthonormal 2x3 by SVD; 3D: Umeyama.
    """
    w = weights / weights.sum()
    shape_mean, point_mean = w @ shape, w @ points
    x, u = shape - shape_mean, points - point_mean
    if points.shape[1] == 3:
        r = rigid_alignment(x * w[:, None], u)
        scale = float((w[:, None] * u * (x @ r.T)).sum() / (w[:, None] * x * x).sum())
        return scale, r, point_mean - scale * r @ shape_mean
    gram = (x * w[:, None]).T @ x
    affine = np.linalg.solve(gram + 1e-9 * np.trace(gram) * np.eye(3), (x * w[:, None]).T @ u).T  # (2, 3)
    left, singular, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right  # (2, 3) with orthonormal rows
    r = np.vstack([rows, np.cross(rows[0], rows[1])])
    scale = float(singular.mean())
    return scale, r, point_mean - scale * rows @ shape_mean


@dataclass(frozen=True, eq=False)
class View:
    """Result of the fit in one picture.

    Attributes:
        b: (M,) expression.
        scale: pixels per basis unit (about the outer-eye distance in pixels when frontal).
        rotation: (3, 3).
        translation: (2,) pixels: where the basis' origin lies.
        size: (width, height) of the picture.
        error: root mean square of what is left, per coordinate, as a fraction of the outer-eye distance.
    """

    b: np.ndarray
    scale: float
    rotation: np.ndarray
    translation: np.ndarray
    size: tuple[int, int]
    error: float

    @property
    def angles(self) -> tuple[float, float, float]:
        """(yaw, pitch, roll) in degrees; signs as above."""
        return angles(self.rotation)

    def project(self, shape: np.ndarray) -> np.ndarray:
        """(72, 3) basis units to (72, 2) pixels of the picture."""
        return self.scale * shape @ self.rotation[:2].T + self.translation
