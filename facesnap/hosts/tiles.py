"""Which piece of the picture a UNet call holds: "only masked" passes, and the tiles of Tiled Diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from facesnap.attach import Row, Tile

Place = tuple[int, int]  # (top, left), latent units


def pass_piece(p: Any, latent: tuple[int, int]) -> Tile | None:
    """The piece that a pass samples: inpainting "only masked" samples a crop of the picture, enlarged.

    Args:
        p: the host's processing object; `paste_to` is the crop (x, y, w, h) in pixels of the whole picture.
        latent: (height, width) of the pass.

    Returns:
        The piece inside the frame that the whole picture would have at the pass's scale; None for the whole.
    """
    crop, whole = getattr(p, "paste_to", None), getattr(p, "mask_for_overlay", None)
    if not crop or whole is None or not getattr(p, "inpaint_full_res", False):
        return None
    x, y, width, height = crop
    scale_x, scale_y = latent[1] / width, latent[0] / height  # latent units a pixel
    top, left = round(y * scale_y), round(x * scale_x)
    frame_width, frame_height = whole.size
    frame = (max(round(frame_height * scale_y), top + latent[0]), max(round(frame_width * scale_x), left + latent[1]))
    return Tile(frame, top, left)


class TileWalk:
    """The places of tiles in the order in which Tiled Diffusion calls the UNet.

    Its objects hold `batched_bboxes`, a list of lists of boxes (x, y, w, h) in latent units: one inner list a call,
    the calls in that order, again and again within a step (once for each group of rows).
    """

    def __init__(self) -> None:
        self._tiler: Any = None
        self._at = 0

    def restart(self, tiler: Any) -> None:
        """A step begins. tiler: the object with `batched_bboxes`, or None."""
        self._tiler, self._at = tiler, 0

    def next(self, tiles: int, size: tuple[int, int]) -> list[Place] | None:
        """Places of the tiles of the next call, or None where they are not known.

        Args:
            tiles: how many the call holds. size: (height, width) of one.
        """
        batches = getattr(self._tiler, "batched_bboxes", None)
        if not batches or getattr(self._tiler, "custom_bboxes", None):  # custom boxes add calls of other sizes
            return None
        boxes = batches[self._at % len(batches)]
        self._at += 1
        if len(boxes) != tiles or any((box.h, box.w) != size for box in boxes):
            return None
        return [(int(box.y), int(box.x)) for box in boxes]


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
