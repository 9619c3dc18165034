"""Preparing: good photos, damaged ones, none with a face; lists and tars; going on after a stop."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.cli import main
from facesnap.errors import SettingsError
from facesnap.training import shards as shard_files
from facesnap.training.losses import warp
from facesnap.training.prepare import Preparer, PrepareSettings, square_around
from facesnap.training.shards import Shards
from facesnap.training.sources import find_photos

SETTINGS = PrepareSettings(size=128, variants=2, levels=(-2, 1), smallest_face=16, shard=2)


@pytest.fixture
def photos(tmp_path: Path, astronaut: np.ndarray) -> Path:
    root = tmp_path / "photos"
    for name in ("Eileen", "nobody"):
        (root / name).mkdir(parents=True)
    Image.fromarray(astronaut).save(root / "Eileen" / "a.png")
    Image.fromarray(astronaut[:300, 100:400]).save(root / "Eileen" / "b, “größer”.jpg", quality=90)
    (root / "Eileen" / "a.txt").write_text("an astronaut\n", encoding="utf-8")
    Image.new("RGB", (200, 200), (90, 120, 200)).save(root / "nobody" / "sky.png")
    (root / "nobody" / "torn.jpg").write_bytes((root / "Eileen" / "b, “größer”.jpg").read_bytes()[:900])
    return root


@pytest.fixture
def preparer(world) -> Preparer:
    return Preparer(SETTINGS, world.analyser, world.encoder, world.host.pipeline.vae, "sd15")


def test_good_photos_are_kept_and_bad_ones_named(preparer, photos: Path, tmp_path: Path, astronaut) -> None:
    out = tmp_path / "out"
    report = preparer.run(photos, out, workers=2)
    assert (report["photos"], report["kept"], report["people"], report["people_with_several"]) == (4, 2, 1, 1)
    assert report["reasons"] == {"NoFaceError": 1, "PictureError": 1}
    assert set(report["dropped"]) == {"nobody/sky.png", "nobody/torn.jpg"}
    data = Shards(out)
    assert [row["caption"] for row in data.rows] == ["an astronaut", SETTINGS.caption]
    assert data.people == {"Eileen": [0, 1]}
    assert data.tensor(0, "mean").shape == (4, 16, 16) and data.tensor(0, "hidden.1").shape == (2, 50, 64)
    assert torch.equal(data.tensor(0, "hidden.-2", 1), data.tensor(0, "hidden.-2")[1])
    assert not torch.equal(data.tensor(0, "hidden.-2", 0), data.tensor(0, "hidden.-2", 1))
    small = np.array(Image.fromarray(astronaut).resize((128, 128), Image.Resampling.LANCZOS))
    crop = warp(torch.from_numpy(small).permute(2, 0, 1)[None].float(), data.tensor(0, "matrix"))
    assert np.abs(crop[0].permute(1, 2, 0).numpy() - data.tensor(0, "crop").numpy()).mean() < 12  # 4 x smaller
    points, box = data.tensor(0, "points").numpy(), data.tensor(0, "box").numpy()
    assert ((points >= box[:2] - 1e-3) & (points <= box[2:] + 1e-3)).all()
    assert np.abs(points.mean(0) - [0.445, 0.27]).max() < 0.06  # where the face is on the photo


def test_a_run_that_can_use_nothing_is_an_error(
    world, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "nobody" / "layers.psd").write_bytes(b"8BPS")
    command = ["prepare", str(photos / "nobody"), str(tmp_path / "out"), "--base", str(world.folder / "model")]
    assert main([*command, "--pack", str(world.pack), "--size", "64", "--workers", "0"]) == 1
    assert "--workers" in capsys.readouterr().err
    assert main([*command, "--pack", str(world.pack), "--size", "64"]) == 1
    said = capsys.readouterr()
    assert "None of 2 photos can be used" in said.err and "report.json" in said.err
    assert "dropped 1: no face was found (sky.png)" in said.out and "passed over 1: .psd" in said.out
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert list(report["passed_over_names"].values()) == [["layers.psd"]]


def test_a_face_that_is_too_small_is_not_called_missing(
    world, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(photos / "Eileen"), str(tmp_path / "out"), "--base", str(world.folder / "model")]
    assert main([*command, "--pack", str(world.pack), "--size", "64"]) == 1
    assert "dropped 2: its face is too small in a training picture of this size (a.png" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["reasons"] == {"SmallFaceError": 2} and "pixels wide" in report["dropped"]["a.png"]


def test_it_goes_on_where_it_stopped(preparer, photos: Path, tmp_path: Path, monkeypatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    preparer.run(photos, whole)
    real = shard_files.save_tensors
    monkeypatch.setattr(shard_files, "save_tensors", lambda t, f: 1 / 0 if "00001" in f.name else real(t, f))
    with pytest.raises(ZeroDivisionError):
        preparer.run(photos, broken)
    with pytest.raises(SettingsError, match="Shard 1 of 2"):
        Shards(broken)
    monkeypatch.undo()
    first = (broken / "shard-00000.safetensors").stat().st_mtime_ns
    preparer.run(photos, broken)
    assert (broken / "shard-00000.safetensors").stat().st_mtime_ns == first
    for file in whole.iterdir():
        assert file.read_bytes() == (broken / file.name).read_bytes()


def test_another_setting_does_not_go_on(preparer, world, photos: Path, tmp_path: Path) -> None:
    preparer.run(photos / "nobody", tmp_path / "out")
    other = Preparer(PrepareSettings(size=192), world.analyser, world.encoder, world.host.pipeline.vae, "sd15")
    with pytest.raises(SettingsError, match="settings"):
        other.run(photos / "nobody", tmp_path / "out")
    with pytest.raises(SettingsError, match="No photo"):
        Shards(tmp_path / "out")


def test_lists_and_tars(tmp_path: Path, photos: Path) -> None:
    rows = [{"path": "photos/Eileen/a.png", "person": "E", "caption": "x"}, {"path": "gone.png", "person": "F"}]
    (tmp_path / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "list.csv").write_text("path,person,caption\nphotos/Eileen/a.png,E,x\ngone.png,F,\n", encoding="utf-8")
    for name in ("list.json", "list.csv"):
        assert [(p.key, p.person, p.caption) for p in find_photos(tmp_path / name)] == [
            ("gone.png", "F", None), ("photos/Eileen/a.png", "E", "x")]  # fmt: skip
    (tmp_path / "list.csv").write_text("path\nx.png\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="has the columns path"):
        find_photos(tmp_path / "list.csv")
    content = (photos / "Eileen" / "a.png").read_bytes()
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, data in (("0000017_003.png", content), ("0000017_003.txt", b"a woman"), ("0000017_003.json", b"{}"),
                           ("0000017_003.regions.png", b"-")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (photo,) = find_photos(tmp_path / "w.tar")
    assert (photo.key, photo.person, photo.caption) == ("w.tar/0000017_003", "0000017", "a woman")
    assert photo.read() == content
    with pytest.raises(SettingsError, match="There is no"):
        find_photos(tmp_path / "nowhere")


def test_the_square_holds_the_face() -> None:
    assert square_around(np.array([10, 10, 30, 40]), (100, 60)) == (0, 0, 60)
    assert square_around(np.array([80, 10, 95, 40]), (100, 60)) == (40, 0, 60)
    assert square_around(np.array([40, 70, 60, 90]), (100, 200)) == (0, 30, 100)


def test_known_points_are_taken_as_they_are_and_wrong_ones_cost_that_photo_alone(
    preparer, tmp_path: Path, astronaut: np.ndarray
) -> None:
    known = np.random.default_rng(0).uniform(100, 300, (72, 2)).round(2)
    picture = io.BytesIO()
    Image.fromarray(astronaut[:400]).save(picture, format="PNG")  # 512 x 400: the square is cut from its left or right
    with tarfile.open(tmp_path / "known.tar", "w") as tar:
        for stem, points in (("a_0", known.tolist()), ("a_1", known[:70].tolist()), ("a_2", "none"), ("a_3", None)):
            for name, content in (
                (f"{stem}.png", picture.getvalue()),
                (f"{stem}.json", json.dumps({"points": points})),
            ):
                content = content if isinstance(content, bytes) else content.encode()
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    report = preparer.run(tmp_path / "known.tar", tmp_path / "out")
    assert report["kept"] == 2 and set(report["dropped"]) == {"known.tar/a_1", "known.tar/a_2"}
    data = Shards(tmp_path / "out")
    left, _, side = square_around(preparer.analyser.face(astronaut[:400]).box, (512, 400))
    assert side == 400
    assert np.allclose(data.tensor(0, "points").numpy() * 400 + [left, 0], known, atol=1e-3)
    detected = data.tensor(1, "points").numpy()
    assert np.abs(detected - data.tensor(0, "points").numpy()).mean() > 0.05
