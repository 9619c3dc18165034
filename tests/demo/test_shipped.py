"""Shipping and the demo: a tiny random set goes through both; the weights that the package brings keep identity."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from facesnap.checkpoints import native
from facesnap.cli import main
from facesnap.demo import shipped, trained, untrained
from facesnap.demo.ship import ship
from facesnap.errors import CheckpointError, IdentityMismatchError, SettingsError
from facesnap.faces.encoder import ImageEncoder
from facesnap.hosts.diffusers import DiffusersHost
from facesnap.tiny.data import ARRAYS, RECORDS


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory, world: SimpleNamespace, astronaut: np.ndarray) -> Path:
    """A state as `facesnap tiny` leaves it, with random networks and a photo as a held-out person."""
    folder = tmp_path_factory.mktemp("state")
    shutil.copytree(world.folder / "model", folder / "unet" / "pipeline")
    encoder = untrained.save_encoder(folder / "encoder" / "model.safetensors")
    config = ImageEncoder.load(encoder).config
    (folder / "encoder" / "config.json").write_text(json.dumps(vars(config)), encoding="utf-8")
    data = folder / "data" / "held_out"
    data.mkdir(parents=True)
    photo = np.asarray(Image.fromarray(astronaut).resize((256, 256)))
    looks = [("photo", "round", 0.0), ("photo", "none", 30.0), ("photo", "none", -3.0)]
    values = {"images": np.stack([photo // 2, photo // 3, photo]), "crops": np.zeros((3, 112, 112, 3), np.uint8),
              "points": np.zeros((3, 72, 2), np.float32), "boxes": np.zeros((3, 4), np.float32),
              "people": np.full(3, 1_000_000, np.int32)}  # fmt: skip
    assert set(values) == set(ARRAYS)
    for name, array in values.items():
        np.save(data / f"{name}.npy", array)
    records = [
        {
            "split": "held_out",
            "person": 1_000_000,
            "attributes": {"style": style, "glasses": glasses},
            "view": {"yaw": yaw},
        }
        for style, glasses, yaw in looks
    ]
    (data / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def adapter(state: Path, world: SimpleNamespace) -> Path:
    file = state / "adapter.safetensors"
    shutil.copyfile(world.file, file)
    return file


@pytest.fixture(scope="session")
def weights(state: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "weights"
    ship(state, adapter, out)
    return out


def test_shipping_halves_every_tensor_and_keeps_the_rest(state: Path, adapter: Path, weights: Path) -> None:
    pairs = [(file, weights / "pipeline" / file.relative_to(state / "unet" / "pipeline"))
             for file in (state / "unet" / "pipeline").rglob("*.safetensors")]  # fmt: skip
    pairs += [(adapter, weights / "adapter.safetensors"),
              (state / "encoder" / "model.safetensors", weights / "encoder" / "model.safetensors")]  # fmt: skip
    assert len(pairs) == 5
    for whole, half in pairs:
        before, after = load_file(whole), load_file(half)
        assert set(before) == set(after)
        for name, value in before.items():
            assert after[name].dtype == torch.float16 and torch.equal(after[name], value.half()), name
    assert native.load(weights / "adapter.safetensors").spec == native.load(adapter).spec
    for folder in (weights, shipped.WEIGHTS):
        assert all("_name_or_path" not in file.read_text(encoding="utf-8") for file in folder.rglob("config.json"))
    people = list((weights / "people").iterdir())
    assert [file.name for file in people] == ["1000000.png"]
    held_out = np.load(state / "data" / "held_out" / "images.npy")
    assert np.array_equal(np.asarray(Image.open(people[0])), held_out[2]), "the plain photo, not the one with glasses"
    assert "anny 0.6.2" in (weights / "NOTICE.txt").read_text(encoding="utf-8")


def test_what_is_too_large_or_missing_is_refused_by_name(state: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"at most 0 MB") as error:
        ship(state, adapter, tmp_path / "weights", limit=1000)
    assert "pipeline/unet" in str(error.value) and "adapter.safetensors" in str(error.value)
    assert not list(tmp_path.iterdir()), "nothing is left"
    with pytest.raises(SettingsError, match="facesnap tiny unet"):
        ship(tmp_path, adapter, tmp_path / "weights")
    large = {name: value.clone() for name, value in load_file(adapter).items()}
    name = next(iter(large))
    large[name].view(-1)[0] = 1e6
    save_file(large, tmp_path / "large.safetensors")
    with pytest.raises(CheckpointError, match="float16"):
        ship(state, tmp_path / "large.safetensors", tmp_path / "weights")


def test_the_demo_takes_the_shipped_weights(
    weights: Path, world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "STEPS", 2)
    monkeypatch.setattr(trained, "PROMPTS", dict(list(trained.PROMPTS.items())[:1]))
    monkeypatch.setattr(trained, "POSES", dict(list(trained.POSES.items())[:1]))
    loaded = shipped.load(world.analyser, weights)
    assert {p.dtype for p in loaded.host.unet.parameters()} == {torch.float32}
    assert {p.dtype for p in loaded.pipeline.adapter.mixer.parameters()} == {torch.float32}
    report = trained.run_trained(tmp_path / "out", world.analyser, weights=weights)
    assert report["people"] == ["1000000", "astronaut"]
    assert [entry["kind"] for entry in report["pictures"][:2]] == ["without", "with"]
    assert len(report["pictures"]) == 2 * (2 + len(trained.POSES))
    pictures = [np.asarray(Image.open(tmp_path / "out" / entry["file"])) for entry in report["pictures"][:4]]
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(pictures[i], pictures[j]), (i, j)
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 4 * 256
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == report


@pytest.mark.parametrize(
    "prompts, poses, steps", [(1, 1, 8), pytest.param(None, None, trained.STEPS, marks=pytest.mark.thorough)]
)
def test_the_package_brings_a_trained_miniature_that_keeps_identity(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    prompts: int | None, poses: int | None, steps: int,
) -> None:  # fmt: skip
    """What `make demo` does: the shipped weights, on people that they were not trained on.

    prompts, poses: how many of the demo's are made; None: all. steps: of each sampling.
    """
    monkeypatch.setattr(trained, "STEPS", steps)
    monkeypatch.setattr(trained, "PROMPTS", dict(list(trained.PROMPTS.items())[:prompts]))
    monkeypatch.setattr(trained, "POSES", dict(list(trained.POSES.items())[:poses]))
    sizes = [file.stat().st_size for file in shipped.WEIGHTS.rglob("*") if file.is_file()]
    assert sum(sizes) <= shipped.LIMIT
    assert main(["demo", "--pack", str(world.pack), "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert "synthetic people" in report["note"] and report["note"] in capsys.readouterr().out
    found = report["similarity"]
    rendered = [e for e in report["pictures"] if e["person"] != "astronaut"]
    means = {kind: np.mean([e["similarity"] or 0.0 for e in rendered if e["kind"] == kind]) for kind in found}
    assert means["with"] > means["without"] + 0.1, means
    assert all(entry["found"] >= 0.7 * entry["of"] for entry in found.values()), found
    assert all((tmp_path / entry["file"]).is_file() for entry in report["pictures"])


def test_weights_of_another_recogniser_are_refused(weights: Path, world: SimpleNamespace, tmp_path: Path) -> None:
    other = SimpleNamespace(recogniser="f" * 64, pack=SimpleNamespace(name="another pack"))
    with pytest.raises(IdentityMismatchError, match=r"(?s)another pack.*--untrained"):
        shipped.load(other, weights)  # type: ignore[arg-type]


def test_the_command_ships(state: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "ship", "--state", str(state)]) == 1
    assert "--adapter FILE" in capsys.readouterr().err
    assert main(["tiny", "ship", "--state", str(state), "--adapter", str(adapter), "--out", str(tmp_path / "w")]) == 0
    assert "MB  pipeline/unet" in capsys.readouterr().out and (tmp_path / "w" / shipped.ADAPTER).is_file()
    assert DiffusersHost.load(tmp_path / "w" / "pipeline", device="cpu").topology.base == "sd15"
