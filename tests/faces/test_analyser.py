"""Packs, providers and what FaceAnalyser refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facesnap.errors import MissingDependencyError, PackError, SettingsError
from facesnap.faces import FaceAnalyser
from facesnap.faces.packs import find_pack, installed_packs, kind_of
from facesnap.files import cached_sha256
from tests.components import face_pack as builder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a current folder without packs."""
    monkeypatch.setenv("FACESNAP_MODELS", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy_pack(source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in source.glob("*.onnx"):
        shutil.copyfile(file, folder / file.name)
    return folder


def test_pack_is_told_apart_by_shape(face_pack: Path) -> None:
    pack = find_pack(face_pack)
    assert pack.detector.name == builder.DETECTOR and pack.recogniser.name == builder.RECOGNISER
    assert kind_of(face_pack / builder.LANDMARKS) == "other"
    assert pack.recogniser_sha256 == builder.SHA256[builder.RECOGNISER]


@pytest.mark.parametrize(
    "place",
    [
        "home/.insightface/models/antelopev2",
        "home/.insightface/models/antelopev2/antelopev2",
        "my/antelopev2",
        "my/insightface/models/antelopev2",
        "my/insightface/antelopev2",
        "my/FaceSnap/AntelopeV2",
        "webui/models/insightface/models/antelopev2",
        "webui/extensions/sd-webui-controlnet/annotator/downloads/insightface/models/antelopev2",
    ],
)
def test_packs_are_found_by_name(place: str, face_pack: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_pack(face_pack, elsewhere / place)
    webui = elsewhere / "webui"
    (webui / "models").mkdir(parents=True, exist_ok=True)
    (webui / "webui.py").write_text("", encoding="utf-8")
    monkeypatch.chdir(webui)
    pack = find_pack("antelopev2", [elsewhere / "my"])
    assert pack.folder == folder and pack.name.lower() == "antelopev2" and "non-commercial" in pack.licence
    assert folder in [found.folder for found in installed_packs([elsewhere / "my"])]


def test_environment_names_folders(face_pack: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_pack(face_pack, elsewhere / "disk" / "auraface" / "AuraFace-v1")
    monkeypatch.setenv("FACESNAP_MODELS", str(elsewhere / "disk"))
    assert find_pack("auraface").folder == folder


def test_a_missing_pack_says_where_and_under_which_licence(elsewhere: Path) -> None:
    with pytest.raises(PackError) as caught:
        find_pack("buffalo_l", [elsewhere / "my"])
    text = str(caught.value)
    assert "facesnap download buffalo_l" in text and "non-commercial" in text and str(elsewhere / "my") in text
    with pytest.raises(PackError, match=r"Apache-2\.0"):
        find_pack("something", [])


def test_unusable_packs(face_pack: Path, tmp_path: Path) -> None:
    def broken(name: str, content: bytes | None) -> Path:
        folder = copy_pack(face_pack, tmp_path / name)
        target = folder / builder.RECOGNISER
        target.unlink() if content is None else target.write_bytes(content)
        return folder

    whole = (face_pack / builder.RECOGNISER).read_bytes()
    with pytest.raises(PackError, match="no recogniser among"):
        FaceAnalyser(broken("incomplete", None))
    for name, content in {"page": b"<!DOCTYPE html>", "cut": whole[: len(whole) // 2], "empty": b""}.items():
        with pytest.raises(PackError):
            FaceAnalyser(broken(name, content))
    empty = tmp_path / "nothing"
    empty.mkdir()
    with pytest.raises(PackError, match=r"no \.onnx file"):
        FaceAnalyser(empty)


def narrow_recogniser(path: Path, width: int, stated: bool = True) -> None:
    """A recogniser-shaped graph whose vectors have another width: channel means, tiled."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Tile", ["mean", "times"], ["y"]),
    ]
    times = helper.make_tensor("times", TensorProto.INT64, [2], [1, width // 3])
    graph = helper.make_graph(
        nodes,
        "narrow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width if stated else "D"])],
        [times],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))


def test_another_embedding_width_is_refused(face_pack: Path, tmp_path: Path, astronaut: np.ndarray) -> None:
    folder = copy_pack(face_pack, tmp_path / "narrow")
    narrow_recogniser(folder / builder.RECOGNISER, 255)
    with pytest.raises(PackError, match="no recogniser among"):
        FaceAnalyser(folder)
    narrow_recogniser(folder / builder.RECOGNISER, 255, stated=False)  # known when it runs
    with pytest.raises(PackError, match=r"\(255,\)"):
        FaceAnalyser(folder).face(astronaut)


def test_provider(face_pack: Path, analyser: FaceAnalyser) -> None:
    import onnxruntime

    assert analyser.provider == "CPUExecutionProvider"
    with pytest.raises(SettingsError):
        FaceAnalyser(face_pack, provider="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingDependencyError, match=r"CPUExecutionProvider.*onnxruntime-gpu"):
            FaceAnalyser(face_pack, provider="cuda")


def test_batches_equal_single_crops(analyser: FaceAnalyser, orl: list[tuple[str, int, np.ndarray]]) -> None:
    from PIL import Image

    crops = [np.repeat(np.array(Image.fromarray(p).resize((112, 112)))[:, :, None], 3, 2) for _, _, p in orl[:19]]
    single = np.concatenate([analyser.embed([crop]) for crop in crops])
    assert np.abs(analyser.embed(crops) - single).max() < 1e-3 * np.abs(single).max()
    assert not np.allclose(single[0], single[1])


def test_equals_insightface_itself(analyser: FaceAnalyser, face_pack: Path, astronaut: np.ndarray) -> None:
    """Against insightface's own way: detect at 640, norm_crop, get."""
    from insightface.app.common import Face as TheirFace
    from insightface.model_zoo import get_model

    bgr = np.ascontiguousarray(astronaut[:, :, ::-1])
    detector = get_model(str(face_pack / builder.DETECTOR), providers=["CPUExecutionProvider"])
    recogniser = get_model(str(face_pack / builder.RECOGNISER), providers=["CPUExecutionProvider"])
    boxes, kps = detector.detect(bgr, input_size=(640, 640))
    theirs = recogniser.get(bgr, TheirFace(bbox=boxes[0, :4], kps=kps[0], det_score=boxes[0, 4]))
    face = analyser.face(astronaut)
    assert np.array_equal(face.box, boxes[0, :4]) and np.array_equal(face.kps, kps[0])
    assert np.abs(face.embedding - theirs).max() <= 1e-5
    swapped = recogniser.get(astronaut, TheirFace(bbox=boxes[0, :4], kps=kps[0]))
    assert np.abs(swapped - theirs).max() > 1e-2  # channel order matters, and it is right
    assert abs(np.linalg.norm(face.normed_embedding) - 1) < 1e-6 and face.picture_size == (512, 512)


def test_sha256_follows_the_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a")
    first = cached_sha256(file)
    file.write_bytes(b"bb")
    assert cached_sha256(file) != first


def test_importing_faces_imports_no_heavy_package() -> None:
    code = (
        "import sys, facesnap.faces, facesnap.faces.identity\n"
        "bad = {'insightface', 'onnxruntime', 'onnx', 'cv2', 'transformers', 'skimage'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_insightface_is_explained(face_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "insightface.model_zoo", None)
    with pytest.raises(MissingDependencyError, match="doctor"):
        FaceAnalyser(face_pack)
