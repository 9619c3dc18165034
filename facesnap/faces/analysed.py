"""A person by the faces of the reference photos: which face of each was taken, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facesnap.faces.face import Face, Quality
from facesnap.faces.identity import Identity


@dataclass(frozen=True)
class ReferenceFace:
    """The face that was taken from one reference photo.

    Attributes:
        source: what the photo is called. index: among the photo's faces, 0 the largest; faces: how many there are.
        box: left, top, right, bottom in pixels of the upright photo. score: the detector's, 0..1.
        quality: see `facesnap.faces.face.Quality`. found_by: the step of the detection ladder.
    """

    source: str
    index: int
    faces: int
    box: tuple[float, float, float, float]
    score: float
    quality: Quality
    found_by: str

    @classmethod
    def of(cls, chosen: Face, faces: Sequence[Face]) -> ReferenceFace:
        """From what an analyser found in a photo, the largest face first."""
        index = next(n for n, face in enumerate(faces) if face is chosen)
        left, top, right, bottom = (round(float(side), 2) for side in chosen.box)
        box = (left, top, right, bottom)
        return cls(chosen.source, index, len(faces), box, chosen.score, chosen.quality, chosen.found_by)

    def json(self) -> dict[str, Any]:
        """For the API."""
        return {
            "face": self.index, "faces": self.faces, "box": list(self.box), "score": round(self.score, 4),
            "quality": self.quality.json(), "found_by": self.found_by,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class AnalysedIdentity:
    """A person, and the face that was taken from each reference; none where the identity was saved before."""

    identity: Identity
    faces: tuple[ReferenceFace, ...] = ()
