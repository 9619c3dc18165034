"""Light: a lamp with a shadow, a fill on the other side, and the sky; all in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facesnap.world.mesh import dot, f32, unit
from facesnap.world.raster import FAR, rasterise

_SHADOW_SIZE, _SHADOW_WIDTH = 160, 0.62  # pixels and metres of the lamp's view
_SHADOW_BIAS = 0.006  # m
_TAPS = ((-1.3, -0.6), (0.6, -1.3), (1.3, 0.6), (-0.6, 1.3), (0.0, 0.0))


@dataclass(frozen=True)
class Light:
    """A set-up.

    Attributes:
        towards: where the lamp is: right, down, away.
        key, ambient: strengths of the lamp and of the light from everywhere.
        colour: of the lamp.
        shade: how much of the lamp still reaches its shadow.
    """

    towards: tuple[float, float, float]
    key: float
    ambient: float
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shade: float = 0.38

    @property
    def direction(self) -> np.ndarray:
        return unit(f32(self.towards))


LIGHTS: dict[str, Light] = {
    "soft": Light((-0.25, -0.45, -0.85), 0.75, 0.56),
    "left": Light((-0.85, -0.3, -0.45), 1.05, 0.30),
    "right": Light((0.85, -0.3, -0.45), 1.05, 0.30),
    "top": Light((0.0, -0.9, -0.5), 1.05, 0.34),
    "warm": Light((-0.5, -0.4, -0.7), 0.95, 0.42, (1.12, 0.95, 0.70)),
    "cool": Light((0.45, -0.4, -0.75), 0.90, 0.45, (0.78, 0.95, 1.14)),
    "dramatic": Light((-0.9, -0.35, -0.32), 1.30, 0.16, (1.05, 1.0, 0.95), shade=0.14),
}
SKIN_WRAP, OTHER_WRAP = f32([0.38, 0.22, 0.18]), np.float32(0.15)  # light that creeps round, most of it red


def shadow(
    vertices: np.ndarray, faces: np.ndarray, towards: np.ndarray, position: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """Share of the lamp, (M,) in 0..1, that reaches fragments at `position` (M, 3); `faces` cast the shadow."""
    across = unit(np.cross(towards, f32([0, -1, 0]))).astype(np.float32)
    up = np.cross(across, towards).astype(np.float32)
    scale, middle = _SHADOW_SIZE / _SHADOW_WIDTH, _SHADOW_SIZE / 2

    def seen(points: np.ndarray) -> np.ndarray:
        head = points - f32([0, -0.12, -0.03])
        return np.stack([head @ across * scale + middle, head @ up * scale + middle, 2 - head @ towards], axis=1)

    everything = np.ones(len(faces), dtype=bool)
    depths = rasterise(seen(vertices), faces, _SHADOW_SIZE, two_sided=everything).depths
    grid = depths.reshape(_SHADOW_SIZE, _SHADOW_SIZE)
    x, y, depth = seen(position + normal * 0.005).T
    lit = np.zeros(len(position), dtype=np.float32)
    for right, down in _TAPS:
        row = (y + down).astype(np.int64).clip(0, _SHADOW_SIZE - 1)
        column = (x + right).astype(np.int64).clip(0, _SHADOW_SIZE - 1)
        lit += depth < grid[row, column] + _SHADOW_BIAS
    return lit / len(_TAPS)


def blurred(values: np.ndarray, pixel: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Fragment values (M,) blurred in the picture, uncovered pixels counting as 1."""
    picture = np.ones(size * size, dtype=np.float32)
    picture[pixel] = values
    return cv2.GaussianBlur(picture.reshape(size, size), (0, 0), sigma).ravel()[pixel]


def crevices(depths: np.ndarray, pixel: np.ndarray, size: int) -> np.ndarray:
    """Openness (M,) in 0.6..1 from the depth picture: darker where the surroundings stand in front."""
    filled = np.where(depths >= FAR, np.float32(1.4), depths).reshape(size, size)
    nearer = cv2.GaussianBlur(filled, (0, 0), size / 50) - filled
    return 1 + np.clip(16 * nearer.ravel()[pixel], -0.4, 0)


def irradiance(
    light: Light, normal: np.ndarray, lit: np.ndarray, openness: np.ndarray, wraps: np.ndarray
) -> np.ndarray:
    """Diffuse light (M, 3) on fragments; `wraps` (M,) bool marks skin, which light enters."""
    wrap = np.where(wraps[:, None], SKIN_WRAP, OTHER_WRAP)
    facing = np.clip(((normal @ light.direction)[:, None] + wrap) / (1 + wrap), 0, 1)
    facing = facing * (0.65 + 0.35 * facing)
    colour = f32(light.colour) * light.key
    reach = (light.shade + (1 - light.shade) * lit) * (0.45 + 0.55 * openness)
    opposite = unit(f32([-0.9 * light.direction[0], -0.1, -0.75]))
    fill = 0.22 * np.clip(normal @ opposite * 0.5 + 0.5, 0, 1) * (light.ambient / 0.4)
    sky = light.ambient * np.clip(0.62 - 0.38 * normal[:, 1], 0, 1)
    around = ((sky + fill) * openness)[:, None] * f32([0.97, 1.0, 1.05])
    return facing * colour * reach[:, None] + around


def strand_glint(normal: np.ndarray, half: np.ndarray, crown: np.ndarray) -> np.ndarray:
    """Highlight (M,) of hair that runs from the crown down (Kajiya and Kay, SIGGRAPH 1989)."""
    tangent = unit(crown - (normal @ crown)[:, None] * normal)
    along = dot(tangent, half)
    return np.sqrt(np.clip(1 - along * along, 0, 1)) ** 28


def exposed(radiance: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Expose `radiance` (M, 3) for the fragments `face` (M,), as a photographer does.

    A dark face in hard light is lifted by up to 1.9, so that its features stay visible; a pale one is held back.
    """
    if not face.any():
        return radiance
    grey = radiance[face] @ f32([0.30, 0.59, 0.11])
    gain = float(np.clip((0.235 / max(float(np.median(grey)), 1e-4)) ** 0.55, 0.85, 1.9))
    return radiance * np.float32(gain)
