"""Looks of a detector at one picture: whole, turned, in tiles, or closely at one face. Every pixel is counted here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from facesnap.faces.align import misfit

Size = tuple[int, int]
# A canvas (height, width, 3) uint8, all of which the network sees -> (N, 5) boxes with score, (N, 5, 2) points.
Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

PADDING = 0.5  # of the longer side, on every side
GOOD_SCORE = 0.75  # below, the ladder goes on and the best step wins: tight close-ups give poor hits of about 0.7
SURE_SCORE = 0.5  # below, a hit is a hint where to look again and no face
GOOD_MISFIT = 0.2  # 400 portraits stay below 0.15; in profile all steps are compared
SOUND_MISFIT = 0.12  # above, points deserve a second look; a leaning face's may be quite wrong and yet stay below 0.15
MOST_LEAN = 25.0  # degrees as measured, which is less than it is: 30 are found as 19 to 34; points become poor above
MOST_LEAN_TURNED = 10.0  # where the picture was turned, which is rare, and what is left of a lean can be had cheaply
SHORTEST_SIDE = 16  # px that the shorter side must keep in the detector's input
LONGEST_COPY = 1280  # px; larger pictures are reduced before they are padded or turned, which takes a copy
# Px of a face in tiles from which its points are as good as a close look's: below 32 they cost .05 of cosine and more.
CLEAR = 64
CLOSE = 320  # px, side of a close look
CLOSELY = ", then closely"
CLOSE_FACES = 1.75  # side of a close look over that of the face's box


@dataclass(frozen=True)
class Step:
    """One way to look at the whole picture: the detector's input size, padded or not, quarter turns to the left."""

    size: Size
    padded: bool = False
    turns: int = 0

    def __str__(self) -> str:
        width, height = self.size
        size = str(width) if width == height else f"{width} x {height}"
        turned = f"turned {90 * self.turns}, " if self.turns else ""
        return f"{turned}{'padded ' if self.padded else ''}{size}"

    @property
    def pixels(self) -> int:
        """That the detector sees."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Tiles:
    """A look at the picture in overlapping tiles: the detector's input size, columns, rows, and the picture's scale."""

    size: Size
    columns: int
    rows: int
    scale: float

    turns = 0

    def __str__(self) -> str:
        return f"{self.columns} x {self.rows} tiles at {self.scale:.0%}"

    @property
    def pixels(self) -> int:
        """That the detector sees."""
        return self.columns * self.rows * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Hit:
    """One detection. Coordinates are px of the picture.

    Attributes:
        box: (4,) float32. kps: (5, 2) float32. score: 0..1.
        turned: degrees by which the view was turned to the left. found_by: how the picture was looked at.
        again: whether a second, close look saw a face here; None where there was none.
        seen: px of its longer side in the detector's input, of hits in tiles.
    """

    box: np.ndarray
    kps: np.ndarray
    score: float
    turned: float
    found_by: str
    again: bool | None = None
    seen: float = math.inf

    @property
    def misfit(self) -> float:
        """Of its points to a face; see `facesnap.faces.align.misfit`."""
        return misfit(self.kps)

    @property
    def lean(self) -> float:
        """Degrees by which the face leaned in the view, -180..180, clockwise positive."""
        return (roll(self.kps) - self.turned + 180.0) % 360.0 - 180.0

    @property
    def area(self) -> float:
        """Of the box, px^2."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def merit(self) -> float:
        """Its score, less what its points deviate from a face."""
        return self.score * (1.0 - min(self.misfit, 1.0))

    @property
    def steady(self) -> bool:
        """The detector saw it upright, as its points need."""
        return abs(self.lean) <= MOST_LEAN

    @property
    def good(self) -> bool:
        """Found surely and upright, and its points make a face."""
        return self.steady and self.score >= GOOD_SCORE and self.misfit <= GOOD_MISFIT

    @property
    def sound(self) -> bool:
        """Found surely, with points that make an upright face."""
        lean = MOST_LEAN if self.turned == 0 else MOST_LEAN_TURNED
        return self.good and self.misfit <= SOUND_MISFIT and abs(self.lean) <= lean

    @property
    def settled(self) -> bool:
        """Good enough, and seen large enough, that a second look is not worth its price."""
        return self.sound and self.seen >= CLEAR


