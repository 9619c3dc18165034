"""analyse, identity and doctor, through their command modules."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from facesnap.cli import analyse, doctor, identity, landmarks, main
from facesnap.errors import CheckpointError, FaceSnapError, NoFaceError, SettingsError
from facesnap.weights.doctor import ERROR, NOTE, OK, examine, installed_versions, overlaps, packages


def call(module: ModuleType, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def photo(tmp_path: Path, astronaut: np.ndarray) -> Path:
    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    return tmp_path / "astronaut.png"


def test_analyse_prints_json_alone(
    photo: Path, face_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn" / "out.png"
    assert call(analyse, photo, "--pack", face_pack, "--json", "--draw", drawn) == 0
    report = json.loads(capsys.readouterr().out)
    face = report["photos"][0]["faces"][0]
    assert report["provider"] == "CPUExecutionProvider" and len(report["recogniser"]) == 64
    assert np.allclose(face["box"], [180, 62, 271, 178], atol=3) and face["found_by"] == "640"
    assert 0.8 < face["score"] <= 1 and 0.5 < face["quality"]["score"] <= 1
    sheet = np.array(Image.open(drawn).convert("RGB")).astype(int)
    original = np.array(Image.open(photo)).astype(int)
    changed = np.abs(sheet[:512, :512] - original).sum(axis=2) > 60
    assert changed[62, 190:260].all() and changed[178, 190:260].all()  # the box's edges
    assert not changed[300:, :].any() and not changed[:, 300:].any()  # and nothing far from it


def test_analyse_prints_lines(photo: Path, face_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copyfile(photo, photo.with_name("copy.png"))
    assert call(analyse, photo, copy, "--pack", face_pack, "--choose", "0") == 0
    out = capsys.readouterr().out
    assert out.count("* 0: box 180,62") == 2 and "CPUExecutionProvider" in out
    with pytest.raises(NoFaceError):
        call(analyse, photo, "--pack", face_pack, "--choose", "1")
    with pytest.raises(SettingsError):
        call(analyse, photo, photo, "--pack", face_pack, "--draw", "x.png")


def test_what_was_tried_is_said_to_those_who_ask(
    face_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (96, 96), "grey").save(grey)
    assert main(["analyse", str(grey), "--pack", str(face_pack)]) == 1
    error = capsys.readouterr().err
    assert "No face was found" in error and error.rstrip().endswith("photo.") and "Tried" not in error
    assert main(["-v", "analyse", str(grey), "--pack", str(face_pack)]) == 1
    asked = capsys.readouterr().err
    assert error in asked and "Tried: 160;" in asked.partition("Remedy")[2]


def test_identity_make_show_compare(
    photo: Path, face_pack: Path, components: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obama, biden = components / "photos" / "obama.jpg", components / "photos" / "biden.jpg"
    file = tmp_path / "obama.safetensors"
    pack = ("--pack", face_pack)
    assert call(identity, "make", obama, components / "photos" / "obama3.jpg", "--out", file, *pack) == 0
    assert "references: 2" in capsys.readouterr().out
    assert call(identity, "show", file, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "obama" and shown["crops_stored"] is False and len(shown["weights"]) == 2
    cosines = []
    for other in (components / "photos" / "obama2.jpg", biden, photo):
        assert call(identity, "compare", file, other, "--json", *pack) == 0
        cosines.append(json.loads(capsys.readouterr().out)["cosine"])
    assert cosines[0] > 0.6 and max(cosines[1:]) < 0.4
    assert call(identity, "compare", file, file) == 0
    assert "1.000" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="ends in"):
        call(identity, "make", obama, "--out", tmp_path / "x.txt", *pack)
    with pytest.raises(FaceSnapError):
        call(identity, "show", photo)


def test_reference_and_driver_are_chosen_apart(
    face_pack: Path, astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference has one face; the driver a second, mirrored and smaller one at its left."""
    canvas = np.full((512, 900, 3), 128, np.uint8)
    canvas[:, 388:] = astronaut
    canvas[100:484, :384] = np.array(Image.fromarray(astronaut).resize((384, 384)))[:, ::-1]
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    Image.fromarray(astronaut).save(one)
    Image.fromarray(canvas).save(two)
    asked = ("--reference", one, "--driver", two, "--pack", face_pack, "--out", tmp_path / "map.png", "--json")
    yaws = []
    for choice in ("largest", "1"):
        assert call(landmarks, *asked, "--choose-driver", choice) == 0
        yaws.append(json.loads(capsys.readouterr().out)["driver"]["pictures"][0]["yaw"])
    assert yaws[0] * yaws[1] < 0
    with pytest.raises(NoFaceError, match=r"Face 1 of .*one\.png"):
        call(landmarks, *asked, "--choose", "1")
    with pytest.raises(NoFaceError, match=r"Face 2 of .*two\.png"):
        call(landmarks, *asked, "--choose-driver", "2")


