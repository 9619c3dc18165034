"""The piece of the picture that a UNet call holds: "only masked" passes, and the tiles of Tiled Diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from facesnap.attach import Row, Tile

Place = tuple[int, int]  # (top, left), latent units
Piece = tuple[float, float, float, float]
"""left, top, width, height of a piece of the picture, as fractions of the whole."""

WHOLE: Piece = (0.0, 0.0, 1.0, 1.0)


def crop_of(p: Any) -> Piece:
    """The piece of its picture that a processing object samples: inpainting "only masked" samples a crop, enlarged."""
    crop, whole = getattr(p, "paste_to", None), getattr(p, "mask_for_overlay", None)
    if not crop or whole is None or not getattr(p, "inpaint_full_res", False):
        return WHOLE
    x, y, width, height = crop
    return x / whole.width, y / whole.height, width / whole.width, height / whole.height


def inside(piece: Piece, outer: Piece) -> Piece:
    """A piece of a piece, as fractions of the whole."""
    left, top, width, height = outer
    return left + piece[0] * width, top + piece[1] * height, piece[2] * width, piece[3] * height


def pass_piece(p: Any, latent: tuple[int, int], outer: Piece = WHOLE) -> Tile | None:
    """The piece that a pass samples.

    Args:
        p: the host's processing object; `paste_to` is the crop (x, y, w, h) in pixels of its picture.
        latent: (height, width) of the pass.
        outer: what that picture is of the whole one.

    Returns:
        The piece inside the frame that the whole picture would have at the pass's scale; None for the whole.
    """
    piece = inside(crop_of(p), outer)
    if piece == WHOLE:
        return None
    left, top, width, height = piece
    frame_height, frame_width = latent[0] / height, latent[1] / width
    y, x = round(top * frame_height), round(left * frame_width)
    return Tile((max(round(frame_height), y + latent[0]), max(round(frame_width), x + latent[1])), y, x)


class TileWalk:
    """The places of tiles in the order in which Tiled Diffusion calls the UNet.

    Its objects hold `batched_bboxes`, a list of lists of boxes (x, y, w, h) in latent units, one inner list a call
    (left out without `draw_background`), and `custom_bboxes`, its regions with prompts of their own, one call each,
    or a call for the cond rows and one for the uncond rows where these prompts differ in length. It goes through
    them again and again within a step, once for each group of rows.
    """

    def __init__(self) -> None:
        self.restart(None)

    def restart(self, tiler: Any) -> None:
        """A step begins. tiler: the object with `batched_bboxes`, or None."""
        self._tiler = tiler
        self._calls: list[Sequence[Any]] | None = None
        self._at = self._row = 0

    def _read(self) -> list[Sequence[Any]]:
        """The boxes of each call. Forge's own extension cuts the picture when the first step is already under way."""
        tiler = self._tiler
        grid = list(getattr(tiler, "batched_bboxes", None) or ()) if getattr(tiler, "draw_background", True) else []
        return grid + [[box] for box in getattr(tiler, "custom_bboxes", None) or ()]

    def next(self, pattern: int, batch: int, size: tuple[int, int]) -> tuple[list[Place], slice] | None:
        """Places of the tiles of the next call, and which rows of the pattern each of them holds; None where they
        are not known.

        Args:
            pattern: how many rows the group of rows has. batch: how many the call holds.
            size: (height, width) of one tile.
        """
        if self._calls is None:
            self._calls = self._read()
        boxes = self._calls[self._at % len(self._calls)] if self._calls else ()
        rows = slice(self._row, pattern) if self._row + batch > pattern else slice(self._row, self._row + batch)
        if any((box.h, box.w) != size for box in boxes) or len(boxes) * (rows.stop - rows.start) != batch:
            return None
        self._row = rows.stop % pattern
        self._at += not self._row
        return [(int(box.y), int(box.x)) for box in boxes], rows


def placed(
    rows: Sequence[Row], places: Sequence[Place] | None, frame: tuple[int, int], piece: Tile | None
) -> tuple[Row, ...]:
    """Rows with the pieces of the picture that they hold.

    Args:
        rows: the pattern of the call. places: of its tiles, each holding the whole pattern; None: no tiles.
        frame: (height, width) of the pass's latent. piece: the pass's own piece of the picture, or None.
    """
    if places is None:
        return tuple(rows) if piece is None else tuple(replace(row, tile=piece) for row in rows)
    base = piece or Tile(frame, 0, 0)
    tiles = [Tile(base.frame, base.top + top, base.left + left) for top, left in places]
    return tuple(replace(row, tile=tile) for tile in tiles for row in rows)
