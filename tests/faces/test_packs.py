"""Foreign files in a pack's folder: passed over with a note, and never taken for one of the pack's own."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facesnap.errors import LandmarkError, PackError
from facesnap.faces import packs
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.packs import find_pack, installed_packs, kind_of, load_pack
from facesnap.landmarks.detect import LandmarkDetector
from facesnap.weights import doctor
from tests.components import face_pack as builder


def net(path: Path, inputs: Sequence[Sequence], outputs: Sequence[Sequence]) -> None:
    """A graph with these shapes; its answers are zeros."""
    given = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, list(shape)) for i, shape in enumerate(inputs)]
    made = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, list(shape)) for i, shape in enumerate(outputs)]
    nodes, zero = [], helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    for i, shape in enumerate(outputs):
        size = helper.make_tensor(f"s{i}", TensorProto.INT64, [len(shape)], [n if type(n) is int else 1 for n in shape])
        nodes.append(helper.make_node("Constant", [], [f"shape{i}"], value=size))
        nodes.append(helper.make_node("Expand", ["zero", f"shape{i}"], [f"y{i}"]))
    graph = helper.make_graph(nodes, "net", given, made, [zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))


SCRFD = [("A", width) for width in (1, 4, 10) for _ in range(3)]
NETS: dict[str, tuple[list, list, str]] = {  # inputs, outputs, kind
    "SCRFD": ([(1, 3, "H", "W")], SCRFD, "detector"),
    "SCRFD of 640": ([(1, 3, 640, 640)], [(1, 100, width) for _, width in SCRFD], "detector"),
    "RetinaFace": ([(1, 3, "H", "W")], [("A", width) for width in (1, 4, 10) for _ in range(5)], "detector"),
    "SCRFD without points": ([(1, 3, "H", "W")], SCRFD[:6], "other"),
    "nine heads of another detector": ([(1, 3, 640, 640)], [(1, 255, 80, 80)] * 9, "other"),
    "nine outputs, two inputs": ([(1, 3, 640, 640), (1, 2)], SCRFD, "other"),
    "ArcFace": ([("N", 3, 112, 112)], [("N", 512)], "recogniser"),
    "ArcFace of one": ([(1, 3, 112, 112)], [(1, 512)], "recogniser"),
    "GFPGAN": ([(1, 3, 512, 512)], [(1, 3, 512, 512)], "other"),
    "CodeFormer": ([(1, 3, 512, 512), (1,)], [(1, 3, 512, 512)], "other"),
    "GPEN of 256": ([(1, 3, 256, 256)], [(1, 3, 256, 256)], "other"),
    "a restorer of 112": ([(1, 3, 112, 112)], [(1, 3, 112, 112)], "other"),
    "inswapper": ([(1, 3, 128, 128), (1, 512)], [(1, 3, 128, 128)], "other"),
    "emotions": ([(1, 3, 112, 112)], [(1, 8)], "other"),
    "a 512-d net of 224": ([(1, 3, 224, 224)], [(1, 512)], "other"),
    "a grey recogniser": ([(1, 1, 112, 112)], [(1, 512)], "other"),
    "1k3d68": ([("N", 3, 192, 192)], [("N", 3309)], "other"),
    "genderage": ([("N", 3, 96, 96)], [("N", 3)], "other"),
}


@pytest.mark.parametrize("name", NETS)
def test_the_signature_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    inputs, outputs, kind = NETS[name]
    net(tmp_path / "net.onnx", inputs, outputs)
    assert kind_of(tmp_path / "net.onnx") == kind


FOREIGN: dict[str, Callable[[Path], object]] = {
    "._w_fr_feature.onnx": lambda file: file.write_bytes(b"\0\5\x16\7macOS"),
    "._det.onnx": lambda file: file.write_bytes(b""),
    "a_page.onnx": lambda file: file.write_bytes(b"<!DOCTYPE html><html>not found</html>"),
    "a_pointer.onnx": lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
    "empty.onnx": lambda file: file.write_bytes(b""),
    "GFPGANv1.4.onnx": lambda file: net(file, *NETS["GFPGAN"][:2]),
    "a_restorer.onnx": lambda file: net(file, *NETS["a restorer of 112"][:2]),
    "emotion.ONNX": lambda file: net(file, *NETS["emotions"][:2]),
    "inswapper_128.onnx": lambda file: net(file, *NETS["inswapper"][:2]),
    "a_folder.onnx": lambda file: file.mkdir(),
}


@pytest.fixture
def pack(face_pack: Path, tmp_path: Path) -> Path:
    packs._note.cache_clear()
    return shutil.copytree(face_pack, tmp_path / "models" / "buffalo_l")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_leaves_the_pack_as_it_was(pack: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    FOREIGN[name](pack / name)
    with caplog.at_level(logging.WARNING):
        found = load_pack(pack)
        assert load_pack(pack) == found and next(iter(installed_packs([pack.parent]))) == found
    assert (found.detector.name, found.recogniser.name) == (builder.DETECTOR, builder.RECOGNISER)
    silent = name.startswith("._") or name == "a_folder.onnx"
    notes = [record.message for record in caplog.records if "passed over" in record.message]
    assert [name in note for note in notes] == ([] if silent else [True])  # once
    assert [one.partition(" (")[0] for one in found.passed_over] == ([] if silent else [name])
    noted = [one.what for one in doctor.packs([str(pack.parent)]) if one.level == doctor.NOTE]
    assert any(name in one for one in noted) != silent


def test_all_of_them_together_change_no_face(pack: Path, face_pack: Path, astronaut: np.ndarray) -> None:
    for name, make in FOREIGN.items():
        make(pack / name)
    ours, theirs = (FaceAnalyser(folder).face(astronaut) for folder in (pack, face_pack))
    assert np.array_equal(ours.embedding, theirs.embedding) and np.array_equal(ours.box, theirs.box)
    detector = LandmarkDetector(pack)
    assert (detector.kind, detector.model) == ("68", builder.LANDMARKS)


def test_a_pack_with_uppercase_endings_works(pack: Path, face_pack: Path, astronaut: np.ndarray) -> None:
    for file in list(pack.iterdir()):
        file.rename(file.with_suffix(".ONNX"))
    ours, theirs = (FaceAnalyser(folder).face(astronaut) for folder in (pack, face_pack))
    assert np.array_equal(ours.embedding, theirs.embedding) and LandmarkDetector(pack).kind == "68"


@pytest.mark.parametrize(("name", "remedy"), ((builder.RECOGNISER, "give the folder"), ("pack.zip", "unpack it")))
def test_a_file_in_the_place_of_a_pack_says_what_to_give(pack: Path, name: str, remedy: str) -> None:
    (pack / "pack.zip").write_bytes(b"PK")
    with pytest.raises(PackError, match=f"{name} is a file.*{remedy}"):
        packs.find_pack(pack / name)


def test_a_pack_without_a_recogniser_says_what_each_file_is(pack: Path) -> None:
    net(pack / "narrow.onnx", [("N", 3, 112, 112)], [("N", 256)])
    (pack / builder.RECOGNISER).write_bytes(b"<!DOCTYPE html>")
    (pack / "._x.onnx").write_bytes(b"macOS")
    with pytest.raises(PackError, match=r"no recogniser among") as caught:
        load_pack(pack)
    said = str(caught.value)
    assert f"{builder.RECOGNISER} (not an ONNX model, or damaged" in said and "narrow.onnx (no detector" in said
    assert "._x" not in said


def test_a_folder_of_dot_files_is_no_pack(tmp_path: Path) -> None:
    """As macOS' zips leave it behind beside the pack."""
    outer = tmp_path / "antelopev2"
    (outer / "__MACOSX").mkdir(parents=True)
    (outer / "__MACOSX" / "._x.onnx").write_bytes(b"macOS")
    assert not packs.is_installed("antelopev2", [tmp_path])
    with pytest.raises(PackError, match=r"no \.onnx file"):
        load_pack(outer)


