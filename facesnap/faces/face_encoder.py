"""The protocol of encoders of faces, and their output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from facesnap.faces.face import Face


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoder's view of B faces.

    Attributes:
        hidden: level -> (B, 1 + P, width).
        class_vectors: (B, projection) of length 1, or None where the encoder gives none to adapters.
        preparation: how the pictures were made, where that is not the same on every machine; for people.
    """

    hidden: dict[int, Tensor]
    class_vectors: Tensor | None = None
    preparation: str = ""


class FaceEncoder(Protocol):
    """A CLIP image encoder that makes its own pictures of faces.

    Attributes:
        levels: those that it gives where none are asked for.
    """

    fingerprint: str
    levels: tuple[int, ...]

    @property
    def name(self) -> str:
        """For people; public adapters name their encoder by it."""

    def see(self, faces: Sequence[Face], levels: Sequence[int], *, bgr: bool = False) -> Encoded:
        """Look at faces.

        Args:
            levels: n is the hidden state after block n; some encoders count from the end, too.
            bgr: swap red and blue first, as one official example does by mistake.
        """
