"""One person's contribution to a generation through FFRNet: the face's shape and pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from facesnap.attach.crop import Box
from facesnap.attach.window import Windowed
from facesnap.models.fidelity import FFRNet
from facesnap.models.unet_blocks import KeyValue


class Speed(str, Enum):
    """The share of FFRNet that is computed.

    EXACT: every row, every step. BALANCED: cond rows only, and in the middle of the sampling the residuals of
    every second sigma are reused (see `reuse`). FAST: balanced, and only inside a square around the face (see
    `crop`).
    """

    EXACT = "exact"
    BALANCED = "balanced"
    FAST = "fast"


@dataclass(frozen=True)
class ControlView:
    """The piece of the generated picture that a landmark picture is wanted of, in pixels.

    Attributes:
        frame: (height, width) of the whole picture at this scale.
        top, left, height, width: the piece inside it.
    """

    frame: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class ControlPictures:
    """Landmark pictures of one view, each (1, 3, height, width), RGB in 0..1; the network wants one or both."""

    landmarks: Tensor | None = None
    five_points: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ControlConditioning(Windowed):
    """One person's FFRNet part of a generation; strength (a factor of the residuals) and window as in `Windowed`.

    With several people, each one's residuals are weighed by the region and summed.

    Attributes:
        net: the network. It may lie on another device and have another dtype than the UNet: then it computes there,
            unless the attachment is given `facesnap.attach.networks.Networks` that place it.
        cond: K and V of the ID tokens, `net.project_tokens(tokens)`, for cond rows.
        uncond: the same of the unconditional tokens, for uncond rows; None adds nothing to them. Used by
            Speed.EXACT only.
        draw: renders the landmark pictures of a view; called once per size, the result is kept.
        face: box (left, top, right, bottom) of the face as fractions of the frame, for Speed.FAST.
        pictures: indices of the batch's pictures that the person is in; None for all.
    """

    NAME = "structure "

    net: FFRNet
    cond: Sequence[KeyValue]
    draw: Callable[[ControlView], ControlPictures]
    uncond: Sequence[KeyValue] | None = None
    face: Box | None = None
    pictures: frozenset[int] | None = None