def lying(path: Path, declared: Sequence | None, gives: int, side: int = 112, refuses: bool = False) -> None:
    """A network that gives one vector, of another length than it declares or of a declared one that it cannot make."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, gives], np.ones(3 * gives, np.float32))
    other = helper.make_tensor("other", TensorProto.INT64, [2], [7, gives + 1])
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "w"], ["vector"]),
            helper.make_node("Shape", ["vector"], ["shape"]),  # hides the length from whoever reads the graph
            helper.make_node("Reshape", ["vector", "other" if refuses else "shape"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, declared)],
        [weights, other],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))


LIES: dict[str, tuple[Sequence | None, int, bool]] = {
    "declares 512, gives 256": (["N", 512], 256, False),
    "declares one of 512, gives 256": ([1, 512], 256, False),
    "open, gives 256": (["N", "C"], 256, False),
    "open, gives 1024": (["N", None], 1024, False),
    "says nothing, gives 128": (None, 128, False),
    "does not run": (["N", 512], 256, True),
}


@pytest.mark.parametrize("name", LIES)
def test_a_recogniser_that_lies_is_named(pack: Path, astronaut: np.ndarray, name: str) -> None:
    declared, gives, refuses = LIES[name]
    (pack / builder.RECOGNISER).unlink()
    lying(pack / "lies.onnx", declared, gives, refuses=refuses)
    with pytest.raises(PackError, match=r"lies\.onnx (does not run|gives vectors of shape)") as caught:
        FaceAnalyser(pack).face(astronaut)
    assert "remove" in caught.value.remedy


@pytest.mark.parametrize("declared", (["N", "C"], ["N", None], None))
def test_the_recogniser_that_declares_its_length_is_taken(
    pack: Path, face_pack: Path, astronaut: np.ndarray, declared: Sequence | None
) -> None:
    lying(pack / "a_first.onnx", declared, 256)
    ours, theirs = (FaceAnalyser(folder).face(astronaut) for folder in (pack, face_pack))
    assert np.array_equal(ours.embedding, theirs.embedding)


@pytest.mark.parametrize(("output", "columns"), (("bbox_8", 2), ("kps_8", 4), ("kps_32", 8)))
def test_a_detector_that_lies_is_named(pack: Path, astronaut: np.ndarray, output: str, columns: int) -> None:
    model = onnx.load(str(pack / builder.DETECTOR))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{one}_whole" if one == output else one for one in names]
    for name, value in (("start", 0), ("end", columns), ("axis", 1)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    model.graph.node.append(helper.make_node("Slice", [f"{output}_whole", "start", "end", "axis"], [output]))
    onnx.save(model, str(pack / builder.DETECTOR))
    with pytest.raises(PackError, match=f"The detector .*{builder.DETECTOR} does not run"):
        FaceAnalyser(pack).face(astronaut)


@pytest.mark.parametrize(("declared", "side"), (([1, 212], 192), ([1, 3309], 192), ([1, 136], 112)))
def test_landmarks_that_lie_are_named(pack: Path, astronaut: np.ndarray, declared: Sequence, side: int) -> None:
    face = FaceAnalyser(pack).face(astronaut)
    (pack / builder.LANDMARKS).unlink()
    lying(pack / "lies.onnx", declared, 77, side)
    with pytest.raises(LandmarkError, match=r"lies\.onnx gives"):
        LandmarkDetector(pack).detect(astronaut, face.box, face.kps)


@pytest.mark.parametrize(
    "name", ("antelopev2 (1)", "AntelopeV2-main", "antelopev2 - Kopie/antelopev2", "antelopev2-v1")
)
def test_a_pack_is_found_as_it_was_unpacked(pack: Path, tmp_path: Path, name: str) -> None:
    models = tmp_path / "other"
    shutil.copytree(pack, models / "insightface" / "models" / name)
    assert find_pack("antelopev2", [models]).folder == models / "insightface" / "models" / name
    assert packs.is_installed("antelopev2", [models]) and not packs.is_installed("antelope", [models])
    exact = shutil.copytree(pack, models / "insightface" / "models" / "antelopev2")
    assert find_pack("antelopev2", [models]).folder == exact
