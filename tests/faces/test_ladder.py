"""The detection ladder on a real portrait: turned, close up, tiny, rotated by EXIF; and its geometry."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facesnap.errors import NoFaceError, SettingsError
from facesnap.faces import Face, FaceAnalyser, choose_face
from facesnap.faces.align import aligned_crop
from facesnap.faces.ladder import budget, climb, steps
from facesnap.faces.looks import Step, overlap, roll, unturn

SAME = 0.6  # cosine; with this recogniser strangers stay below 0.5 and one person's photos average 0.83


def cosine(a: Face, b: Face) -> float:
    return float(a.normed_embedding @ b.normed_embedding)


def plain_detector(analyser: FaceAnalyser, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What insightface itself makes of a picture in one look."""
    return analyser._detector.detect(np.ascontiguousarray(picture[:, :, ::-1]), input_size=(640, 640))


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 8), st.integers(0, 8))
def test_unturn_finds_the_same_pixel(turns: int, width: int, height: int, x: int, y: int) -> None:
    picture = np.arange(width * height).reshape(height, width)
    turned = np.rot90(picture, turns)
    y, x = y % turned.shape[0], x % turned.shape[1]
    back = unturn(np.array([[x, y]]), turns, width, height)[0]
    assert picture[back[1], back[0]] == turned[y, x]


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_every_ladder_has_all_kinds_of_step_once(width: int, height: int) -> None:
    ladder = list(steps(width, height))
    assert len(set(ladder)) == len(ladder)
    assert {step.turns for step in ladder} == {0, 1, 2, 3} and any(str(step).startswith("padded") for step in ladder)
    assert ladder[0].turns == 0 and isinstance(ladder[0], Step) and not ladder[0].padded
    assert sum(step.pixels for step in ladder) <= budget(width, height)[0]
    assert sum(budget(width, height)) <= (8e6 if width * height <= 2e6 else 24e6)
    assert next(iter(steps(width, height, (480, 640)))) == Step((480, 640))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_pictures(turns: int, analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face) -> None:
    face = analyser.face(np.ascontiguousarray(np.rot90(astronaut, turns)))
    assert face.found_by == f"turned {90 * (4 - turns)}, 640"
    assert cosine(face, astronaut_face) > 0.99
    expected = unturn(astronaut_face.kps, 4 - turns, 512, 512)  # the turn that takes upright points to turned ones
    assert np.abs(face.kps - expected).max() < 1
    assert abs(abs(roll(face.kps)) - (180 if turns == 2 else 90)) < 15
    difference = np.abs(face.crop(224).astype(float) - astronaut_face.crop(224))
    assert difference.mean() < 2  # the crop is upright


def test_eight_orientations_give_the_same_face(
    analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face
) -> None:
    stored = {1: astronaut, 2: astronaut[:, ::-1], 3: astronaut[::-1, ::-1], 4: astronaut[::-1]}
    stored |= {5: astronaut.transpose(1, 0, 2), 6: np.rot90(astronaut)}
    stored |= {7: np.rot90(astronaut, 2).transpose(1, 0, 2), 8: np.rot90(astronaut, 3)}
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", exif=exif)
        face = analyser.face(stream.getvalue())
        assert np.array_equal(face.box, astronaut_face.box), orientation
        assert np.array_equal(face.embedding, astronaut_face.embedding), orientation


def test_close_up_that_fills_the_frame(analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face) -> None:
    tight = astronaut[85:170, 185:265]  # brows to chin
    large = np.array(Image.fromarray(tight).resize((1600, 1700)))
    for picture in (tight, large, np.rot90(large)):
        face = analyser.face(np.ascontiguousarray(picture))
        assert cosine(face, astronaut_face) > SAME, face.found_by
    _, kps = plain_detector(analyser, large)
    plain = analyser.embed([aligned_crop(large, points) for points in kps])
    assert (plain @ astronaut_face.normed_embedding < SAME * np.linalg.norm(plain, axis=1)).all()


def test_tiny_face_in_a_large_picture(analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face) -> None:
    canvas = np.full((2400, 3200, 3), 200, np.uint8)
    canvas[1500:1756, 2100:2356] = np.array(Image.fromarray(astronaut).resize((256, 256)))
    plain = plain_detector(analyser, canvas)[0]
    plain = plain[plain[:, 4] >= 0.5]
    assert len(plain) == 0 or plain[:, 4].max() < 0.6  # the plain detector barely sees it
    face = analyser.face(canvas)
    assert cosine(face, astronaut_face) > 0.95 and face.found_by.endswith("then closely")
    assert overlap(face.box, astronaut_face.box / 2 + np.array([2100, 1500] * 2)) > 0.5
    assert face.quality.size < 1 and face.quality.score < astronaut_face.quality.score


def test_blur_lowers_quality(analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face) -> None:
    import cv2

    blurred = analyser.face(cv2.GaussianBlur(astronaut, (0, 0), 4))
    assert blurred.quality.sharpness < 0.5 * astronaut_face.quality.sharpness
    assert blurred.quality.score < astronaut_face.quality.score


def test_choice_among_faces(analyser: FaceAnalyser, astronaut: np.ndarray) -> None:
    """Three faces: a small one at the left, the largest at the right, a middle-sized one in the centre."""
    canvas = np.full((600, 1500, 3), 128, np.uint8)
    canvas[150:406, 20:276] = np.array(Image.fromarray(astronaut).resize((256, 256)))
    canvas[40:552, 980:1492] = astronaut
    canvas[100:484, 560:944] = np.array(Image.fromarray(astronaut).resize((384, 384)))
    faces = analyser.faces(canvas)
    assert len(faces) == 3
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    assert choose_face(faces).box[0] > 980 and choose_face(faces, 0) is choose_face(faces, "largest")
    assert choose_face(faces, "leftmost").box[2] < 276 and choose_face(faces, "2") is choose_face(faces, "leftmost")
    assert 560 < choose_face(faces, "central").box[0] < 944
    for index in (3, -1, "9"):
        with pytest.raises(NoFaceError, match="has 3"):
            choose_face(faces, index)
    with pytest.raises(SettingsError):
        choose_face(faces, "prettiest")


def test_no_face_says_what_was_tried(analyser: FaceAnalyser) -> None:
    from skimage import data

    with pytest.raises(NoFaceError, match=r"cat\.png") as refused:
        analyser.faces(data.chelsea(), name="cat.png")
    assert re.search("640; 320.*padded 640.*turned 90.*turned 180", refused.value.details)
    assert "Tried" not in str(refused.value) and "Remedy" in str(refused.value)
    with pytest.raises(NoFaceError):
        analyser.faces(np.zeros((3, 4000, 3), np.uint8))


def test_the_best_of_poor_steps_wins() -> None:
    """A detector that is never sure: the ladder tries everything and keeps the step of greatest merit."""
    from facesnap.faces.align import template

    def detect(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = {640: 0.6, 320: 0.7, 160: 0.55}.get(canvas.shape[1], 0.5)
        return np.array([[10, 10, 90, 90, score]], np.float32), template(112)[None]

    found = climb(np.zeros((500, 500, 3), np.uint8), detect)
    assert found.hits[0].found_by.endswith("320") and len(found.tried) == len(list(steps(500, 500)))