def test_two_strangers_as_one_person_are_named(
    photo: Path, face_pack: Path, components: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, obama = tmp_path / "both.safetensors", components / "photos" / "obama.jpg"
    assert call(identity, "make", obama, photo, "--out", file, "--json", "--pack", face_pack) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "different people" in warning and str(obama) in warning and str(photo) in warning
    assert call(identity, "show", file, "--json") == 0
    assert "different people" in json.loads(capsys.readouterr().out)["warnings"][0]


def levels(findings: list) -> dict[str, str]:
    return {finding.what: finding.level for finding in findings}


def test_doctor_json(face_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip_vision").mkdir()
    (tmp_path / "clip_vision" / "clip_h.pth").write_bytes(b"x")
    code = call(doctor, "--json", "--model-dir", tmp_path, "--model-dir", face_pack.parent)
    report = json.loads(capsys.readouterr().out)
    whats = [finding["what"] for finding in report["findings"]]
    assert any("CPUExecutionProvider runs" in what for what in whats)
    assert any("pack face_pack" in what for what in whats)
    assert any("clip_h.pth" in what for what in whats)
    assert code == (1 if report["errors"] else 0)
    assert all(finding["remedy"] for finding in report["findings"] if finding["level"] != OK)


@pytest.mark.parametrize(
    ("pair", "keep"),
    [
        (("onnxruntime", "onnxruntime-gpu"), "onnxruntime-gpu"),
        (("opencv-python", "opencv-python-headless"), "opencv-python"),
        (("opencv-contrib-python", "opencv-python"), "opencv-python"),
    ],
)
def test_two_overlapping_wheels_are_an_error(pair: tuple[str, str], keep: str) -> None:
    versions = installed_versions()
    alone = {name: v for name, v in versions.items() if not name.startswith(("onnxruntime", "opencv"))}
    assert list(overlaps(alone | {pair[0]: "1.0"})) == []
    findings = list(overlaps(alone | {pair[0]: "1.0", pair[1]: "2.0"}))
    assert len(findings) == 1 and findings[0].level == ERROR
    assert pair[0] in findings[0].what and pair[1] in findings[0].what
    assert f"pip install {keep};" in findings[0].remedy and "insightface>=1.0" in findings[0].remedy


def test_missing_old_and_broken_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    versions = installed_versions()
    less = {name: v for name, v in versions.items() if name not in ("insightface", "diffusers")}
    found = {finding.what.split()[0]: finding for finding in packages(less | {"transformers": "4.29.9"})}
    assert found["insightface"].level == ERROR and "insightface>=1.0" in found["insightface"].remedy
    assert found["diffusers"].level == NOTE
    assert found["transformers"].level == ERROR and "older than 4.30" in found["transformers"].what
    assert levels(list(packages(versions))) != levels(list(found.values()))
    import importlib

    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> ModuleType:
        if name == "insightface":
            raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    errors = [finding for finding in examine() if finding.level == ERROR]
    assert len(errors) >= 1 and any("binary incompatibility" in error.what for error in errors)
    monkeypatch.setattr("facesnap.cli.doctor.examine", lambda model_dirs: errors)
    assert call(doctor) == 1 and "error" in capsys.readouterr().out
