"""A weights file and the kind of adapter that it holds, with the reason for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WeightsFile:
    """The facts of a file besides its tensors.

    Attributes:
        path: of the file. sha256: of its content. family: the user's word, or "" to find out.
    """

    path: Path
    sha256: str = ""
    family: str = ""


@dataclass(frozen=True)
class FamilyMatch:
    """The kind of a file.

    Attributes:
        family: key of `facesnap.families`.
        why: the reason, for people.
        structure: a file beside the adapter that belongs to it (InstantID's IdentityNet), or None.
    """

    family: str
    why: str
    structure: Path | None = None
