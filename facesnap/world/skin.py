"""Paint on the skin: brows, lashes, lips, blush, freckles, beard; and the eyes.

Paint lies on the mean head and so follows every shape and expression. Marks are drawn on a sheet that is wrapped
around the mean head as a cylinder; lips and the inside of the mouth come from anny's own masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facesnap.world import palette
from facesnap.world.head import HeadModel
from facesnap.world.mesh import dot, f32, smoothstep
from facesnap.world.person import SyntheticPerson
from facesnap.world.seeds import stream

SHEET = (512, 640)  # rows, columns
_TOP, _HEIGHT = -0.26, 0.26  # m, the sheet's upper edge and height
_TURN = 4.0  # radians that the sheet spans
_AXIS = 0.03  # m, the cylinder's axis behind the head's centre line
_PER_MM = SHEET[0] / _HEIGHT / 1000  # rows a mm
_SUB = 8  # sub-pixel steps of OpenCV's drawing
IRIS_MM, PUPIL_MM = 6.1, 2.5
# The nostrils on the mean head: middle of the image-right one and half axes, m.
_NOSTRIL = f32([0.0085, -0.0962, -0.1355])
_NOSTRIL_AXES = f32([0.0056, 0.0036, 0.0100])

_LIPS = (52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68)  # points around the lips, in order
BEARD_DEPTH = {"full": 0.006, "goatee": 0.004}  # m that a beard stands off the skin


def on_sheet(coords: np.ndarray) -> np.ndarray:
    """(..., 2) column and row on the sheet of positions (..., 3) on the mean head."""
    angle = np.arctan2(coords[..., 0], _AXIS - coords[..., 2])
    return np.stack([(angle / _TURN + 0.5) * SHEET[1], (coords[..., 1] - _TOP) / _HEIGHT * SHEET[0]], axis=-1)


def look_up(sheet: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """The sheet's values at positions on the mean head."""
    column, row = np.moveaxis(on_sheet(coords).astype(np.int64), -1, 0)
    return sheet[row.clip(0, SHEET[0] - 1), column.clip(0, SHEET[1] - 1)]


@dataclass(frozen=True)
class Marks:
    """A person's marks, sheets of float32 in 0..1; `mottle` is around 0."""

    brows: np.ndarray
    lashes: np.ndarray
    blush: np.ndarray
    freckles: np.ndarray
    mottle: np.ndarray


def draw_marks(person: SyntheticPerson, model: HeadModel) -> Marks:
    """Everything painted on a person's skin that belongs to the identity."""
    rng = stream("marks", person.seed)
    points = on_sheet(model.points(model.mean))  # (72, 2)
    grain = cv2.GaussianBlur(rng.rand(*SHEET).astype(np.float32), (0, 0), 1.0)
    grain = (grain - grain.mean()) / grain.std()
    mottle = cv2.GaussianBlur(rng.normal(size=SHEET).astype(np.float32), (0, 0), 9)
    cheeks = _blank()
    for middle, radius in ((points[[1, 31, 4]].mean(0), 34), (points[[10, 35, 13]].mean(0), 34), (points[30], 14)):
        cv2.circle(cheeks, middle.astype(int).tolist(), radius, 1.0, -1)
    cheeks = cv2.GaussianBlur(cheeks, (0, 0), 16)
    small = (rng.rand(SHEET[0] // 3, SHEET[1] // 3) < 0.05 * person.freckles).astype(np.float32)
    freckles = cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.7), SHEET[::-1])
    return Marks(
        brows=_brows(person, points) * np.clip(0.85 + 0.2 * grain, 0, 1),
        lashes=_lashes(points),
        blush=cheeks,
        freckles=freckles * np.clip(2 * cheeks, 0, 1),
        mottle=mottle / mottle.std() * 0.025,
    )


