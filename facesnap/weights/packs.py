"""One rule for which face-analysis pack looks at photos: a generation, the preview, the pose canvas and the API's
routes all see the same faces.

The pack with the recogniser of the adapter that is chosen or found by itself; without one, or where photos are only
looked at, the one that the settings page names; else any that is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from facesnap.errors import IdentityMismatchError, PackError
from facesnap.faces.known import advice
from facesnap.faces.packs import Pack, find_pack, installed_packs, pack_parents
from facesnap.faces.recognisers import RECOGNISERS, require_named

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WantedRecogniser:
    """The recogniser that an adapter was trained with.

    Attributes:
        sha256: of its ONNX file, "" where the adapter only names it. name: for people; both empty: any will do.
    """

    sha256: str = ""
    name: str = ""

    def is_in(self, pack: Pack) -> bool:
        """Whether a pack holds it."""
        if self.sha256:
            return pack.recogniser_sha256 == self.sha256
        if not self.name:
            return True
        try:
            require_named("", pack.recogniser_sha256, pack.name, self.name)
        except IdentityMismatchError:
            return False
        return True


def needed_pack(adapter: str, wanted: WantedRecogniser, preferred: str, places: Sequence[str]) -> Pack:
    """The pack that an adapter works with.

    Args:
        adapter: its name, for messages. preferred: name or folder of the settings page's pack.
        places: folders of models, as `facesnap.faces.packs` takes them.

    Raises:
        PackError: none has its recogniser.
    """
    tried = []
    for pack in _in_order(preferred, places):
        if wanted.is_in(pack):
            return pack
        tried.append(pack.name)
    parents = ", ".join(map(str, pack_parents(places)))
    name, otherwise = wanted.name, "download that pack and unpack it there"
    raise PackError(
        f"No pack has the recogniser of the adapter '{adapter}' (packs found: {', '.join(tried) or 'none'}).",
        expected=f"the pack with {name or wanted.sha256[:10]} in one of: {parents}",
        remedy=advice(RECOGNISERS[name].packs[0], otherwise) if name in RECOGNISERS else otherwise,
    )


def viewing_pack(wanted: WantedRecogniser, preferred: str, places: Sequence[str]) -> Pack:
    """The pack to look at photos with, before anything is generated; see `needed_pack`.

    Raises:
        PackError: there is no pack at all.
    """
    found = list(_in_order(preferred, places))
    if not found:
        return find_pack(preferred, places)  # which says what is missing
    return next((pack for pack in found if wanted.is_in(pack)), found[0])


def _in_order(preferred: str, places: Sequence[str]) -> Iterator[Pack]:
    """The settings page's pack first, then all others."""
    try:
        first = find_pack(preferred, places)
        yield first
    except PackError as error:
        logger.debug("%s", error)
    yield from installed_packs(places)
