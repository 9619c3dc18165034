"""Analysis of a person before anything is generated: which face, how good, how alike the photos are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facesnap.errors import FaceSnapError
from facesnap.faces.align import ENCODER_SIZE
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.doubts import different_people, likeness
from facesnap.faces.drawing import mark_faces
from facesnap.faces.face import Face, choose_face
from facesnap.faces.identity import Identity
from facesnap.settings.model import Person
from facesnap.webui.generation.photos import decoded


@dataclass(frozen=True, eq=False)
class PhotoPreview:
    """One picture, looked at.

    Attributes:
        title: such as "Photo 1". faces: how many there are. chosen: the one that is taken, None where `error` says
            why there is none. place: its number, the largest is 0. marked: the picture with boxes and points.
        crop: aligned, 224 pixels.
    """

    title: str
    faces: int = 0
    chosen: Face | None = None
    place: int = 0
    marked: Image.Image | None = None
    crop: Image.Image | None = None
    error: FaceSnapError | None = None


@dataclass(frozen=True, eq=False)
class PersonPreview:
    """One person, looked at.

    Attributes:
        looks: the reference photos, then the pose picture where there is one.
        identity: the saved one, instead of photos. likeness: (R, R) cosines of the photos' faces, or None for fewer
            than two. warnings: one sentence each.
    """

    looks: tuple[PhotoPreview, ...] = ()
    identity: Identity | None = None
    likeness: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


def look_at(
    person: Person, number: int, analyser: FaceAnalyser | None, identity: Identity | None = None
) -> PersonPreview:
    """Analyse a person of the settings. A photo that cannot be used has its error in its place.

    Args:
        number: of the person, from 1. analyser: needed for pictures. identity: the person's saved one, loaded.

    Raises:
        SettingsError: no person is named, or one twice. PictureError: a reference is no picture.
    """
    person.require(number)
    person = decoded(person, number)
    looks = []
    if person.references and analyser is not None:
        looks = [_look(pixels, f"Photo {n}", analyser, person.face) for n, pixels in enumerate(person.references, 1)]
    warnings = _warnings(looks)
    if identity is not None:
        warnings += [f"{doubt}." for doubt in identity.doubts()]
    vectors = [look.chosen.embedding for look in looks if look.chosen is not None]
    cosines = likeness(np.stack(vectors)) if len(vectors) > 1 else None  # (R, 512) -> (R, R)
    if person.pose.source == "picture" and person.pose.image is not None and analyser is not None:
        looks.append(_look(person.pose.image, "Pose picture", analyser, "largest"))
    return PersonPreview(tuple(looks), identity, cosines, tuple(warnings))


def _look(pixels: np.ndarray, title: str, analyser: FaceAnalyser, choose: str) -> PhotoPreview:
    try:
        faces = analyser.faces(pixels, name=title)
        chosen = choose_face(faces, choose)
    except FaceSnapError as error:
        return PhotoPreview(title, error=error)
    crop = Image.fromarray(chosen.crop(ENCODER_SIZE))
    return PhotoPreview(title, len(faces), chosen, faces.index(chosen), mark_faces(faces, chosen), crop)


def _warnings(looks: Sequence[PhotoPreview]) -> list[str]:
    seen = [(look.title, look.chosen) for look in looks if look.chosen is not None]
    found = [f"{title}: {doubt}." for title, face in seen for doubt in face.quality.doubts]
    names = [title if n == 0 else title.lower() for n, (title, _) in enumerate(seen)]
    strangers = different_people(np.stack([face.embedding for _, face in seen]), names) if seen else []
    return found + [f"{doubt}." for doubt in strangers]