def _brows(person: SyntheticPerson, points: np.ndarray) -> np.ndarray:
    """Both brows, each a stroke along the mesh's brow line, thickest at a third from its inner end."""
    brows, sheet = person.brows, _blank()
    along = np.linspace(0, 1, 48)  # 0 outer end .. 1 inner end
    shape = np.interp(along, [0, 0.15, 0.65, 0.9, 1], [brows.tail, 0.3 + 0.7 * brows.tail, 1.0, 0.85, 0.45])
    lift = brows.arch * np.sin(np.pi * along**0.8) + brows.inner_lift * smoothstep(0.45, 1, along)
    for line in (points[17:22], points[26:21:-1]):
        columns = np.interp(along, np.linspace(0, 1, 5), line[:, 0])
        rows = np.polyval(np.polyfit(line[:, 0], line[:, 1], 3), columns) - lift * _PER_MM
        fine = np.rint(np.stack([columns, rows], axis=1) * _SUB).astype(int).tolist()
        for i in range(len(along) - 1):
            width = max(1, round(2 * brows.thickness * shape[i] * _PER_MM))
            cv2.line(sheet, fine[i], fine[i + 1], 1.0, width, cv2.LINE_AA, 3)
    return cv2.GaussianBlur(sheet, (0, 0), 1.7) * (0.55 + 0.45 * brows.density)


def _lashes(points: np.ndarray) -> np.ndarray:
    """A dark line along the upper lids, a faint one along the lower."""
    sheet = _blank()
    for upper, lower in (((36, 37, 38, 39, 40), (40, 41, 42, 43, 36)), ((44, 45, 46, 47, 48), (48, 49, 50, 51, 44))):
        for chosen, down, strength, width in ((upper, -0.6, 1.0, 3), (lower, 0.6, 0.4, 1)):
            line = np.round((points[list(chosen)] + [0, down]) * _SUB).astype(np.int32)
            cv2.polylines(sheet, [line], False, strength, width, cv2.LINE_AA, 3)
    return cv2.GaussianBlur(sheet, (0, 0), 0.9)


def draw_beard(kind: str, model: HeadModel, rng: np.random.RandomState) -> np.ndarray:
    """Cover of a beard of this kind, a sheet in 0..1."""
    points = on_sheet(model.points(model.mean))
    sheet = _blank()

    def at(indices: int | tuple[int, ...], right: float = 0, down: float = 0) -> np.ndarray:
        """The middle of points, moved by pixels of the sheet."""
        return np.add(points[np.atleast_1d(indices)].mean(0), (right, down))

    left, right = 52, 57  # corners of the mouth
    moustache = [
        at(left, -5, 11), at(left, -4, -6), at((54, 31), -5, 1), at((62, 33)), at((59, 35), 5, 1), at(right, 4, -6),
        at(right, 5, 11), at(right), at(59), at(58), at(62), at(53), at(54), at(left),
    ]  # fmt: skip
    if kind in ("full", "stubble"):
        area = [
            at(1), at((2, left), -18, -4), at(left, -14, -4), *moustache[1:6], at(right, 14, -4),
            at((11, right), 18, -4), at(10), at(10, 18), [points[13, 0] + 18, 472], [points[8, 0], 492],
            [points[4, 0] - 18, 472], at(1, -18),
        ]  # fmt: skip
        _fill(sheet, area, 1.0)
    if kind in ("moustache", "goatee"):
        _fill(sheet, moustache, 1.0)
    if kind == "goatee":
        chin = [
            at(left, -8, 2), at(left, -4, -5), at(right, 4, -5), at(right, 8, 2), at(15, -18), at(8, 8, 22),
            at(8, -8, 22), at(6, 18),
        ]  # fmt: skip
        _fill(sheet, chin, 1.0)
    _fill(sheet, list(points[list(_LIPS)]), 0.0)
    sheet = cv2.GaussianBlur(sheet, (0, 0), 4.0 if kind in ("full", "stubble") else 2.4)
    grain = cv2.GaussianBlur(rng.rand(*SHEET).astype(np.float32), (0, 0), 1.1)
    grain = (grain - grain.mean()) / grain.std()
    cover = 0.42 + 0.12 * grain if kind == "stubble" else 0.88 + 0.16 * grain
    return sheet * np.clip(cover, 0, 1)


