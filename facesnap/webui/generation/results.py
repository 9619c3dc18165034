"""The last generations and the facts about their people: numbers and names, never a picture.

A generation opens its entry with `Results.begin`, adds to it while it goes on, and closes it with `finish`:

    result = RESULTS.begin(adapter="my-adapter", digest=sha256, people=[PersonFound(references=faces)], seconds=0.2)
    p.extra_generation_params.update(result.infotext())
    result.warn(1, "low confidence: seen from the side")     # people count from 1
    result.score(1, picture=0, similarity=0.52)              # pictures from 0, in the order of the answer
    result.note("without FaceSnap after the switch of models")
    result.finish()                                          # or finish(error)

The API shows it under the id that stands in the infotext. Every method may be called from any thread.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facesnap.faces.identity import ReferenceFace
from facesnap.settings.infotext import NAME, SHORT

KEY = f"{NAME} result"
MOST = 100  # generations that are kept
MOST_TEXTS, LONGEST_TEXT = 50, 2000
RUNNING, FINISHED, FAILED = "running", "finished", "failed"

Json = dict[str, Any]


@dataclass(frozen=True)
class PersonFound:
    """One person at the beginning of a generation.

    Attributes:
        identity: the name of a saved identity, or empty. digest: of the Identity.
        references: the faces of its photos; empty for a saved identity.
    """

    identity: str = ""
    digest: str = ""
    references: tuple[ReferenceFace, ...] = ()


class Result:
    """One generation.

    Args:
        adapter: name of the one in use; digest: its hash.
        people: in the order of the settings. seconds: spent on their preparation.

    Attributes:
        id: its name in the API. people: as given.
    """

    def __init__(
        self, adapter: str = "", digest: str = "", people: Sequence[PersonFound] = (), seconds: float = 0.0
    ) -> None:
        self.id = secrets.token_hex(6)
        self.people = tuple(people)
        self._adapter, self._digest, self._seconds = adapter, digest, seconds
        self._state, self._error, self._details = RUNNING, "", ""
        self._notes: list[str] = []
        self._warnings: list[list[str]] = [[] for _ in people]
        self._scores: list[dict[int, float | None]] = [{} for _ in people]
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Something about the whole generation."""
        with self._lock:
            _append(self._notes, text)

    def warn(self, person: int, text: str) -> None:
        """Something about one person, counted from 1."""
        with self._lock:
            _append(self._warnings[person - 1], text)

    def score(self, person: int, picture: int, similarity: float | None) -> None:
        """How alike a picture is to a person: cosine -1..1, None without a face. People from 1, pictures from 0."""
        with self._lock:
            self._scores[person - 1][picture] = None if similarity is None else round(float(similarity), 4)

    def finish(self, error: Exception | None = None) -> None:
        """The generation is over; with the error that ended it."""
        with self._lock:
            self._state = FINISHED if error is None else FAILED
            self._error = "" if error is None else str(error)[:LONGEST_TEXT]
            self._details = str(getattr(error, "details", ""))[:LONGEST_TEXT]

    def infotext(self) -> dict[str, str]:
        """The entry for `p.extra_generation_params`: the id alone."""
        return {KEY: self.id}

    def json(self) -> Json:
        """For the API; a copy."""
        with self._lock:
            people = [
                {
                    "identity": found.identity or None, "hash": found.digest[:SHORT],
                    "references": [one.json() for one in found.references], "warnings": list(warnings),
                    "similarity": [scores.get(picture) for picture in range(max(scores, default=-1) + 1)],
                }
                for found, warnings, scores in zip(self.people, self._warnings, self._scores, strict=True)
            ]  # fmt: skip
            return {
                "id": self.id, "state": self._state, "error": self._error or None, "details": self._details or None,
                "adapter": {"name": self._adapter, "hash": self._digest[:SHORT]},
                "preparation_seconds": round(self._seconds, 4), "people": people, "notes": list(self._notes),
            }  # fmt: skip


class Results:
    """The last generations, at most so many; the oldest go first. Safe for several threads."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, **facts: Any) -> Result:
        """Open the entry of a generation. facts: see `Result`."""
        result = Result(**facts)
        with self._lock:
            self._kept[result.id] = result
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return result

    def get(self, id: str) -> Result | None:
        """One by its id; None where it is unknown or was dropped."""
        with self._lock:
            return self._kept.get(id)

    def last(self, count: int = 1) -> list[Result]:
        """The last ones begun, the newest first."""
        with self._lock:
            return list(self._kept.values())[::-1][:count]


def _append(texts: list[str], text: str) -> None:
    if len(texts) < MOST_TEXTS and text not in texts:
        texts.append(text[:LONGEST_TEXT])


RESULTS = Results()  # of this process: modules of the package outlive a reload of the UI
