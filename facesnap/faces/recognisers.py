"""The recognisers that public adapters were trained with. Their files name none: a space of vectors has only a name."""

from __future__ import annotations

from dataclasses import dataclass

from facesnap.errors import IdentityMismatchError
from facesnap.remedies import remedy


@dataclass(frozen=True)
class KnownRecogniser:
    """A recogniser that public adapters name.

    Attributes:
        sha256: of the ONNX file in insightface's release v0.7.
        packs: names of packs that hold it. A pack of such a name may hold another export of it (another precision).
    """

    sha256: str
    packs: tuple[str, ...]


RECOGNISERS = {
    "w600k_r50": KnownRecogniser(
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43", ("buffalo_l", "buffalo_m")
    ),
    "glintr100": KnownRecogniser("4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf", ("antelopev2",)),
}


def require_named(what: str, found: str, alias: str, wanted: str) -> None:
    """Compare a recogniser with the one that a public adapter names.

    The file decides where it is known; an unknown file passes by the name of its pack alone (AuraFace's file is called
    glintr100 too and is another space, so a file's name proves nothing).

    Args:
        what: whose recogniser it is, for the message. found: its sha256. alias: name of its pack.
        wanted: key of RECOGNISERS; another name matches nothing but a pack of that name.

    Raises:
        IdentityMismatchError: it is another one.
    """
    known = next((name for name, r in RECOGNISERS.items() if r.sha256 == found), None)
    packs = RECOGNISERS[wanted].packs if wanted in RECOGNISERS else (wanted,)
    if known == wanted or (known is None and alias.lower() in packs):
        return
    raise IdentityMismatchError(
        f"{what} was made with the recogniser {known or alias} ({found[:12]}).",
        expected=f"{wanted} (pack {' or '.join(packs)}); vectors are not interchangeable",
        remedy=remedy("analyse with a pack", pack=packs[0]),
    )
