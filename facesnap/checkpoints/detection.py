"""What kind of file it is, and how that was told. Where tensors leave a choice, the reason is kept for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facesnap.errors import CheckpointError


@dataclass(frozen=True)
class WeightsFile:
    """What is known of a file besides its tensors.

    Attributes:
        path: of the file. sha256: of its content. family: the user's word, or "" to find out.
    """

    path: Path
    sha256: str = ""
    family: str = ""


@dataclass(frozen=True)
class FamilyMatch:
    """Attributes:
    family: "facesnap" or a key of RECIPES.
    why: the reason, for people.
    structure: a file beside the adapter that belongs to it (InstantID's IdentityNet), or None.
    """

    family: str
    why: str
    structure: Path | None = None


@dataclass(frozen=True)
class Hint:
    """A family by the name of its file: the first pattern that is found in the name (lower case) decides."""

    pattern: str
    family: str


def choose(
    options: Sequence[str], source: WeightsFile, *, hashes: Mapping[str, str] | None = None, hints: Sequence[Hint] = ()
) -> FamilyMatch:
    """One of the families that the tensors allow: by the user's word, the tensors, a known hash, the file's name.

    Args:
        options: families whose tensors look the same. hashes: sha256 prefix -> family.

    Raises:
        CheckpointError: the user's word contradicts the tensors, or nothing decides.
    """
    name = source.path.name
    if source.family:
        if source.family in options:
            return FamilyMatch(source.family, "you said so")
        raise CheckpointError(
            f"{name} was called {source.family}, its tensors are those of {' or '.join(options)}.",
            expected=" or ".join(options),
            remedy="leave the family out, or give the right one",
        )
    if len(options) == 1:
        return FamilyMatch(options[0], "by its tensors")
    for prefix, family in (hashes or {}).items():
        if source.sha256.startswith(prefix) and family in options:
            return FamilyMatch(family, f"by its content: sha256 {prefix}... is the published file")
    for hint in hints:
        if hint.family in options and (found := re.search(hint.pattern, name.lower())):
            return FamilyMatch(hint.family, f"by its name, which has {found[0]!r}")
    raise CheckpointError(
        f"{name} can be {' or '.join(options)}: their tensors are alike, and its name does not tell.",
        expected="a name that tells, as the published files have",
        remedy=f"say which: --family {options[0]} or --family {options[-1]}",
    )
