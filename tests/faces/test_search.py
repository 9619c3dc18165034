"""The search for faces that are small, leaning or none: what is found, what it costs, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesnap.errors import NoFaceError
from facesnap.faces import Face, FaceAnalyser
from facesnap.faces.align import ARCFACE_TEMPLATE, template
from facesnap.faces.face import quality_of
from facesnap.faces.ladder import climb, steps
from facesnap.faces.looks import CLOSE, Looks, Step, Tiles, overlap

HEADS = Path(__file__).resolve().parents[2] / "facesnap" / "demo" / "weights" / "people"


def cosine(a: Face, b: Face) -> float:
    return float(a.normed_embedding @ b.normed_embedding)


def counted(analyser: FaceAnalyser, picture: np.ndarray) -> tuple[int, int]:
    """Pixels that the detector sees of a picture, and how often it is called."""
    calls: list[int] = []

    def detect(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(canvas.shape[0] * canvas.shape[1])
        return analyser._detect(canvas)

    assert climb(picture, detect).seen == sum(calls)
    return sum(calls), len(calls)


def ground(kind: str, width: int, height: int) -> np.ndarray:
    from skimage import data

    if kind == "grey":
        return np.full((height, width, 3), 128, np.uint8)
    pattern = getattr(data, kind)()
    if pattern.ndim == 2:
        pattern = np.repeat(pattern[:, :, None], 3, axis=2)
    across, down = -(-width // pattern.shape[1]), -(-height // pattern.shape[0])
    return np.tile(pattern, (down, across, 1))[:height, :width].copy()


@pytest.mark.parametrize(
    ("kind", "width", "height", "side"),
    [
        ("grey", 8000, 6000, 60),
        pytest.param("gravel", 6000, 4000, 40, marks=pytest.mark.thorough),
        pytest.param("coffee", 6000, 4000, 40, marks=pytest.mark.thorough),
        pytest.param("grass", 8000, 6000, 56, marks=pytest.mark.thorough),
        pytest.param("rocket", 8000, 6000, 56, marks=pytest.mark.thorough),
    ],
)
def test_a_small_face_in_a_large_photo(
    kind: str, width: int, height: int, side: int, analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face
) -> None:
    scale = side / float(np.ptp(astronaut_face.box.reshape(2, 2), axis=0).max())
    photo, size = ground(kind, width, height), round(512 * scale)
    photo[2000 : 2000 + size, 2666 : 2666 + size] = np.array(Image.fromarray(astronaut).resize((size, size)))
    face = analyser.face(photo)
    assert overlap(face.box, astronaut_face.box * scale + np.array([2666, 2000] * 2, np.float32)) >= 0.5
    assert cosine(face, astronaut_face) >= 0.75 and not face.found_by.startswith("turned")


def test_a_face_that_is_seen_small_in_tiles_is_looked_at_closely(
    analyser: FaceAnalyser, astronaut: np.ndarray, astronaut_face: Face
) -> None:
    """However sure it is: the points of a face that is seen in 24 pixels cost .3 of cosine."""
    scale = 40 / float(np.ptp(astronaut_face.box.reshape(2, 2), axis=0).max())
    photo, size, x, y = ground("coffee", 6000, 4000), round(512 * scale), 357, 1937
    photo[y : y + size, x : x + size] = np.array(Image.fromarray(astronaut).resize((size, size)))
    (tiles,) = [step for step in steps(6000, 4000) if isinstance(step, Tiles)]
    hits = [hit for hit in Looks(photo, analyser._detect, 16e6, 6e6).tiles(tiles) if hit.score > 0.5]
    assert [hit.sound for hit in hits] == [True] and not hits[0].settled
    assert replace(hits[0], seen=100.0).settled
    face = analyser.face(photo)
    assert face.found_by.endswith("then closely") and cosine(face, astronaut_face) > 0.85


@pytest.mark.parametrize(
    ("width", "height"),
    [(1411, 1411), (2000, 1000), (1415, 1415),
     *(pytest.param(*size, marks=pytest.mark.thorough) for size in ((6000, 4000), (8000, 6000), (20000, 1500)))],
)  # fmt: skip
def test_pixels_are_bounded_for_every_detector(width: int, height: int) -> None:
    """A detector that always sees something somewhere, never well: the worst case."""
    draw = np.random.default_rng(0)

    def detect(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = canvas.shape[:2]
        corners = draw.uniform(0, 0.8, (20, 2)) * (width, height)
        boxes = np.column_stack([corners, corners + 0.1 * width, draw.uniform(0.3, 0.7, 20)])
        kps = corners[:, None] + ARCFACE_TEMPLATE * (width / 1120) + draw.normal(0, width / 50, (20, 5, 2))
        return boxes.astype(np.float32), kps.astype(np.float32)

    def nothing(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)

    picture = np.zeros((height, width, 3), np.uint8)
    small = width * height <= 2e6
    for fixed in (None, (640, 640)):
        assert climb(picture, detect, fixed).seen <= (8e6 if small else 24e6)
        assert climb(picture, nothing, fixed).seen <= (6e6 if small else 16e6)


def test_looks_refuse_what_they_cannot_afford() -> None:
    looks = Looks(np.zeros((90, 90, 3), np.uint8), lambda canvas: 1 / 0, search=100, close=CLOSE**2)  # type: ignore[arg-type, return-value]
    assert looks.whole(Step((160, 160))) == [] and looks.seen == 0


def test_a_face_found_at_once_costs_one_look_and_a_leaning_one_little_more(
    analyser: FaceAnalyser, astronaut: np.ndarray
) -> None:
    assert counted(analyser, astronaut) == (640 * 640, 1)
    leaning = np.array(Image.fromarray(astronaut).rotate(-40, fillcolor=(128, 128, 128)))
    pixels, _ = counted(analyser, leaning)
    assert 640 * 640 < pixels <= 2 * 640 * 640


def test_a_leaning_head_is_the_person(analyser: FaceAnalyser) -> None:
    """Shipped heads, 384 px, turned by what their five points used to go wrong at."""
    for name, angle in (("1000004", 60), ("1000004", -45), ("1000000", 105), ("1000001", 75), ("1000002", 120)):
        with Image.open(HEADS / f"{name}.png") as image:
            head = image.convert("RGB").resize((384, 384), Image.LANCZOS)
        turned = np.array(head.rotate(angle, resample=Image.BICUBIC, fillcolor=(128, 128, 128)))
        face = analyser.face(turned)
        assert cosine(face, analyser.face(np.array(head))) >= 0.95, (name, angle, face.found_by)


def test_no_face_says_how_far_was_searched(analyser: FaceAnalyser) -> None:
    with pytest.raises(NoFaceError, match=r"from 20 pixels on, for turned ones from 32 pixels on"):
        analyser.faces(np.full((1000, 1000, 3), 128, np.uint8))


def test_quality_falls_with_the_score_and_with_points_that_fit_no_face() -> None:
    rng = np.random.default_rng(1)
    noise = np.clip(rng.normal(128, 100, (112, 112, 3)), 0, 255).astype(np.uint8)
    points = template(112)
    sure = quality_of(noise, points, 0.9)
    assert sure.score > 0.9 and not sure.doubts
    assert quality_of(noise, points, 0.8).detection == pytest.approx(0.8)
    poor = [quality_of(noise, points, score).score for score in (0.74, 0.66, 0.6, 0.52)]
    assert poor == sorted(poor, reverse=True) and poor[2] < 0.75
    assert any("recognisable" in doubt for doubt in quality_of(noise, points, 0.6).doubts)
    assert any("recognisable" in doubt for doubt in quality_of(noise, points, 0.78, seen_again=False).doubts)
    scattered = points[[2, 0, 3, 1, 4]]
    assert quality_of(noise, scattered, 0.9).score < 0.4
    assert any("do not fit" in doubt for doubt in quality_of(noise, scattered, 0.9).doubts)
    assert replace(sure, landmarks=0.5).score == pytest.approx(sure.score / 2)
