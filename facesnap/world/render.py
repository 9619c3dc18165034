"""From a person and a look to a picture with its truth.

One picture is one pass: meshes of head, hair, garment and glasses are projected, the nearest surface of each pixel
is found at twice the wanted size, painted, lit, exposed, put before a background, turned into a style and halved.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facesnap.landmarks.pose import rotation
from facesnap.world import attire, lighting, palette, skin, styles
from facesnap.world.hair import CROWN, Hair, HairGrid, edge_index
from facesnap.world.head import HeadModel, head_model
from facesnap.world.look import Look
from facesnap.world.mesh import TWO_SIDED, Material, Mesh, merge, mesh, unit, vertex_normals
from facesnap.world.person import Person
from facesnap.world.raster import FAR, Fragments, rasterise
from facesnap.world.seeds import stream
from facesnap.world.truth import REGIONS, Picture, Truth, face_box

SUPERSAMPLING = 2
_DISTANCE = 1.15  # m, camera to the middle of the head
_FOCAL = 3.78  # picture widths at that distance a metre
_LOOK_AT = np.array([0.0, -0.112, -0.03])  # m, the middle of the picture
_PIVOT = np.array([0.0, -0.035, 0.0], dtype=np.float32)  # m, the head turns about it
_HEADROOM = 0.02  # of the picture, kept free above the hair
_LEAST_ZOOM = 0.80  # how far the camera steps back for tall hair
_HIDDEN_BEHIND = 0.006  # m that a surface may lie in front of a point that still counts as seen


@dataclass(frozen=True)
class _Sitter:
    """What is computed once a person."""

    person: Person
    neutral: np.ndarray  # (V, 3)
    marks: skin.Marks


@dataclass(frozen=True)
class _Scene:
    """Posed meshes, and what the painter needs beside them."""

    mesh: Mesh
    head: np.ndarray  # (V, 3) posed vertices of the head, without a beard's bulk
    turn: np.ndarray  # (3, 3)
    hair: Hair | None
    beard: np.ndarray | None


@dataclass(frozen=True)
class _Surface:
    """Interpolated values of M fragments."""

    position: np.ndarray  # (M, 3)
    normal: np.ndarray  # (M, 3)
    coords: np.ndarray  # (M, 3)
    openness: np.ndarray  # (M,)
    material: np.ndarray  # (M,)
    inside_out: np.ndarray  # (M,) bool, the back of a two-sided surface


class World:
    """Renders portraits. Building one takes seconds; a process needs one only.

    Raises:
        MissingDependencyError: anny is not installed.
    """

    def __init__(self) -> None:
        self.model: HeadModel = head_model()
        self._grid = HairGrid(self.model)
        self._wardrobe = attire.Wardrobe(self.model)
        self._last: _Sitter | None = None

    def render(self, person: Person, look: Look, size: int = 128) -> Picture:
        """One portrait.

        Args:
            person: who.
            look: how, including pose and expression.
            size: side of the picture in pixels.

        Returns:
            The picture and everything known about it. The same arguments give the same bytes.
        """
        rng = stream("render", person.seed, look.seed)
        sitter = self._sitter(person)
        scene = self._scene(sitter, look, rng)
        big = size * SUPERSAMPLING
        projected = _projected(scene, look, big)
        fragments = self._visible(scene, projected, big)
        surface = _interpolated(scene.mesh, fragments)
        albedo, gloss, shine, region = self._painted(sitter, scene, look, fragments, surface, rng)
        radiance = self._lit(scene, look, fragments, surface, albedo, gloss, shine, big)
        radiance, _ = lighting.exposed(radiance, region == REGIONS.index("skin"))
        linear = styles.background(look.background, look.backdrop, big, rng).reshape(-1, 3)
        linear[fragments.pixel] = radiance
        regions = np.zeros(big * big, dtype=np.uint8)
        regions[fragments.pixel] = region
        regions = regions.reshape(big, big)
        lens = np.zeros(big * big, dtype=bool)
        lens[fragments.pixel] = surface.material == Material.LENS
        shown = styles.stylise(_displayed(linear).reshape(big, big, 3), look.style, regions, lens.reshape(big, big), rng)
        shown = cv2.resize(shown.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        image = (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)
        head = projected[: len(scene.head)]
        return Picture(image, self._truth(person, look, head, fragments, regions, size))

    def _sitter(self, person: Person) -> _Sitter:
        if self._last is None or self._last.person != person:
            self._last = _Sitter(person, self.model.neutral(person.head), skin.draw_marks(person, self.model))
        return self._last

    def _scene(self, sitter: _Sitter, look: Look, rng: np.random.RandomState) -> _Scene:
        model, view, person = self.model, look.view, sitter.person
        expressed = model.expressed(sitter.neutral, view.actions)
        turn = rotation(view.yaw, view.pitch, view.roll).astype(np.float32)

        def posed(vertices: np.ndarray, follow: np.ndarray | float = 1.0) -> np.ndarray:
            offset = vertices.astype(np.float32) - _PIVOT
            share = np.asarray(follow, dtype=np.float32).reshape(-1, 1)
            return _PIVOT + offset * (1 - share) + (offset @ turn.T) * share

        head = posed(expressed, model.follow)
        normals = vertex_normals(head, model.faces)
        surface, beard = head, None
        if look.beard != "none":
            beard = skin.draw_beard(look.beard, model, rng)
            bulk = skin.look_up(beard, model.mean) * model.skin * (model.mean[:, 2] < 0)
            bulk = bulk * skin.BEARD_DEPTH.get(look.beard, 0.0)
            surface = head + normals * bulk[:, None].astype(np.float32)
        parts = [Mesh(surface, model.faces, model.material, model.mean, vertex_normals(surface, model.faces),
                      model.openness)]  # fmt: skip
        hair = None
        if look.hair != "bald":
            hair = self._grid.grow(look.hair, surface, normals, turn, rng)
            parts += hair.meshes
        weight = person.head.phenotypes["weight"]
        shoulders = float(np.deg2rad(view.shoulders))
        parts += self._wardrobe.body(surface, look.garment, person.masculine, weight, shoulders)
        for vertices, faces, coords in self._wardrobe.teeth(sitter.neutral, expressed):
            parts.append(mesh(posed(vertices), faces, Material.TEETH, coords))
        if look.glasses != "none":
            parts += attire.glasses(look.glasses, model.points(head), turn)
        return _Scene(merge(parts), head, turn, hair, beard)

    def _visible(self, scene: _Scene, projected: np.ndarray, size: int) -> Fragments:
        whole, keep = scene.mesh, None
        hair = whole.material == Material.HAIR
        if scene.hair is not None:
            edge = scene.hair.edge

            def keep(triangle: np.ndarray, weights: np.ndarray) -> np.ndarray:
                angles = np.einsum("kcd,kc->kd", whole.coords[whole.faces[triangle]][:, :, :2], weights)
                return angles[:, 1] < edge[edge_index(angles[:, 0])]

        two_sided = np.isin(whole.material, TWO_SIDED)
        return rasterise(projected, whole.faces, size, two_sided=two_sided, tested=hair, keep=keep)

    def _painted(
        self, sitter: _Sitter, scene: _Scene, look: Look, fragments: Fragments, surface: _Surface,
        rng: np.random.RandomState,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Colour (M, 3), gloss (M,), sharpness of the gloss (M,) and region (M,) of fragments."""
        person, material, coords = sitter.person, surface.material, surface.coords
        albedo = np.zeros((len(material), 3), dtype=np.float32)
        gloss, shine = np.full(len(material), 0.02, np.float32), np.full(len(material), 14, np.float32)
        region = np.zeros(len(material), dtype=np.uint8)
        hair_colour = palette.HAIR[look.hair_colour]
        natural = look.hair != "bald" and look.hair_colour not in ("blue", "pink")
        beard_colour = (hair_colour if natural else palette.HAIR[person.brows.colour]) * 0.8

        at = np.flatnonzero(material == Material.SKIN)
        corner_uv = self.model.corner_uv[fragments.triangle[at]]  # the head is the first mesh
        uv = np.einsum("kcd,kc->kd", corner_uv, fragments.weights[at])
        albedo[at], gloss[at] = skin.paint_skin(
            person, sitter.marks, scene.beard, beard_colour, self.model, coords[at], uv
        )
        region[at] = np.where(self.model.mouth_inside(uv) > 0.45, REGIONS.index("mouth"), REGIONS.index("skin"))
        at = np.flatnonzero(material == Material.EYE)
        albedo[at], gloss[at], shine[at] = skin.paint_eyes(person, look.view.gaze, self.model, coords[at]), 0.05, 60
        region[at] = REGIONS.index("eyes")
        at = np.flatnonzero(material == Material.TONGUE)
        albedo[at], gloss[at], region[at] = palette.TONGUE, 0.12, REGIONS.index("mouth")
        at = np.flatnonzero(material == Material.TEETH)
        gaps = 1 - 0.25 * (np.abs(np.abs(coords[at, 0]) * 1000 % 7.5 - 3.75) > 3.3)
        albedo[at], gloss[at], region[at] = palette.TEETH * gaps[:, None], 0.10, REGIONS.index("mouth")
        at = np.flatnonzero((material == Material.HAIR) | (material == Material.BUN))
        if len(at) and scene.hair is not None:
            albedo[at] = _strands(hair_colour, scene.hair.curly, coords[at], surface.inside_out[at], rng)
            region[at] = REGIONS.index("hair")
        at = np.flatnonzero((material == Material.BODY) | (material == Material.HOOD))
        albedo[at], dressed = _cloth(look, np.asarray(person.skin, dtype=np.float32), coords[at],
                                     material[at] == Material.HOOD, rng)  # fmt: skip
        region[at] = np.where(dressed, REGIONS.index("clothing"), REGIONS.index("neck"))
        gloss[at] = np.where(dressed, 0.02, 0.08)
        at = np.flatnonzero(material == Material.FRAME)
        albedo[at], gloss[at], shine[at] = palette.FRAMES.get(look.glasses, 0), 0.4, 40
        region[at] = REGIONS.index("glasses")
        at = np.flatnonzero(material == Material.LENS)
        albedo[at], gloss[at] = palette.LENS * (1 + 1.2 * np.clip(-coords[at, 1:2], 0, 1)), 0.0
        region[at] = REGIONS.index("glasses")
        return albedo, gloss, shine, region

    def _lit(
        self, scene: _Scene, look: Look, fragments: Fragments, surface: _Surface, albedo: np.ndarray,
        gloss: np.ndarray, shine: np.ndarray, size: int,
    ) -> np.ndarray:  # fmt: skip
        """Linear light (M, 3) from fragments to the camera."""
        light, whole, material, normal = lighting.LIGHTS[look.light], scene.mesh, surface.material, surface.normal
        casts = ~np.isin(whole.material, (Material.LENS, Material.EYE, Material.TEETH))
        lit = lighting.shadow(whole.vertices, whole.faces[casts], light.direction, surface.position, normal)
        lit = lighting.blurred(lit, fragments.pixel, size, size / 116)
        openness = surface.openness * lighting.crevices(fragments.depths, fragments.pixel, size)
        wraps = np.isin(material, (Material.SKIN, Material.TONGUE, Material.EYE, Material.TEETH, Material.BODY))
        diffuse = lighting.irradiance(light, normal, lit, openness, wraps)
        # The mouth's depth is dark, whatever light says.
        deep = np.isin(material, (Material.TONGUE, Material.TEETH))
        diffuse[deep] *= np.float32(0.75)
        towards_camera = unit(np.float32([0, _LOOK_AT[1], -_DISTANCE]) - surface.position).astype(np.float32)
        half = unit(light.direction + towards_camera).astype(np.float32)
        glint = np.clip((normal * half).sum(1), 0, 1) ** shine * gloss * lit * light.key
        tint = np.broadcast_to(np.asarray(light.colour, dtype=np.float32), albedo.shape).copy()
        hair = np.flatnonzero(material == Material.HAIR)
        if len(hair) and scene.hair is not None:
            strands = lighting.strand_glint(normal[hair], half[hair], (scene.turn @ CROWN).astype(np.float32))
            facing = np.clip(normal[hair] @ light.direction + 0.3, 0, 1)
            shiny = 0.03 if scene.hair.curly else 0.11
            glint[hair] = strands * shiny * lit[hair] * light.key * facing * openness[hair]
            tint[hair] *= albedo[hair] * 1.5 + 0.2
        eyes = np.flatnonzero(material == Material.EYE)
        glint[eyes] += 0.75 * skin.catchlight(look.view.gaze, light.direction, self.model, surface.coords[eyes])
        rim = np.clip(1 - (normal * towards_camera).sum(1), 0, 1) ** 3 * 0.10 * openness * light.ambient / 0.45
        return albedo * diffuse + glint[:, None] * tint + rim[:, None] * np.minimum(1.5 * albedo + 0.1, 1)

    def _truth(
        self, person: Person, look: Look, head: np.ndarray, fragments: Fragments, regions: np.ndarray, size: int
    ) -> Truth:
        points = self.model.points(head)  # (72, 3): x, y in big pixels, depth in m
        big = size * SUPERSAMPLING
        depths = fragments.depths.reshape(big, big)
        seen = np.zeros(len(points), dtype=bool)
        for i, (x, y, depth) in enumerate(points):
            column, row = int(x), int(y)
            if 0 <= column < big and 0 <= row < big:
                around = depths[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                seen[i] = around.max() > depth - _HIDDEN_BEHIND
        return Truth(
            person=person.seed,
            look=look,
            points=(points[:, :2] / SUPERSAMPLING).astype(np.float32),
            seen=seen,
            box=face_box(self.model.mean, head[:, :2] / SUPERSAMPLING),
            regions=regions[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING].copy(),
        )


def _projected(scene: _Scene, look: Look, size: int) -> np.ndarray:
    """(N, 3) float32 pixels and depth in m; the camera steps back from hair that would leave the picture."""
    vertices, view = scene.mesh.vertices, look.view
    sideways = 0.7 * float(scene.head.mean(0)[0])
    offset = vertices - (_LOOK_AT * [0, 1, 0] + [sideways, 0, _LOOK_AT[2]]).astype(np.float32)
    depth = offset[:, 2] + np.float32(_DISTANCE)
    flat = np.float32(_FOCAL * view.zoom) * offset[:, :2] / depth[:, None]
    flat += np.float32([0.5 + view.shift[0], 0.5 + view.shift[1]])
    top = float(flat[:, 1].min())
    if top < _HEADROOM:  # smaller, about the middle of the lower edge
        zoom = max(_LEAST_ZOOM, (1 - _HEADROOM) / (1 - top))
        flat = (flat - np.float32([0.5, 1])) * np.float32(zoom) + np.float32([0.5, 1])
    return np.concatenate([flat * size, depth[:, None]], axis=1).astype(np.float32)


def _interpolated(whole: Mesh, fragments: Fragments) -> _Surface:
    values = np.concatenate([whole.vertices, whole.normals, whole.coords, whole.openness[:, None]], axis=1)
    corners = values[whole.faces[fragments.triangle]]  # (M, 3, 10)
    mixed = (corners * fragments.weights[:, :, None]).sum(1)
    normal = unit(mixed[:, 3:6]).astype(np.float32)
    material = whole.material[fragments.triangle]
    position = mixed[:, :3]
    away = (normal * (position - np.float32([0, _LOOK_AT[1], -_DISTANCE]))).sum(1) > 0
    turned = away & np.isin(material, TWO_SIDED)
    normal[turned] *= -1
    return _Surface(position, normal, mixed[:, 6:9], mixed[:, 9], material, turned)


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
    look: Look, skin_colour: np.ndarray, coords: np.ndarray, hood: np.ndarray, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (M, 3) of neck and garment, and where the garment is (M,)."""
    angle, place = coords[:, 0], coords[:, 1]
    dressed = (place > attire.garment_begins(look.garment, angle)) | hood
    folds = 1 + 0.07 * np.sin(angle * 11 + place * 19 + 2 * np.sin(place * 13) + rng.rand() * 6)
    folds *= 1 - 0.28 * attire.collar_trim(look.garment, angle, place) * ~hood
    cloth = palette.CLOTHES[look.clothing_colour] * folds[:, None].astype(np.float32)
    return np.where(dressed[:, None], cloth, skin_colour), dressed


def _displayed(linear: np.ndarray) -> np.ndarray:
    """Linear light as display values in 0..1, highlights rolled off."""
    linear = np.clip(linear, 0, 4)
    return np.clip(linear / (1 + 0.18 * linear) * 1.12, 0, 1) ** np.float32(1 / palette.GAMMA)
