"""The detection ladder: the sizes, paddings, tiles and turns that are tried until a face is found well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from facesnap.faces.looks import SURE_SCORE, Detector, Hit, Looks, Size, Step, Tiles, overlap, roll

SIZES = (640, 320, 160)
WHOLE = 1024  # px; a longer side up to this is enlarged to it once
TILE, OVERLAP = 960, 96  # px; a face of up to OVERLAP px lies whole in one tile, larger ones are seen in smaller sizes
WIDEST = 1.0  # scale of tiles: pictures are not enlarged in them
SMALL = 2_000_000  # px of a picture whose search is kept cheap
# Px that the detector may see: in search of faces, and looking closely at what was found.
BUDGET, SMALL_BUDGET = (16e6, 8e6), (6e6, 2e6)
# A close look is repeated, at most so often, where the face leaned by more degrees in it, or was by this share smaller
# or larger (area of its box), than the hit before let expect: both are underestimated at first.
CLOSE_LOOKS, STRAIGHT, FAR = 3, 6.0, 0.5
SEEN_FACE = 20  # px of a face in the detector's input that it sees for certain


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        hits: the faces of the best step, largest first. tried: what was looked at, in words.
        upright, turned: px of the smallest face that was searched for, upright and turned by quarters.
        seen: px that the detector has seen.
    """

    hits: tuple[Hit, ...]
    tried: tuple[str, ...]
    upright: int
    turned: int
    seen: int

    @property
    def extent(self) -> str:
        """How far was searched, in a sentence."""
        turned = f", for turned ones from {self.turned} pixels on" if self.turned else ""
        return f"Upright faces were searched for from {self.upright} pixels on{turned}."


def steps(width: int, height: int, fixed: Size | None = None) -> Iterator[Step | Tiles]:
    """The ladder for a picture: sizes from the one that fits it best, then padding, quarter turns, and small faces.

    Args:
        fixed: the detector's only input size, if its graph has no free axes.
    """
    longer = max(width, height)
    if fixed is not None:
        sizes: list[Size] = [fixed]
    else:
        # Enlarging a small picture to 640 makes its face too large for the detector's anchors.
        first = 160 if longer <= 160 else 320 if longer <= 400 else 640
        sizes = [(size, size) for size in sorted(SIZES, key=lambda size: size != first)]
    ladder: list[Step | Tiles] = [Step(size) for size in sizes]
    ladder += [Step(size, padded=True) for size in sizes[:2]]
    for turns in (1, 3, 2):
        ladder += [Step(size, turns=turns) for size in sizes]
        ladder.append(Step(sizes[0], padded=True, turns=turns))
    at = len(sizes) + len(sizes[:2])  # upright before turned
    yield from ladder[:at]
    left = budget(width, height)[0] - sum(step.pixels for step in ladder)
    deep = _deep(width, height, left, fixed)
    if width * height <= SMALL:
        yield from deep
        yield from ladder[at:]
    else:
        yield from ladder[at:]
        yield from deep


def budget(width: int, height: int) -> tuple[float, float]:
    """Px that the detector may see of a picture: in search of faces, and close to what was found."""
    return SMALL_BUDGET if width * height <= SMALL else BUDGET


def _deep(width: int, height: int, left: float, fixed: Size | None) -> list[Step | Tiles]:
    """Looks for small faces that cost at most `left` px."""
    longer = max(width, height)
    if fixed is None and longer <= WHOLE:
        return [Step((WHOLE, WHOLE))] if longer > WHOLE / 2 else []
    found: list[Step | Tiles] = []
    tiles = [fixed] if fixed is not None else [(640, 640), (TILE, TILE)]
    if fixed is None and width * height > SMALL:
        found.append(Step((TILE, TILE)))
        left -= found[0].pixels
    wanted = min(WIDEST, 2900 / math.sqrt(width * height))  # faces of 40 px on 24 megapixels become 24 px
    grids = [grid for size in tiles for grid in _grids(width, height, size, left)]
    if not grids:
        return found
    enough = [grid for grid in grids if grid.scale >= wanted]
    best = min(enough, key=lambda grid: grid.pixels) if enough else max(grids, key=lambda grid: grid.scale)
    return [*found, best]