def roll(kps: np.ndarray) -> float:
    """Lean of a face, -180..180 degrees, clockwise positive: the direction from left eye to right."""
    across = kps[1] - kps[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Shared area of two boxes (4,) over their joint area."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.clip(sides, 0, None)))
    joint = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / joint if joint > 0 else 0.0


class Looks:
    """A detector in front of one picture.

    Args:
        picture: (H, W, 3) uint8.
        detect: the network. fixed: its only input size, if its graph has no free axes.
        search: px that may be seen in search of faces. close: px beside them for close looks at what was found.

    Attributes:
        seen: px that the detector has seen.
    """

    def __init__(
        self, picture: np.ndarray, detect: Detector, search: float, close: float, fixed: Size | None = None
    ) -> None:
        self.picture, self._detect = picture, detect
        self._close = fixed or (CLOSE, CLOSE)
        self._left = {"search": search, "close": close}
        self.seen = 0

    def affords(self, pixels: int, purpose: str = "search") -> bool:
        """Whether so many more px may be seen."""
        return pixels <= self._left[purpose]

    @property
    def close_pixels(self) -> int:
        """Px of one close look."""
        return self._close[0] * self._close[1]

    def whole(self, step: Step) -> list[Hit]:
        """Hits in the whole picture, seen as the step says; none where the picture would be too narrow."""
        picture = self.picture
        if step.padded or step.turns:  # what follows copies the picture
            picture = _shrunk(picture, max(2 * max(step.size), LONGEST_COPY))
        view = np.rot90(picture, step.turns)
        margin = round(PADDING * max(view.shape[:2])) if step.padded else 0
        view = np.pad(view, ((margin, margin), (margin, margin), (0, 0))) if margin else np.ascontiguousarray(view)
        height, width = view.shape[:2]
        if min(height, width) * min(step.size[0] / width, step.size[1] / height) < SHORTEST_SIDE:
            return []
        canvas, scale = _fitted(view, step.size)
        height, width = picture.shape[:2]
        enlarge = np.array(self.picture.shape[1::-1]) / (width, height)

        def back(points: np.ndarray) -> np.ndarray:
            own = unturn(points / scale - margin, step.turns, width, height)
            return own if picture is self.picture else (own + 0.5) * enlarge - 0.5

        return self._look(canvas, back, 90.0 * step.turns, str(step))

    def tiles(self, tiles: Tiles) -> list[Hit]:
        """Hits in all tiles; of those that overlap the surest."""
        import cv2

        height, width = self.picture.shape[:2]
        size = max(1, round(width * tiles.scale)), max(1, round(height * tiles.scale))
        small = (
            self.picture if size == (width, height) else cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA)
        )
        scales = np.array([size[0] / width, size[1] / height])
        found: list[Hit] = []
        for top in _starts(size[1], tiles.size[1], tiles.rows):
            for left in _starts(size[0], tiles.size[0], tiles.columns):
                part = small[top : top + tiles.size[1], left : left + tiles.size[0]]
                canvas = np.zeros((tiles.size[1], tiles.size[0], 3), np.uint8)
                canvas[: part.shape[0], : part.shape[1]] = part

                def back(points: np.ndarray, corner: tuple[int, int] = (left, top)) -> np.ndarray:
                    return (points + np.array(corner) + 0.5) / scales - 0.5

                for hit in self._look(canvas, back, 0.0, str(tiles)):
                    found.append(replace(hit, seen=float((hit.box[2:] - hit.box[:2]).max() * tiles.scale)))
        found.sort(key=lambda hit: -hit.score)
        kept: list[Hit] = []
        for hit in found:
            if all(overlap(hit.box, other.box) < 0.4 for other in kept):
                kept.append(hit)
        return kept

    def closely(self, hit: Hit) -> Hit | None:
        """The same face in a close look, turned back by its roll; None where there is none."""
        import cv2

        size = self._close
        angle = roll(hit.kps) if hit.misfit < 1.0 else hit.turned
        centre = (hit.box[:2] + hit.box[2:]).astype(np.float64) / 2
        side = float(max(hit.box[2:] - hit.box[:2]))
        scale = min(size) / (CLOSE_FACES * max(side, 1.0))
        radius = float(np.hypot(*size)) / 2 / scale  # however the view is turned
        low = np.maximum(np.floor(centre - radius), 0).astype(int)
        high = np.minimum(np.ceil(centre + radius) + 1, self.picture.shape[1::-1]).astype(int)
        if (high <= low).any():
            return None
        part, shrunk = self.picture[low[1] : high[1], low[0] : high[0]], np.ones(2)
        if scale < 0.5:
            own = [max(1, round(length * 2 * scale)) for length in part.shape[1::-1]]
            shrunk = np.array(own) / part.shape[1::-1]
            part = cv2.resize(part, own, interpolation=cv2.INTER_AREA)
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turn = scale * np.array([[cos, sin], [-sin, cos]])  # picture -> canvas
        middle = (np.array(size) - 1) / 2
        inner = turn / shrunk  # part -> canvas
        shift = middle - turn @ (centre - low) + turn @ (0.5 * (1 / shrunk - 1))
        canvas = cv2.warpAffine(part, np.column_stack([inner, shift]), size, flags=cv2.INTER_CUBIC)
        unturned = np.linalg.inv(turn)

        def back(points: np.ndarray) -> np.ndarray:
            return (points - middle) @ unturned.T + centre

        found = self._look(canvas, back, angle, f"{hit.found_by.removesuffix(CLOSELY)}{CLOSELY}", purpose="close")
        near = [one for one in found if np.abs((one.box[:2] + one.box[2:]) / 2 - centre).max() < 0.5 * side]
        return max(near, key=lambda one: one.merit, default=None)

    def _look(
        self,
        canvas: np.ndarray,
        back: Callable[[np.ndarray], np.ndarray],
        turned: float,
        found_by: str,
        purpose: str = "search",
    ) -> list[Hit]:
        """The only call of the detector. back: points (..., 2) of the canvas -> px of the picture."""
        pixels = canvas.shape[0] * canvas.shape[1]
        if not self.affords(pixels, purpose):
            return []
        self._left[purpose] -= pixels
        self.seen += pixels
        found, kps = self._detect(canvas)
        hits = []
        for row, points in zip(found, kps, strict=True):
            left, top, right, bottom = row[:4]
            corners = back(np.array([[left, top], [right, top], [left, bottom], [right, bottom]], row.dtype))
            box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
            hits.append(Hit(box.astype(np.float32), back(points).astype(np.float32), float(row[4]), turned, found_by))
        return hits


