"""What the pose canvas draws: people with their landmarks, whatever adapter is chosen."""

from __future__ import annotations

from facesnap.cache import ContentCache, FileDigests
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import choose_face
from facesnap.faces.identity import Identity
from facesnap.shape import Shapes
from facesnap.webui import hosting, lists
from facesnap.webui.people import face_choice, reference_pictures
from facesnap.webui.settings import Person

CACHE_BYTES = 32 << 20
_kept: tuple[FaceAnalyser, Shapes] | None = None


def shapes() -> Shapes:
    """Kept as long as the settings page names the same pack.

    Raises:
        PackError: it is missing. MissingDependencyError: insightface is missing.
    """
    global _kept
    analyser = hosting.analyser()
    if _kept is None or _kept[0] is not analyser:
        _kept = (analyser, Shapes(analyser, ContentCache(CACHE_BYTES), FileDigests()))
    return _kept[1]


def identity_of(person: Person, number: int) -> Identity:
    """A saved identity, or one made of the photos with their landmarks; no adapter and no encoder take part.

    Raises:
        FaceSnapError: nobody is named, the pack is missing, or a photo shows no face.
    """
    person.require(number)
    if person.identity:
        return lists.identities().load(person.identity)
    made, choose = shapes(), face_choice(person)
    assert made.analyser is not None
    pictures, names = reference_pictures(person, number)
    found = [made.analyser.faces(one, name=name) for one, name in zip(pictures, names, strict=True)]
    faces = [choose_face(one, choose) for one in found]
    return Identity.from_faces(faces, name=f"person {number}", landmarks=made.landmarks(faces))