def paint_skin(
    person: SyntheticPerson, marks: Marks, beard: np.ndarray | None, beard_colour: np.ndarray, model: HeadModel,
    coords: np.ndarray, uv: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Colour (M, 3) and gloss (M,) of skin fragments at mean-head positions (M, 3) and texture places (M, 2)."""
    skin = f32(person.skin)
    colour = skin * (1 + look_up(marks.mottle, coords))[:, None]
    blush = (look_up(marks.blush, coords) * (0.10 + person.blush))[:, None]
    colour *= 1 - blush * f32([0.0, 0.8, 0.75])
    colour = _mixed(colour, skin * f32([0.62, 0.5, 0.42]), 0.75 * look_up(marks.freckles, coords))
    mirrored = np.concatenate([np.abs(coords[:, :1]), coords[:, 1:]], axis=1)
    off_nostril = (mirrored - _NOSTRIL) / _NOSTRIL_AXES
    off_nostril = np.sqrt(dot(off_nostril, off_nostril))
    colour = _mixed(colour, skin * f32([0.16, 0.10, 0.09]), 0.9 * smoothstep(1.1, 0.6, off_nostril))
    lips = smoothstep(0.25, 0.75, model.lips(uv))
    colour = _mixed(colour, skin * f32(person.lips), 0.92 * lips)
    inside = smoothstep(0.25, 0.7, model.mouth_inside(uv))
    colour = _mixed(colour, palette.MOUTH, inside)
    gloss = 0.10 + 0.30 * lips + 0.06 * look_up(marks.blush, coords)
    if beard is not None:
        cover = look_up(beard, coords) * (1 - lips)
        colour = _mixed(colour, beard_colour, cover)
        gloss = gloss * (1 - 0.8 * cover)
    brows = look_up(marks.brows, coords)
    # On a dark skin a brow must still be darker than what it lies on.
    hue = np.minimum(palette.HAIR[person.brows.colour] * 0.6, skin * 0.45)
    colour = _mixed(colour, hue, 0.95 * brows)
    colour = _mixed(colour, f32([0.012, 0.009, 0.008]), 0.85 * look_up(marks.lashes, coords))
    return colour, (gloss * (1 - brows) * (1 - inside)).astype(np.float32)


def paint_eyes(person: SyntheticPerson, gaze: tuple[float, float], model: HeadModel, coords: np.ndarray) -> np.ndarray:
    """Colour (M, 3) of eye fragments: white, iris with a dark rim, pupil, and the upper lid's shadow."""
    centre = model.eyes[(coords[:, 0] > 0).astype(np.int64)]  # (M, 3)
    across, down = ((coords[:, :2] - centre[:, :2]) * 1000 - f32(gaze)).T  # mm
    radius, angle = np.hypot(across, down), np.arctan2(down, across)
    iris = smoothstep(IRIS_MM + 0.4, IRIS_MM - 0.3, radius)
    pupil = smoothstep(PUPIL_MM + 0.25, PUPIL_MM - 0.25, radius)
    rim = smoothstep(4.4, 6.0, radius)
    fibres = 1.05 + 0.15 * np.sin(angle * 23 + 3 * np.sin(angle * 7))
    lit_from_above = 1 + 0.45 * smoothstep(-1, 5, down)
    hue = np.minimum(f32(person.eye), 0.26) * (fibres * (1 - 0.65 * rim) * lit_from_above)[:, None]
    # The exposure follows the skin: beside a dark one the full white would glare.
    white = palette.SCLERA * np.float32(1 - 0.45 * smoothstep(2.5, 6, person.tone))
    colour = _mixed(np.broadcast_to(white, hue.shape), hue, iris)
    colour = _mixed(colour, f32([0.006, 0.006, 0.006]), pupil)
    lid = 1 - 0.5 * smoothstep(-1.0, -5.5, (coords[:, 1] - centre[:, 1]) * 1000)
    return colour * lid[:, None]


def catchlight(gaze: tuple[float, float], light: np.ndarray, model: HeadModel, coords: np.ndarray) -> np.ndarray:
    """Brightness (M,) in 0..1 of the lamp's reflection in the eyes; `light` points to the lamp."""
    centre = model.eyes[(coords[:, 0] > 0).astype(np.int64)]
    towards = f32([np.clip(light[0], -0.6, 0.6), np.clip(light[1], -0.8, -0.3)]) * 3.0  # mm from the pupil
    offset = (coords[:, :2] - centre[:, :2]) * 1000 - f32(gaze) - towards
    return smoothstep(1.7, 0.9, np.hypot(offset[:, 0], offset[:, 1])).astype(np.float32)


def _mixed(base: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`base` (M, 3) with `share` (M,) of `other`."""
    share = share.astype(np.float32)[:, None]
    return base * (1 - share) + other * share


def _blank() -> np.ndarray:
    return np.zeros(SHEET, dtype=np.float32)


def _fill(sheet: np.ndarray, outline: list, value: float) -> None:
    cv2.fillPoly(sheet, [np.round(np.asarray(outline)).astype(np.int32)], value)
