"""Colours and gloss of everything in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facesnap.world import attire, palette, skin
from facesnap.world.head import HeadModel
from facesnap.world.look import Look
from facesnap.world.mesh import TWO_SIDED, Material, Mesh, blended, dot, f32, unit
from facesnap.world.raster import Fragments
from facesnap.world.scene import PreparedPerson, Scene
from facesnap.world.seeds import stream
from facesnap.world.truth import REGIONS

_TOOTH_MM = 7.5
_DYED = ("blue", "pink")  # colours of hair that no beard has


@dataclass(frozen=True)
class Surface:
    """Interpolated values of M fragments.

    Attributes:
        position, normal: (M, 3); normals of a two-sided surface look at the camera.
        coords: (M, 3) painting coordinates, see Mesh.
        openness: (M,) in 0..1.
        material: (M,) of Material.
        inside_out: (M,) bool, the back of a two-sided surface.
        uv: (M, 2) texture places, of the head alone; elsewhere 0.
    """

    position: np.ndarray
    normal: np.ndarray
    coords: np.ndarray
    openness: np.ndarray
    material: np.ndarray
    inside_out: np.ndarray
    uv: np.ndarray


def interpolated(whole: Mesh, corner_uv: np.ndarray, fragments: Fragments, camera: np.ndarray) -> Surface:
    """The surface at fragments of a mesh, whose first faces are the head's with texture places (T, 3, 2)."""
    values = np.concatenate([whole.vertices, whole.normals, whole.coords, whole.openness[:, None]], axis=1)
    mixed = blended(values, whole.faces[fragments.triangle], fragments.weights)  # (M, 10)
    position, normal = mixed[:, :3], unit(mixed[:, 3:6]).astype(np.float32)
    material = whole.material[fragments.triangle]
    away = dot(normal, position - camera) > 0
    inside_out = away & np.isin(material, TWO_SIDED)
    normal[inside_out] *= -1
    uv = np.zeros((len(position), 2), dtype=np.float32)
    head = np.flatnonzero(fragments.triangle < len(corner_uv))
    uv[head] = np.einsum("mck,mc->mk", corner_uv[fragments.triangle[head]], fragments.weights[head])
    return Surface(position, normal, mixed[:, 6:9], mixed[:, 9], material, inside_out, uv)


@dataclass(frozen=True)
class Paint:
    """Painted fragments.

    Attributes:
        albedo: (M, 3) linear RGB.
        gloss, shine: (M,) strength and sharpness of highlights.
        region: (M,) uint8, numbers of REGIONS.
    """

    albedo: np.ndarray
    gloss: np.ndarray
    shine: np.ndarray
    region: np.ndarray


