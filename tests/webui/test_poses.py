"""What the settings say of a pose is what the landmarks do, on a real photo's landmarks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from facesnap.errors import NoFaceError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import Identity
from facesnap.landmarks.recombination import PoseSpec
from facesnap.pipeline.cache import ContentCache
from facesnap.pipeline.shape import Shapes, pose_spec
from facesnap.settings.model import POSE_NUMBERS, Pose
from facesnap.webui.generation.people import pose_for
from tests.webui.strategies import POSES

SIZE = (640, 512)


@pytest.fixture(scope="module")
def shapes(face_pack: Path) -> Shapes:
    return Shapes(FaceAnalyser(face_pack), ContentCache(64 << 20))


@pytest.fixture(scope="module")
def identity(shapes: Shapes, astronaut: np.ndarray) -> Identity:
    face = shapes.analyser.face(astronaut)
    return Identity.from_faces([face], landmarks=shapes.landmarks([face]))


def _points(shapes: Shapes, identity: Identity, pose: Pose, init: object = None) -> np.ndarray:
    return shapes.shape(identity, pose_for(pose, init), SIZE).landmarks.points


@settings(max_examples=200)
@given(POSES)
def test_every_pose_of_the_settings_is_one_of_the_landmarks(pose: Pose) -> None:
    pose = dataclasses.replace(pose, image=np.zeros((8, 8, 3), np.uint8))
    found = pose_for(pose, np.ones((8, 8, 3), np.uint8))
    spec = pose_spec(found)
    numbers = {name: getattr(spec, name) for name in ("yaw", "pitch", "roll", "size")}
    numbers |= dict(zip("xy", spec.position or (None, None), strict=True))
    assert numbers == {name: getattr(pose, name) for name in POSE_NUMBERS} and spec.expression == pose.expression
    assert (found.framing, found.expression_gain) == (pose.framing, pose.expression_gain)
    assert found.source == ("picture" if pose.source == "init" else pose.source)
    assert found.image.max() == (1 if pose.source == "init" else 0)


def test_sources_give_the_landmarks_they_name(shapes: Shapes, identity: Identity, astronaut: np.ndarray) -> None:
    turned = np.ascontiguousarray(astronaut[:, ::-1])
    own = _points(shapes, identity, Pose("reference"))
    np.testing.assert_allclose(_points(shapes, identity, Pose("init"), astronaut), own, atol=1e-6)  # kept as float32
    mirrored = _points(shapes, identity, Pose("init"), turned)
    assert np.abs(mirrored - own).max() * 512 > 20
    for image in (turned, Image.fromarray(turned)):
        assert np.array_equal(_points(shapes, identity, Pose("picture", image), astronaut), mirrored)
    canvas = _points(shapes, identity, Pose("canvas"))
    full = Pose("canvas", yaw=0.0, pitch=0.0, roll=0.0, x=0.5, y=0.5, size=0.5, expression={"neutral": 1.0})
    np.testing.assert_allclose(canvas, _points(shapes, identity, full), atol=1e-12)
    assert np.abs(canvas - own).max() * 512 > 20


@pytest.mark.parametrize("name", POSE_NUMBERS)
@pytest.mark.parametrize("source", ("reference", "canvas"))
def test_each_number_replaces_the_sources_own_and_nothing_else(
    shapes: Shapes, identity: Identity, source: str, name: str
) -> None:
    base = shapes._source(identity).views[0]
    zoom = min(np.array(SIZE) / base.size)
    where = (base.translation * zoom + (np.array(SIZE) - zoom * np.array(base.size)) / 2) / SIZE
    own = dict(zip(("yaw", "pitch", "roll"), base.angles, strict=True)) | dict(zip("xy", where, strict=True))
    if source == "canvas":
        own = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "x": 0.5, "y": 0.5}
    plain = _points(shapes, identity, Pose(source))
    if name in own:  # the size of a driver is measured in another way
        same = _points(shapes, identity, Pose(source, **{name: float(own[name])}))
        np.testing.assert_allclose(same, plain, atol=1e-9)
    other = _points(shapes, identity, Pose(source, **{name: 0.9 if name in "xysize" else 33.0}))
    assert np.abs(other - plain).max() * 512 > 10
    if name in "xy":
        assert np.abs((other - plain)[:, 1 - "xy".index(name)]).max() < 1e-12


def test_what_is_missing_is_named() -> None:
    for pose, words in (
        (Pose("picture"), r"person 2 is to come from the pose picture of person 2.*add one"),
        (Pose("init"), r"person 2 is to come from the init image.*img2img"),
    ):
        with pytest.raises(SettingsError, match=words):
            pose_for(pose, None, 2)
    assert pose_spec(pose_for(Pose("canvas"))) == PoseSpec()


def test_a_pose_picture_without_a_face_is_refused(shapes: Shapes, identity: Identity) -> None:
    with pytest.raises(NoFaceError):
        _points(shapes, identity, Pose("picture", np.full((64, 64, 3), 127, np.uint8)))
