"""The face basis file: what is in it, what is refused, and that the script rebuilds it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facesnap.errors import LandmarkError
from facesnap.landmarks import scheme
from facesnap.landmarks.anny_points import POINTS, point_weights
from facesnap.landmarks.basis import DEFAULT_FILE, Basis


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.load()


def test_size_and_modes(basis):
    assert DEFAULT_FILE.stat().st_size <= 300_000
    assert len(basis.identity) >= 40 and len(basis.expression) >= 30
    for modes in (basis.identity, basis.expression):
        lengths = np.linalg.norm(modes.reshape(len(modes), -1), axis=1)
        assert (np.diff(lengths) <= 1e-4).all() and lengths[-1] > 0
        flat = modes.reshape(len(modes), -1) / lengths[:, None]
        np.testing.assert_allclose(flat @ flat.T, np.eye(len(modes)), atol=2e-2)
        # The rule that fixes the signs decides clearly for every mode, whatever a machine's rounding.
        margin = flat @ np.random.RandomState(72).normal(size=flat.shape[1])
        assert margin.min() > 1e-3


def test_licence_is_named(basis):
    assert "CC0" in basis.source and "Apache-2.0" in basis.source


def test_mean_face_has_the_features_where_a_face_has_them(basis):
    mean = basis.mean
    assert abs(scheme.outer_eye_distance(mean) - 1) < 0.01
    np.testing.assert_allclose(mean.mean(0), 0, atol=1e-4)
    brow, eye, nose, mouth = (mean[scheme.PARTS[p], 1].mean() for p in ("brow_left", "eye_left", "nose", "mouth"))
    assert brow < eye < nose < mouth < mean[8, 1]
    assert mean[30, 2] == mean[:, 2].min()  # the nose tip is nearest
    assert mean[[0, 9], 2].min() > mean[8, 2]  # the ears lie behind the chin
    # the contour runs ear to chin on the left, then ear downwards on the right
    assert (np.diff(mean[:9, 1]) > 0).all() and (np.diff(mean[9:17, 1]) > 0).all()
    assert mean[:8, 0].max() < mean[8, 0] < mean[9:17, 0].min()


def test_presets_do_what_their_names_say(basis):
    def moved(name: str, index: int) -> np.ndarray:
        return basis.presets[name][index]

    lids = {
        "left": [(45, 51), (46, 50)],
        "right": [(38, 42), (39, 41)],
    }  # the person's own left is the image's right

    def opening(name: str, side: str) -> float:
        face = basis.mean + basis.presets[name]
        return float(np.mean([face[low, 1] - face[up, 1] for up, low in lids[side]]))

    assert set(basis.presets) == {
        *("neutral", "smile", "laugh", "open_mouth", "surprise"),
        *("sadness", "wink_left", "wink_right", "eyes_closed", "frown"),
    }
    assert not basis.presets["neutral"].any()
    for name in ("smile", "laugh"):
        assert moved(name, 52)[1] < -0.05 and moved(name, 57)[1] < -0.05  # corners up
        assert moved(name, 52)[0] < -0.02 and moved(name, 57)[0] > 0.02  # and apart
    for name in ("open_mouth", "laugh", "surprise"):
        assert moved(name, 70)[1] - moved(name, 63)[1] > 0.1  # inner lips part
        assert moved(name, 8)[1] > 0.05  # the chin drops
    assert abs(moved("smile", 70)[1] - moved("smile", 63)[1]) < 0.05
    assert moved("sadness", 52)[1] > 0.03 and moved("sadness", 57)[1] > 0.03  # corners down
    assert moved("surprise", 19)[1] < -0.04 and moved("surprise", 24)[1] < -0.04  # brows up
    assert opening("surprise", "left") > 1.1 * opening("neutral", "left")
    for index in (20, 21, 22, 23):
        assert moved("frown", index)[1] > 0.02  # inner brows down
    assert moved("sadness", 21)[1] < -0.02  # inner brows up
    assert opening("wink_left", "left") < 0.1 * opening("neutral", "left")
    assert opening("wink_left", "right") == pytest.approx(opening("neutral", "right"), abs=1e-3)
    assert opening("wink_right", "right") < 0.1 * opening("neutral", "right")
    assert opening("wink_right", "left") == pytest.approx(opening("neutral", "left"), abs=1e-3)
    assert max(opening("eyes_closed", side) for side in lids) < 0.1 * opening("neutral", "left")


def test_points_table_mirrors_and_adds_up():
    weights = point_weights()
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all() and max(map(len, POINTS)) == 3
    used = [{v for v, _ in entry} for entry in POINTS]
    for index, other in enumerate(scheme.MIRROR):
        assert len(used[index]) == len(used[other])


def test_save_and_load_round_trip(basis, tmp_path):
    basis.save(tmp_path / "own.npz")
    again = Basis.load(tmp_path / "own.npz")
    np.testing.assert_array_equal(again.identity, basis.identity)
    assert list(again.presets) == list(basis.presets) and again.source == basis.source


def rewrite(path, basis: Basis, **changes) -> None:
    """A basis file with some entries replaced; None removes one."""
    basis.save(path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": np.zeros((68, 3), np.float32)}, "mean has the shape"),
        ({"identity": np.zeros((0, 72, 3), np.float32)}, "modes"),
        ({"expression": np.full((3, 72, 3), np.nan, np.float32)}, "not finite"),
        ({"presets": np.zeros((3, 72, 3), np.float32)}, "preset names"),
        ({"residuals": np.array([-1.0, 0.0])}, "residuals"),
        ({"header": np.array(json.dumps({"format": "another"}))}, "format"),
        ({"header": np.array("not json")}, "cannot be read"),
        ({"identity": None}, "no entry"),
    ],
)
def test_unusable_files_are_named(basis, tmp_path, change, reason):
    path = tmp_path / "bad.npz"
    rewrite(path, basis, **change)
    with pytest.raises(LandmarkError, match=reason) as caught:
        Basis.load(path)
    assert "bad.npz" in str(caught.value)


def test_faces_in_another_frame_are_refused(basis, tmp_path):
    path = tmp_path / "bad.npz"
    for factor, reason in (((1, -1, 1), "frame"), ((1, 1, -1), "frame"), ((2, 2, 2), "distance")):
        rewrite(path, basis, mean=(basis.mean * factor).astype(np.float32))
        with pytest.raises(LandmarkError, match=reason):
            Basis.load(path)


def test_missing_damaged_and_pickled_files(basis, tmp_path):
    with pytest.raises(LandmarkError, match="does not exist"):
        Basis.load(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(DEFAULT_FILE.read_bytes()[:5000])
    with pytest.raises(LandmarkError, match="cannot be read"):
        Basis.load(tmp_path / "cut.npz")
    (tmp_path / "text.npz").write_text("hello", encoding="utf-8")
    with pytest.raises(LandmarkError, match="cannot be read"):
        Basis.load(tmp_path / "text.npz")
    rewrite(tmp_path / "pickled.npz", basis, mean=np.array([{"a": 1}], dtype=object))
    with pytest.raises(LandmarkError, match="cannot be read"):
        Basis.load(tmp_path / "pickled.npz")


def test_rebuilt_from_the_head_model(basis, tmp_path):
    """The scripts make the committed basis anew to 1e-5 outer-eye distances, and the benchmark's heads."""
    from facesnap.bench import make_heads
    from facesnap.landmarks.anny_heads import AnnyHeads
    from facesnap.landmarks.build_basis import build

    heads = AnnyHeads()
    np.testing.assert_allclose(make_heads.make(heads), make_heads.load(), atol=1.01 * make_heads.STEP)
    build(heads).save(tmp_path / "new.npz")
    new = Basis.load(tmp_path / "new.npz")
    for name in ("mean", "identity", "expression"):
        np.testing.assert_allclose(getattr(new, name), getattr(basis, name), atol=1.01e-5)
    for name, offset in basis.presets.items():
        np.testing.assert_allclose(new.presets[name], offset, atol=1.01e-5)


def test_without_the_head_model_the_error_names_the_packages(monkeypatch):
    import sys

    from facesnap.errors import MissingDependencyError
    from facesnap.landmarks.anny_heads import AnnyHeads

    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(MissingDependencyError, match="pip install anny"):
        AnnyHeads()