def painted(model: HeadModel, prepared: PreparedPerson, scene: Scene, look: Look, surface: Surface) -> Paint:
    """Paint every fragment by its material."""
    rng = stream("paint", prepared.person.seed, look.seed)
    person, material, coords = prepared.person, surface.material, surface.coords
    count = len(material)
    paint = Paint(
        albedo=np.zeros((count, 3), dtype=np.float32),
        gloss=np.full(count, 0.02, dtype=np.float32),
        shine=np.full(count, 14, dtype=np.float32),
        region=np.zeros(count, dtype=np.uint8),
    )

    def lay(
        chosen: np.ndarray, region: str | np.ndarray, albedo: np.ndarray, gloss: float | np.ndarray = 0.02,
        shine: float = 14,
    ) -> None:  # fmt: skip
        number = REGIONS.index(region) if isinstance(region, str) else region
        paint.region[chosen], paint.albedo[chosen], paint.gloss[chosen] = number, albedo, gloss
        paint.shine[chosen] = shine

    def of(*kinds: Material) -> np.ndarray:
        return np.flatnonzero(np.isin(material, kinds))

    hair_colour = palette.HAIR[look.hair_colour]
    at, uv = of(Material.SKIN), surface.uv[of(Material.SKIN)]
    own = look.hair == "bald" or look.hair_colour in _DYED
    beard_colour = 0.8 * (palette.HAIR[person.brows.colour] if own else hair_colour)
    albedo, gloss = skin.paint_skin(person, prepared.marks, scene.beard, beard_colour, model, coords[at], uv)
    inside = model.mouth_inside(uv) > 0.45
    lay(at, np.where(inside, REGIONS.index("mouth"), REGIONS.index("skin")), albedo, gloss)
    at = of(Material.EYE)
    lay(at, "eyes", skin.paint_eyes(person, look.view.gaze, model, coords[at]), 0.05, 60)
    lay(of(Material.TONGUE), "mouth", palette.TONGUE, 0.12)
    at = of(Material.TEETH)
    across = np.abs(coords[at, 0]) * 1000 % _TOOTH_MM
    gaps = np.abs(across - _TOOTH_MM / 2) > 0.44 * _TOOTH_MM
    lay(at, "mouth", palette.TEETH * (1 - 0.25 * gaps[:, None]), 0.10)
    at = of(Material.HAIR, Material.BUN)
    if scene.hair is not None:
        lay(at, "hair", _strands(hair_colour, scene.hair.curly, coords[at], surface.inside_out[at], rng))
    at = of(Material.BODY, Material.HOOD)
    albedo, dressed = _cloth(look, person.skin, coords[at], material[at] == Material.HOOD, rng)
    region = np.where(dressed, REGIONS.index("clothing"), REGIONS.index("neck"))
    lay(at, region, albedo, np.where(dressed, 0.02, 0.08))
    if look.glasses != "none":
        lay(of(Material.FRAME), "glasses", palette.FRAMES[look.glasses], 0.4, 40)
        at = of(Material.LENS)
        lay(at, "glasses", palette.LENS * (1 + 1.2 * np.clip(-coords[at, 1:2], 0, 1)), 0.0)
    return paint


def _strands(
    colour: np.ndarray, curly: bool, coords: np.ndarray, inside_out: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """Hair colour (M, 3) with lighter and darker strands; roots and the sheet's inside are darker."""
    phi, theta = coords[:, 0], coords[:, 1]
    if curly:
        grain = cv2.GaussianBlur(rng.rand(256, 1024).astype(np.float32), (0, 0), 5)
    else:
        noise = rng.rand(64, 1024).astype(np.float32)
        fine = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.2, sigmaY=10, borderType=cv2.BORDER_REFLECT)
        grain = 0.6 * fine + 0.4 * cv2.GaussianBlur(noise, (0, 0), sigmaX=4, sigmaY=8)
    grain = (grain - grain.mean()) / grain.std()
    row = (theta / 3.2 * (len(grain) - 1)).astype(np.int64).clip(0, len(grain) - 1)
    column = ((phi + np.pi) / (2 * np.pi) * 1023).astype(np.int64) % 1024
    shade = np.clip(1 + 0.28 * grain[row, column], 0.3, 2) * (1 - 0.35 * np.exp(-theta / 0.10))
    shade = np.where(inside_out, (0.6 if curly else 0.3) * shade, shade)
    return colour * shade[:, None].astype(np.float32)


def _cloth(
    look: Look,
    skin_colour: tuple[float, float, float],
    coords: np.ndarray,
    hood: np.ndarray,
    rng: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (M, 3) of neck and garment, and where the garment is (M,)."""
    angle, place = coords[:, 0], coords[:, 1]
    dressed = (place > attire.garment_begins(look.garment, angle)) | hood
    folds = 1 + 0.07 * np.sin(angle * 11 + place * 19 + 2 * np.sin(place * 13) + rng.rand() * 6)
    folds *= 1 - 0.28 * attire.collar_trim(look.garment, angle, place) * ~hood
    cloth = palette.CLOTHES[look.clothing_colour] * folds[:, None].astype(np.float32)
    return np.where(dressed[:, None], cloth, f32(skin_colour)), dressed
