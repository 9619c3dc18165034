"""What was seen of a person: which face of each reference was taken, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facesnap.faces.face import Face
from facesnap.faces.identity import Identity


@dataclass(frozen=True)
class Sighting:
    """Which face of a reference was taken.

    Attributes:
        source: what the reference is called. chosen: its place among the faces, the largest is 0. faces: how many
            there are. report: `Face.report`. doubts: why it tells little about the person.
    """

    source: str
    chosen: int
    faces: int
    report: dict[str, Any]
    doubts: tuple[str, ...]

    @classmethod
    def of(cls, face: Face, among: Sequence[Face]) -> Sighting:
        place = next(n for n, one in enumerate(among) if one is face)
        return cls(face.source, place, len(among), face.report(), face.quality.doubts)


@dataclass(frozen=True, eq=False)
class Seen:
    """A person, and what was seen of each reference; nothing where the identity was saved before."""

    identity: Identity
    sightings: tuple[Sighting, ...] = ()
