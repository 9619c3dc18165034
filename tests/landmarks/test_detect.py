"""Detection: insightface's real Landmark class on nets of its signatures, a real 68-point net, and five
points."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from facesnap.errors import LandmarkError, PackError
from facesnap.faces import FaceAnalyser
from facesnap.landmarks import scheme
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import Detection, LandmarkDetector, kind_of
from facesnap.landmarks.fitting import fit
from facesnap.landmarks.pose import rotation
from facesnap.landmarks.predictor import LandmarkPredictor
from tests.landmarks.nets import constant_net
from tests.landmarks.test_scheme import to_ibug68

BASIS = Basis.load()
BOX = np.array([100.0, 80.0, 260.0, 280.0])
GREY = np.full((400, 360, 3), 128, np.uint8)
POSE = (20.0, 5.0, 10.0)


def face_in_the_box(dims: int = 3) -> np.ndarray:
    """(72, dims) pixels of the mean face in a pose, inside BOX."""
    points = 75.0 * BASIS.mean @ rotation(*POSE).T + (180, 185, 0)
    return points[:, :dims]


def kps() -> np.ndarray:
    return scheme.five_points(face_in_the_box(2))


def to_insightface(points: np.ndarray) -> np.ndarray:
    """Pixels to what an insightface landmark net answers: -1..1 over a square 1.5 times the box's longer
    side."""
    centre, side = (BOX[:2] + BOX[2:]) / 2, 1.5 * (BOX[2:] - BOX[:2]).max()
    crop = (points[:, :2] - centre) * 192 / side + 96
    answer = np.column_stack([crop / 96 - 1, points[:, 2:] * 192 / side / 96])
    return answer


def test_3d68_runs_through_insightface(tmp_path):
    truth = face_in_the_box()
    answer = to_insightface(to_ibug68(truth) * (1, 1, -1))  # insightface's depth grows towards the viewer
    others = np.zeros((1103 - 68, 3))  # 1k3d68 gives 1,035 points before the 68
    constant_net(tmp_path / "1k3d68.onnx", (1, 3, 192, 192), np.vstack([others, answer]))
    detector = LandmarkDetector(tmp_path)
    found = detector.detect(GREY, BOX, kps())
    assert (detector.kind, found.kind, found.model) == ("3d68", "3d68", "1k3d68.onnx")
    known = [i for i in range(72) if i not in scheme.DERIVED_POINTS]
    np.testing.assert_allclose(found.points[known, :2] - 0.5, truth[known, :2], atol=0.1)
    np.testing.assert_allclose(found.points[known, 2], truth[known, 2], atol=0.1)
    result = fit(BASIS, found.observation)
    assert result.views[0].angles == pytest.approx(POSE, abs=1) and not found.observation.outline
    assert np.sqrt((result.a**2).mean()) < 0.2  # the mean face came back


def test_106_runs_through_insightface(tmp_path):
    truth = face_in_the_box(2)
    points = np.full((106, 2), 180.0)
    points[list(scheme._106_OF_IBUG68)] = to_ibug68(truth)
    constant_net(tmp_path / "2d106det.onnx", (1, 3, 192, 192), to_insightface(points))
    found = LandmarkDetector(tmp_path).detect(GREY, BOX, kps())
    assert found.kind == "106" and found.observation.outline
    known = [i for i in range(72) if i not in scheme.DERIVED_POINTS]
    np.testing.assert_allclose(found.points[known] - 0.5, truth[known], atol=0.1)
    assert fit(BASIS, found.observation).views[0].angles == pytest.approx(POSE, abs=4)


def crop_fractions(points: np.ndarray) -> np.ndarray:
    """Pixels to fractions of our own crop of the box: upright along the eyes, 1.05 times the longer side."""
    from facesnap.landmarks.dense68 import Dense68

    frame = Dense68._frame(None, BOX, kps(), (0.0, 0.0))
    return (points - frame[:, 2]) @ np.linalg.inv(frame[:, :2]).T


@pytest.mark.parametrize(("side", "channels"), [(64, 1), (112, 3)])
@pytest.mark.parametrize("convention", ["fractions", "pixels", "centred"])
def test_68_points_are_recognised_by_shape_and_convention(tmp_path, side, channels, convention):
    upright = 75.0 * BASIS.mean[:, :2] + (180, 185)
    five = scheme.five_points(upright)
    detectors = crop_fractions_for(five, to_ibug68(upright))
    answer = {"fractions": detectors, "pixels": detectors * side, "centred": detectors * 2 - 1}[convention]
    constant_net(tmp_path / "any_name.onnx", (1, channels, side, side), answer)
    found = LandmarkDetector(tmp_path).detect(GREY, BOX, five)
    assert found.kind == "68" and found.model == "any_name.onnx"
    # A net that ignores its input answers the same for every shifted and mirrored crop: the face is symmetric
    # and the shifts cancel, so the mean is the face itself.
    assert np.abs(found.points - 0.5 - upright).max() < 3


def crop_fractions_for(five: np.ndarray, points: np.ndarray) -> np.ndarray:
    from facesnap.landmarks.dense68 import Dense68

    frame = Dense68._frame(None, BOX, five, (0.0, 0.0))
    return (points - frame[:, 2]) @ np.linalg.inv(frame[:, :2]).T


def test_a_net_whose_points_are_elsewhere_is_refused(tmp_path):
    constant_net(tmp_path / "wrong.onnx", (1, 1, 64, 64), np.linspace(0, 1, 136))
    with pytest.raises(PackError, match=r"wrong\.onnx.*not on the face"):
        LandmarkDetector(tmp_path).detect(GREY, BOX, kps())


def test_answers_that_are_not_finite_are_refused(tmp_path):
    constant_net(tmp_path / "nan.onnx", (1, 3, 192, 192), np.full(212, np.nan))
    with pytest.raises(LandmarkError, match="not finite"):
        LandmarkDetector(tmp_path).detect(GREY, BOX, kps())


def test_best_model_wins(tmp_path):
    constant_net(tmp_path / "a68.onnx", (1, 1, 64, 64), np.zeros(136))
    assert LandmarkDetector(tmp_path).kind == "68"
    constant_net(tmp_path / "b106.onnx", (1, 3, 192, 192), np.zeros(212))
    assert LandmarkDetector(tmp_path).kind == "106"
    constant_net(tmp_path / "c.onnx", (1, 3, 192, 192), np.zeros(3309))
    assert LandmarkDetector(tmp_path).kind == "3d68"


@pytest.mark.parametrize(
    ("given", "outputs", "kind"),
    [
        ((1, 3, 192, 192), [(1, 3309)], "3d68"),
        (("N", 3, 192, 192), [("N", 212)], "106"),
        ((1, 1, 64, 64), [(1, 136)], "68"),
        (("N", 3, 256, 256), [("N", 68, 2)], "68"),
        ((1, 3, 112, 112), [(1, 512)], None),  # a recogniser
        ((1, 3, 96, 96), [(1, 3)], None),  # gender and age
        ((1, 3, "H", "W"), [(1, 136)], None),
        ((1, 3, 640, 640), [(1, 1)] * 9, None),  # a detector
        ((1, 136), [(1, 136)], None),
    ],
)
def test_models_are_told_apart_by_shape(given, outputs, kind):
    assert kind_of(given, outputs) == kind


def test_without_a_model_five_points_give_a_pose(tmp_path):
    detector = LandmarkDetector(tmp_path)
    found = detector.detect(GREY, BOX, kps())
    assert detector.kind == "five"
    result = fit(BASIS, found.observation)
    assert result.pose_only and result.views[0].angles == pytest.approx(POSE, abs=1.5)


def test_unusable_folders_and_input(tmp_path):
    with pytest.raises(PackError, match="no folder"):
        LandmarkDetector(tmp_path / "none")
    detector = LandmarkDetector(tmp_path)
    for picture, box, five in (
        (GREY[..., 0], BOX, kps()),
        (GREY.astype(float), BOX, kps()),
        (GREY, BOX[::-1], kps()),
        (GREY, BOX, kps()[:4]),
        (GREY, BOX, kps() * np.nan),
    ):
        with pytest.raises(LandmarkError):
            detector.detect(picture, box, five)


def test_files_that_cannot_be_read_are_passed_over_with_a_note(tmp_path, caplog):
    constant_net(tmp_path / "z106.onnx", (1, 3, 192, 192), np.zeros(212))
    for name in ("1k3d68.onnx", "broken.onnx", "._z.onnx"):
        (tmp_path / name).write_bytes(b"not an onnx file")
    assert LandmarkDetector(tmp_path).model == "z106.onnx"
    noted = " ".join(record.message for record in caplog.records)
    assert "1k3d68.onnx" in noted and "broken.onnx" in noted and "._z" not in noted


def test_importing_landmarks_imports_no_heavy_package():
    code = (
        "import sys, facesnap.landmarks.predictor, facesnap.landmarks.render, facesnap.landmarks.detect; "
        "heavy = {'torch', 'insightface', 'onnxruntime', 'cv2', 'onnx', 'anny', 'diffusers'}; "
        "bad = heavy & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ----- real weights


@pytest.fixture(scope="module")
def predictor(face_pack) -> LandmarkPredictor:
    return LandmarkPredictor(LandmarkDetector(face_pack))


@pytest.fixture(scope="module")
def analyser(face_pack) -> FaceAnalyser:
    return FaceAnalyser(face_pack)


def test_real_landmarks_lie_on_the_features(predictor, analyser, astronaut):
    face = analyser.face(astronaut)
    found = predictor.detect(face)
    assert found.kind == "68" and found.model == "fr_landmark.onnx"
    five = scheme.five_points(found.points)
    unit = scheme.outer_eye_distance(found.points)
    assert np.hypot(*(five - 0.5 - face.kps).T).max() < 0.2 * unit
    # Points placed by hand on the 512 px astronaut: eye centres, nose tip, mouth corners.
    by_hand = np.array([[204, 110], [247, 107], [225, 130], [206, 146], [248, 143]])
    assert np.hypot(*(five - by_hand).T).max() < 0.2 * unit
    result = predictor.fit(face)
    assert result.confident and result.views[0].error < 0.03
    assert np.abs(result.views[0].angles).max() < 15


def test_turning_the_picture_turns_the_fit(predictor, analyser, astronaut):
    first = predictor.fit(analyser.face(astronaut)).views[0].angles
    mirrored = predictor.fit(analyser.face(np.ascontiguousarray(astronaut[:, ::-1]))).views[0].angles
    assert mirrored == pytest.approx((-first[0], first[1], -first[2]), abs=5)
    quarter = predictor.fit(analyser.face(np.ascontiguousarray(np.rot90(astronaut, 3)))).views[0].angles
    assert quarter[2] - first[2] == pytest.approx(90, abs=8)  # a quarter turn clockwise


def test_identity_survives_a_strangers_pose(predictor, analyser, orl):
    """Landmarks of eight people, driven by another's picture, are nearer to their own shape than the driver's
    are."""
    pictures = {(person, index): np.repeat(grey[..., None], 3, 2) for person, index, grey in orl}
    people = [f"s{i}" for i in range(1, 9)]
    gallery, held, drivers = [], [], []
    for person in people:
        found: list[Detection] = [predictor.detect(analyser.face(pictures[person, i])) for i in range(1, 5)]
        gallery.append(fit(BASIS, [one.observation for one in found[:2]]))
        held.append(fit(BASIS, [one.observation for one in found[2:]]))
        drivers.append(fit(BASIS, found[3].observation))
    kept, copied = [], []
    size = (92, 112)
    from facesnap.landmarks.fitting import Observation
    from facesnap.landmarks.recombination import recombine

    for i, source in enumerate(held):
        driver = drivers[(i + 3) % len(people)]
        points = recombine(BASIS, source, driver, size=size) * size
        again = fit(BASIS, Observation(points, size, 0.003, outline=False))
        own, others = gallery[i].a, gallery[(i + 3) % len(people)].a
        kept.append(np.linalg.norm(again.a - own) < np.linalg.norm(again.a - others))
        copied.append(np.linalg.norm(driver.a - own) < np.linalg.norm(driver.a - others))
    assert np.mean(kept) >= 0.8 and np.mean(copied) <= 0.2
