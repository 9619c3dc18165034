"""The row plan: what each row of the batch that the UNet sees stands for. Only the host knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facesnap.errors import AttachError


@dataclass(frozen=True)
class Tile:
    """The piece of the picture that a row holds, latent units; its size is that of the UNet's input.

    Attributes:
        frame: (height, width) of the whole picture. top, left: corner of the piece.
    """

    frame: tuple[int, int]
    top: int
    left: int


@dataclass(frozen=True)
class Row:
    """One entry of the UNet's batch: cond or uncond, of which picture, and of which tile (None: the whole)."""

    picture: int
    cond: bool
    tile: Tile | None = None


class RowPlan:
    """The host's announcement of the coming UNet call; it sets the fields before each call as they change.

    Attributes:
        rows: the roles of the rows in one pattern; a batch that is a multiple of it repeats the pattern
            (Tiled Diffusion: one pattern a tile).
        progress: fraction of the sampling that is done, 0 <= progress <= 1.
        steps: number of steps of the sampling; None where it is not known (residuals are never reused then).
        step: number of the sampler's call that runs, those counted in which the UNet was left out; None: not known.
        idle: True while the UNet is called for another purpose, whose rows the host does not announce: such calls
            pass as if nothing were attached.
    """

    def __init__(self, rows: Sequence[Row], progress: float = 0.0, steps: int | None = None) -> None:
        self.rows: tuple[Row, ...] = tuple(rows)
        self.progress = progress
        self.steps = steps
        self.step: int | None = None
        self.idle = False

    @classmethod
    def classifier_free(cls, pictures: int = 1, *, guidance: bool = True, uncond_first: bool = True) -> RowPlan:
        """The usual batch of classifier-free guidance: all uncond rows, then all cond rows, or the reverse.

        Args:
            pictures: batch size of the sampling.
            guidance: False where the UNet sees cond rows only (CFG 1).
            uncond_first: diffusers' order; A1111 puts the cond rows first.
        """
        cond = [Row(i, True) for i in range(pictures)]
        uncond = [Row(i, False) for i in range(pictures)] if guidance else []
        return cls(uncond + cond if uncond_first else cond + uncond)

    def for_batch(self, batch: int) -> tuple[Row, ...]:
        """The rows of a call with that many entries.

        Raises:
            AttachError: the batch is no multiple of the plan.
        """
        if not self.rows or batch % len(self.rows):
            raise AttachError(
                f"The UNet was called with {batch} rows, the host's plan has {len(self.rows)}.",
                expected="a batch that is a multiple of the plan",
                remedy="the host must announce the rows of each call; report this with the list of your extensions",
            )
        return self.rows * (batch // len(self.rows))