def _grids(width: int, height: int, size: Size, left: float) -> Iterator[Tiles]:
    """Every arrangement of tiles of a size that costs at most `left` px."""
    most = int(left // (size[0] * size[1]))
    for columns in range(1, most + 1):
        for rows in range(1, most // columns + 1):
            across = columns * (size[0] - OVERLAP) + OVERLAP
            down = rows * (size[1] - OVERLAP) + OVERLAP
            yield Tiles(size, columns, rows, min(across / width, down / height, WIDEST))


def climb(picture: np.ndarray, detect: Detector, fixed: Size | None = None, most: int | None = None) -> Found:
    """Climb until a step finds its largest face well; else the step whose largest face is the surest.

    A face that is not found surely, leans, is seen small in tiles, or whose points make none is looked at again closely
    and turned back by its roll: detectors place the points of leaning and of small faces poorly, and what is no face is
    rarely seen twice. One that leans by more than 45 degrees is looked at with the whole picture turned at once.

    Args:
        picture: (H, W, 3) uint8. detect: see `Looks`.
        most: how many steps of the ladder may be tried; all where None.
    """
    height, width = picture.shape[:2]
    looks = Looks(picture, detect, *budget(width, height), fixed)
    search = _Search(looks)
    best: list[Hit] = []
    for step in itertools.islice(steps(width, height, fixed), most):
        best = max(best, search.step(step), key=_rank)
        if best and best[0].good:
            break
    return Found(tuple(best), tuple(map(str, search.tried)), *search.reach(), looks.seen)


class _Search:
    """Steps that were taken at one picture, and what was seen closely."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self.tried: list[Step | Tiles] = []
        self._known: list[tuple[Hit, Hit]] = []  # what was looked at closely, and what came of it

    def step(self, step: Step | Tiles) -> list[Hit]:
        """The faces that a step finds, the largest first."""
        if step in self.tried or not self._looks.affords(step.pixels):
            return []
        self.tried.append(step)
        if isinstance(step, Tiles):
            return self._faces(self._looks.tiles(step))
        hits = self._looks.whole(step)
        sure = [hit for hit in hits if hit.score >= SURE_SCORE]
        faces = self._faces(hits)
        largest = faces[0] if faces and faces[0].again else max(sure, key=lambda hit: hit.area, default=None)
        turns = step.turns if largest is None else round(roll(largest.kps) / 90) % 4
        if turns == step.turns:
            return faces
        turned = self.step(replace(step, turns=turns))
        return turned if turned and turned[0].settled else max(faces, turned, key=_rank)

    def _faces(self, hits: list[Hit]) -> list[Hit]:
        """Hits as close looks show them, the largest first."""
        sure = sorted((hit for hit in hits if hit.score >= SURE_SCORE), key=lambda hit: -hit.area)
        faces = [hit if hit.settled else self._again(hit) for hit in sure]
        if sure and sure[0].sound:
            return sorted(faces, key=lambda hit: -hit.area)
        weak = sorted((hit for hit in hits if hit.score < SURE_SCORE), key=lambda hit: -hit.score)
        faces += [seen for seen in map(self._again, weak) if seen.again and seen.score >= SURE_SCORE]
        if any(hit.good for hit in faces):
            faces = [hit for hit in faces if hit.good or hit.again]
        return sorted(_distinct(faces), key=lambda hit: -hit.area)

    def _again(self, hit: Hit) -> Hit:
        """The hit after a close look: what was seen there if that is the better, else the hit itself."""
        for before, after in self._known:
            if overlap(before.box, hit.box) > 0.5 and abs(_between(before, hit)) < 30:
                return after
        after, seen = replace(hit, again=False), hit
        for _ in range(CLOSE_LOOKS):
            if not self._looks.affords(self._looks.close_pixels, "close"):
                return after if after.again else hit
            close = self._looks.closely(seen)
            if close is None:
                break
            resized = close.area / max(seen.area, 1.0)
            seen = replace(close, again=True)
            if seen.good or _rank([seen]) > _rank([after]):
                after = seen
            if abs(seen.lean) <= STRAIGHT and FAR <= resized <= 1 / FAR:
                break  # it was looked at as upright and as near as was meant
        self._known.append((hit, after))
        return after

    def reach(self) -> tuple[int, int]:
        """Px of the smallest face that was searched for, upright and turned."""
        height, width = self._looks.picture.shape[:2]
        reached = []
        for turned in (False, True):
            scales = [_scale(step, width, height) for step in self.tried if bool(step.turns) == turned]
            reached.append(math.ceil(SEEN_FACE / max(scales, default=math.inf)) if scales else 0)
        return reached[0], reached[1]


def _scale(step: Step | Tiles, width: int, height: int) -> float:
    """Of the picture in the detector's input."""
    if isinstance(step, Tiles):
        return step.scale
    if step.turns % 2:
        width, height = height, width
    margin = max(width, height) if step.padded else 0
    return min(step.size[0] / (width + margin), step.size[1] / (height + margin))


def _rank(hits: list[Hit]) -> tuple[bool, bool, bool, float]:
    """Order of steps, and of looks at one face: by the largest face."""
    if not hits:
        return (False, False, False, 0.0)
    first = hits[0]
    return (first.good, first.again is not False, first.steady, first.merit)


def _between(a: Hit, b: Hit) -> float:
    """Degrees between the rolls of two hits, -180..180."""
    return (a.lean + a.turned - b.lean - b.turned + 180.0) % 360.0 - 180.0


def _distinct(faces: list[Hit]) -> list[Hit]:
    """Of faces that lie over each other the best."""
    kept: list[Hit] = []
    for hit in sorted(faces, key=lambda one: _rank([one]), reverse=True):
        if all(overlap(hit.box, other.box) < 0.5 for other in kept):
            kept.append(hit)
    return kept