def unturn(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Points (..., 2) of np.rot90(picture, turns) -> points of the picture, which is width x height."""
    x, y = points[..., 0], points[..., 1]
    if turns % 4 == 1:
        x, y = width - 1 - y, x
    elif turns % 4 == 2:
        x, y = width - 1 - x, height - 1 - y
    elif turns % 4 == 3:
        x, y = y, height - 1 - x
    return np.stack([x, y], axis=-1)


def _shrunk(picture: np.ndarray, longest: int) -> np.ndarray:
    """The picture with at most so many px on its longer side, averaged."""
    import cv2

    height, width = picture.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _fitted(view: np.ndarray, size: Size) -> tuple[np.ndarray, float]:
    """The view in the upper left corner of a black canvas, as insightface places it, and its scale there."""
    import cv2

    height, width = view.shape[:2]
    if height / width > size[1] / size[0]:
        own = int(size[1] / (height / width)), size[1]
    else:
        own = size[0], int(size[0] * (height / width))
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[: own[1], : own[0]] = cv2.resize(view, own)
    return canvas, own[1] / height


def _starts(length: int, tile: int, count: int) -> list[int]:
    """Where `count` tiles begin, evenly spread over a length."""
    last = max(0, length - tile)
    return [round(last * n / (count - 1)) for n in range(count)] if count > 1 else [0]
