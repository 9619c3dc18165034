"""Conversion keeps what the donor does; inspect and convert on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facesnap.attach import LoraPart, RowPlan, attach
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter
from facesnap.cli import main
from facesnap.errors import CheckpointError, IdentityMismatchError
from facesnap.faces.identity import Identity
from facesnap.faces.recognisers import RECOGNISERS
from facesnap.families.registry import find, load_adapter
from facesnap.pipeline.id_tokens import check_identity
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.model import Person
from tests.families.test_families import TOLERANCE, conditioning, inputs, ldm_of, widths_of
from tests.networks import CONTEXT, Batch, run
from tests.public_files import public_state, write


def step(adapter: Adapter, base: str, family: str) -> torch.Tensor:
    unet = ldm_of(base)
    loras = [LoraPart(adapter.lora)] if adapter.lora else []
    with attach(unet, [conditioning(adapter, inputs(family))], RowPlan.classifier_free(), loras=loras):
        return run(unet, Batch.draw(base))


@pytest.mark.parametrize(
    ("family", "base", "options"),
    (
        ("faceid", "sdxl", ["--add-stage2"]),
        ("faceid-plusv2", "sd15", []),
        ("faceid-plusv2", "sd15", ["--add-stage2"]),
        ("portrait-unnorm", "sdxl", []),
        ("instantid", "sdxl", []),
        ("pulid-v1", "sdxl", []),
        ("pulid-v1.1", "sdxl", []),
    ),
)
@torch.no_grad()
def test_conversion_keeps_tokens_and_the_unet_step(
    tmp_path: Path, capsys: pytest.CaptureFixture, family: str, base: str, options: list[str]
) -> None:
    source = write(public_state(family, widths_of(ldm_of(base)), CONTEXT[base]), tmp_path, family, base)
    out = tmp_path / "größe.safetensors"
    assert main(["convert", str(source), "--out", str(out), "--json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    donor, converted = load_adapter(source), load_adapter(out)
    assert converted.detection.family == "facesnap" and report["base"] == base and report["parameters"]
    assert converted.spec.family == family and converted.spec.recogniser_name == donor.spec.recogniser_name
    given = inputs(family)
    vector = {k: v for k, v in given.items() if k == "class_vector"}
    for name, group in donor.mixer(given["f_id"], given["hidden"], **vector).items():
        ours = converted.mixer(given["f_id"], given["hidden"], **vector)[name]
        assert (ours.tokens - group.tokens).abs().max() <= TOLERANCE
    assert (step(converted, base, family) - step(donor, base, family)).abs().max() <= TOLERANCE
    has_mix = bool(options) or family in ("instantid", "portrait-unnorm")
    assert ("mix" in converted.mixer.config.token_counts) == has_mix
    if options:  # opened gates matter, so the new stage is there
        for name, p in converted.projections.named_parameters():
            if name.endswith("gate"):
                p.fill_(0.5)
        assert (step(converted, base, family) - step(donor, base, family)).abs().max() > 100 * TOLERANCE


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = public_state("faceid-plusv2", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    source = write(state, tmp_path, "faceid-plusv2", "sd15")
    assert main(["inspect", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "IP-Adapter FaceID-PlusV2" and report["base"] == "sd15" and report["sites"] == 16
    assert report["pack"] == "buffalo_l" and report["recogniser"] == "w600k_r50" and report["vector"] == "normed"
    assert "plusv2" in report["chosen"] and report["LoRA rank"] == 8 and report["tokens"] == {"id": 4}
    assert "non-commercial" in report["licence"] and report["levels"] == [-2]
    assert main(["inspect", str(source)]) == 0
    assert "non-commercial" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "absent.bin")]) == 1
    assert "no checkpoint file" in capsys.readouterr().err
    assert main(["convert", str(source), "--out", str(tmp_path / "a.bin")]) == 1
    assert main(["convert", str(source), "--out", str(tmp_path / "b.safetensors"), "--add-landmarks"]) == 1
    assert "landmark hint cannot be added" in capsys.readouterr().err and not (tmp_path / "b.safetensors").exists()


def test_conversion_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Neither a stranger's file nor a donor, be it the ControlNet of --structure or an IdentityNet that it found."""
    state = public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    source = write(state, tmp_path, "faceid", "sd15", ".safetensors")
    other, folder = tmp_path / "other.safetensors", tmp_path / "folder.safetensors"
    other.write_bytes(b"mine")
    folder.mkdir()
    before = source.read_bytes()
    for out, words in ((other, "is there already"), (source, "is there already"), (folder, "is there already"),
                       (other / "new.safetensors", "cannot be written")):  # fmt: skip
        assert main(["convert", str(source), "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert words in error and "--out" in error
    assert other.read_bytes() == b"mine" and source.read_bytes() == before and not list(folder.iterdir())


@pytest.mark.parametrize("name", ("two\nlines", "colour\x1b[31m", "x" * 2000))
def test_names_are_one_line_that_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    """They go to terminals and into infotexts, by whom ever a file was made."""
    state = public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    source, out = write(state, tmp_path, "faceid", "sd15"), tmp_path / "a.safetensors"
    assert main(["convert", str(source), "--out", str(out), "--name", name]) == 1
    assert "The checkpoint's name is" in capsys.readouterr().err and not out.exists()
    assert main(["convert", str(source), "--out", str(out)]) == 0
    with safe_open(out, framework="pt") as file:
        values = json.loads(file.metadata()[native.KEY])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key in ("name", "licence"):
        save_file(tensors, out, {native.KEY: json.dumps(values | {key: name})})
        with pytest.raises(CheckpointError, match=f"The checkpoint's {key} is"):
            load_adapter(out)


def _identity(recogniser: str, alias: str, **more) -> Identity:
    ones = np.ones(1, dtype=np.float32)
    vector = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32)
    return Identity("someone", recogniser, alias, vector, ones, ones, **more)


def test_public_files_name_their_recogniser(tmp_path: Path) -> None:
    for family, base, wanted, other in (
        ("faceid", "sd15", "w600k_r50", "glintr100"),
        ("instantid", "sdxl", "glintr100", "w600k_r50"),
    ):
        path = write(public_state(family, widths_of(ldm_of(base)), CONTEXT[base]), tmp_path, family, base)
        pipeline = FaceSnapPipeline(load_adapter(path))
        known, pack = RECOGNISERS[wanted].sha256, RECOGNISERS[wanted].packs[0]
        for recogniser, alias in ((known, "any folder"), ("00" * 32, pack), ("00" * 32, pack.upper())):
            check_identity(pipeline.adapter, _identity(recogniser, alias))
            assert pipeline.conditioning(_identity(recogniser, alias)).cond
        for recogniser, alias in (
            (RECOGNISERS[other].sha256, pack),  # another pack's file under this pack's name
            ("00" * 32, RECOGNISERS[other].packs[0]),
            ("00" * 32, "auraface"),
        ):
            with pytest.raises(IdentityMismatchError, match=rf"{wanted} \(pack {pack}.*--pack {pack}"):
                check_identity(pipeline.adapter, _identity(recogniser, alias))


def test_one_lora_for_all_people(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"]), tmp_path, "faceid", "sd15")
    pipeline = FaceSnapPipeline(load_adapter(path))
    left, right = torch.zeros(8, 8), torch.zeros(16, 16)
    left[:, :4] = right[:, 8:] = 1
    assert pipeline.loras([Person(lora=0.0)]) == [] == pipeline.loras([])
    both = pipeline.loras([Person(lora=0.5, region=left, lora_in_region=True),
                         Person(lora=0.7, region=right, lora_in_region=True)])  # fmt: skip
    assert len(both) == 1 and both[0].strength == 0.7 and float(both[0].region.min()) == 1
    (one,) = pipeline.loras([Person(region=left, lora_in_region=True), Person(region=right)])
    assert one.region is None and one.strength == 1.0
    loras_in_prompt = find("faceid").loras_in_prompt

    assert loras_in_prompt("a <lora:ip-adapter-faceid-plusv2_sd15_lora:0.6> man") == [
        "ip-adapter-faceid-plusv2_sd15_lora"
    ]
    assert loras_in_prompt("a <lora:detail:1> man with a face id") == []


def test_native_files_keep_a_lora_to_the_bit(tmp_path: Path) -> None:
    path = write(public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"]), tmp_path, "faceid", "sd15")
    adapter = load_adapter(path)
    native.save(adapter, tmp_path / "a.safetensors")
    again = native.load(tmp_path / "a.safetensors")
    assert again.lora.tensors().keys() == adapter.lora.tensors().keys()
    assert all(torch.equal(v, again.lora.tensors()[k]) for k, v in adapter.lora.tensors().items())
