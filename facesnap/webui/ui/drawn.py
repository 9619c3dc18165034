"""The people of the pose canvas with their landmarks."""

from __future__ import annotations

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import choose_face
from facesnap.faces.identity import Identity
from facesnap.pipeline.cache import ContentCache
from facesnap.pipeline.shape import Shapes
from facesnap.settings.model import Person
from facesnap.webui import process
from facesnap.webui.generation.people import reference_names
from facesnap.webui.generation.pictures import decode
from facesnap.webui.ui import lists

CACHE_BYTES = 32 << 20
_kept: tuple[FaceAnalyser, Shapes] | None = None


def shapes(adapter: str = "") -> Shapes:
    """Those of the pack that the next generation uses too, with what the last one has found out.

    Args:
        adapter: as it is chosen in the dropdown.

    Raises:
        PackError: there is no pack. MissingDependencyError: insightface is missing.
    """
    global _kept
    analyser, pipeline = lists.viewer(adapter), process.loader().latest
    if pipeline is not None and pipeline.adapter.ffrnet is not None and pipeline.analyser is analyser:
        return pipeline.shapes
    if _kept is None or _kept[0] is not analyser:
        _kept = (analyser, Shapes(analyser, ContentCache(CACHE_BYTES)))
    return _kept[1]


def identity_of(person: Person, number: int, adapter: str = "") -> Identity:
    """A saved identity, or one made of the photos with their landmarks; no encoder takes part.

    Args:
        adapter: as in `shapes`.

    Raises:
        FaceSnapError: no person is named, the pack is missing, or a photo shows no face.
    """
    person.require(number)
    if person.identity:
        return lists.identities().load(person.identity)
    made = shapes(adapter)
    assert made.analyser is not None
    named = zip(person.references, reference_names(person, number), strict=True)
    found = [made.analyser.faces(decode(one, name), name=name) for one, name in named]
    faces = [choose_face(one, person.face) for one in found]
    return Identity.from_faces(faces, name=f"person {number}", landmarks=made.landmarks(faces))
