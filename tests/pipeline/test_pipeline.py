"""One generation, start to end, with real face models on a real photo, through the pipeline and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.attach import RowPlan, attach
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter
from facesnap.cli import main
from facesnap.demo import untrained, untrained_run
from facesnap.errors import CheckpointError, EncoderError, IdentityMismatchError, PackError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import Sampling
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.infotext import parse_parameters, read
from facesnap.settings.model import Person

SAMPLING = Sampling("a person", steps=2, size=(64, 72), seed=3)


def _pipeline(world: SimpleNamespace, **parts) -> FaceSnapPipeline:
    return FaceSnapPipeline(
        **({"adapter": world.adapter, "analyser": world.analyser, "encoder": world.encoder} | parts)
    )


def test_the_whole_way_changes_the_picture_and_scores_it(world) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo, world.crop])
    bare = pipeline.generate(world.host, SAMPLING, [(identity, Person(strength=0.0))])[0]
    made = pipeline.generate(world.host, SAMPLING, [(identity, Person())])[0]
    assert np.abs(np.asarray(bare.image, int) - np.asarray(made.image, int)).mean() > 2
    assert bare.similarity == (None,)  # noise shows no face
    assert pipeline.similarity(Image.open(world.photo), identity) > 0.9


def test_a_second_generation_calls_no_model_of_ours(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """Face models, encoder, mixer and projections run once for a person, whatever the prompt and strength."""
    pipeline = _pipeline(world)
    first = pipeline.conditioning(pipeline.identity([world.photo]))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FaceAnalyser, "faces", fail)
    monkeypatch.setattr(ImageEncoder, "encode", fail)
    monkeypatch.setattr(type(world.adapter.projections), "keys_values", fail)
    again = pipeline.conditioning(pipeline.identity([world.photo]), Person(strength=0.3, start=0.2))
    assert again.cond is first.cond and again.uncond is first.uncond and again.strength == 0.3
    monkeypatch.undo()
    changed = world.folder / "changed.png"
    Image.open(world.photo).rotate(5).save(changed)
    before = pipeline.identity([changed])
    Image.open(world.photo).rotate(-5).save(changed)
    assert pipeline.identity([changed]).digest != before.digest  # the content counts, not the name


def test_the_tokens_of_nobody_are_on_uncond_rows(world) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    encoded = pipeline.conditioning(identity)
    expected = world.adapter.projections.keys_values(
        world.adapter.mixer(torch.zeros(1, 1, 512), {k: v[None] for k, v in world.encoder.encode_zero((-2, 1)).items()})
    )
    for site, groups in encoded.uncond.items():
        for ours, theirs in zip(groups, expected[site], strict=True):
            assert torch.allclose(ours.k, theirs.k, atol=1e-5) and not torch.equal(ours.k, encoded.cond[site][0].k)
    spec = untrained.make_adapter(world.host.unet, **world.names, uncond="none").spec
    silent = _pipeline(world, adapter=Adapter(spec, world.adapter.mixer, world.adapter.projections))
    assert silent.conditioning(identity).uncond is None


def test_half_precision_adapters_give_nearly_the_same_tokens(world) -> None:
    adapter = native.load(world.file)
    adapter.mixer.half()
    adapter.projections.half()
    identity = _pipeline(world).identity([world.photo])
    full, half = (_pipeline(world, adapter=a).conditioning(identity) for a in (world.adapter, adapter))
    for site, groups in full.cond.items():
        for a, b in zip(groups, half.cond[site], strict=True):
            assert (a.k - b.k).abs().mean() < 0.01 * a.k.abs().mean() and b.k.dtype == torch.float32
    assert next(adapter.mixer.parameters()).dtype == torch.float16


def test_what_does_not_suit_is_refused_by_name(world, tmp_path: Path) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    with pytest.raises(PackError, match="no face-analysis pack"):
        _pipeline(world, analyser=None).identity([world.photo])
    with pytest.raises(EncoderError, match="needs a CLIP image encoder"):
        _pipeline(world, encoder=None).identity([world.photo])
    with pytest.raises(IdentityMismatchError, match="other pack"):
        names = world.names | {"recogniser": "00" * 32, "recogniser_name": "other pack"}
        _pipeline(world, adapter=untrained.make_adapter(world.host.unet, **names)).identity([world.photo])
    with pytest.raises(IdentityMismatchError, match="CLIP tokens come from"):
        _pipeline(world, adapter=untrained.make_adapter(world.host.unet, **world.names | {"encoder": "00" * 32}))
    shallow = Identity.from_faces([world.analyser.face(world.photo)], world.encoder, (-2,))
    with pytest.raises(EncoderError, match=r"levels \[1\]"):
        pipeline.conditioning(shallow)
    with pytest.raises(SettingsError, match="s_struct"):
        Person(s_struct=-1)
    sdxl = untrained.make_adapter(world.host.unet, **world.names)
    sdxl = Adapter(type(sdxl.spec)(**(vars(sdxl.spec) | {"base": "sdxl"})), sdxl.mixer, sdxl.projections)
    with pytest.raises(CheckpointError, match="made for sdxl"):
        _pipeline(world, adapter=sdxl).generate(world.host, SAMPLING, [(identity, Person())])


def test_saved_identities_need_no_photo_and_no_face_model(world, tmp_path: Path) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo, world.crop], name="Zoë")
    identity.save(tmp_path / "zoe.safetensors")
    loaded = Identity.load(tmp_path / "zoe.safetensors")
    ours, theirs = pipeline.conditioning(identity), _pipeline(world, analyser=None).conditioning(loaded)
    for site, groups in ours.cond.items():
        assert all(torch.equal(a.k, b.k) for a, b in zip(groups, theirs.cond[site], strict=True))
    plan = RowPlan.classifier_free()
    with attach(world.host.unet, [theirs], plan) as attachment:
        world.host.unet(torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 77, untrained.CONTEXT))
    assert attachment.active_calls == 1


def _generate(world, out: Path, *extra: str) -> int:
    base = ["generate", "--base", str(world.folder / "model"), "--adapter", str(world.file), "--out", str(out),
            "--encoder", str(world.folder / "encoder.safetensors"), "--pack", str(world.pack), "--device", "cpu",
            "--prompt", "a person, “smiling”", "--steps", "2", "--size", "64x72"]  # fmt: skip
    return main([*base, *extra])


def test_generate_on_the_command_line(world, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = _generate(world, tmp_path / "out", "--reference", str(world.photo), str(world.crop), "--count", "3",
                     "--batch", "2", "--seed", "41", "--strength", "0.7", "--window", "0.1-0.9", "--s-struct", "0.5",
                     "--block-strength", "middle=0.5", "--negative", "blurry, dark", "--sampler", "Heun",
                     "--json")  # fmt: skip
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert [p["seed"] for p in report["pictures"]] == [41, 42, 43] and report["references"] == 2
    for seed, entry in zip((41, 42, 43), report["pictures"], strict=True):
        with Image.open(entry["file"]) as image:
            assert image.size == (64, 72)
            prompt, negative, settings = image.text["parameters"].split("\n")
        assert prompt == "a person, “smiling”" and negative == "Negative prompt: blurry, dark"
        for part in ("Steps: 2", "Sampler: Heun", f"Seed: {seed}", "Size: 64x72", "FaceSnap strength: 0.7",
                     "FaceSnap start: 0.1", "FaceSnap end: 0.9", "FaceSnap s_struct: 0.5",
                     "FaceSnap blocks: middle=0.5", "FaceSnap identity: astronaut ["):  # fmt: skip
            assert part in settings
        pasted = read(parse_parameters(settings))  # the extension restores what the command line wrote
        assert not pasted.problems and pasted.settings.people[0].identity == "astronaut"
        assert (pasted.settings.people[0].strength, pasted.settings.people[0].blocks) == (0.7, {"middle": 0.5})
    with Image.open(report["sheet"]) as sheet:
        assert min(sheet.size) > 200


def test_generate_from_an_identity_with_a_region(world, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _pipeline(world).identity([world.photo]).save(tmp_path / "who.safetensors")
    mask = np.zeros((90, 64), np.uint8)
    mask[:45] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    made = {}
    # A saved identity needs no pack, only --score does.
    assert _generate(world, tmp_path / "x", "--identity", str(tmp_path / "who.safetensors"), "--pack", "absent") == 0
    made["all"] = np.asarray(Image.open(tmp_path / "x" / "0000000000.png"), dtype=int)
    asked = ("--identity", str(tmp_path / "who.safetensors"), "--pack", "absent", "--score")
    assert _generate(world, tmp_path / "y", *asked) == 1
    for name, extra in {"half": ["--region", str(tmp_path / "mask.png")], "off": ["--strength", "0"]}.items():
        assert _generate(world, tmp_path / name, "--identity", str(tmp_path / "who.safetensors"), *extra) == 0
        made[name] = np.asarray(Image.open(tmp_path / name / "0000000000.png"), dtype=int)
    for a, b in (("all", "off"), ("half", "off"), ("all", "half")):
        assert np.abs(made[a] - made[b]).mean() > 0.5
    capsys.readouterr()
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    code = _generate(world, tmp_path / "no", "--identity", str(tmp_path / "who.safetensors"), "--region",
                     str(tmp_path / "black.png"))  # fmt: skip
    assert code == 1 and "black everywhere" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_random_seed_is_drawn_once(world, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--reference", str(world.photo), "--count", "2", "--batch", "1", "--seed", "-1", "--json", "--steps", "1")
    seeds = []
    for run in ("a", "b"):
        assert _generate(world, tmp_path / run, *asked) == 0
        seeds.append([one["seed"] for one in json.loads(capsys.readouterr().out)["pictures"]])
    assert all(first >= 0 and then == first + 1 for first, then in seeds) and seeds[0] != seeds[1]


@pytest.mark.parametrize("wrong", (["--window", "half"], ["--size", "big"], ["--block-strength", "middle"]), ids=str)
def test_wrong_usage(world, tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _generate(world, tmp_path, "--reference", str(world.photo), *wrong)
    assert stop.value.code == 2


def test_untrained_demo(
    world, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrained_run, "SIZE", (64, 64))
    assert main(["demo", "--untrained", "--pack", str(world.pack), "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert "untrained" in report["note"] and "untrained" in capsys.readouterr().out
    assert report["face"]["score"] > 0.8 and report["unet_unchanged_afterwards"] is True
    changes = [p["mean_change"] for p in report["pictures"] if p["prompt"] == report["pictures"][0]["prompt"]]
    assert changes[0] == 0 and 1 < changes[1] < changes[2]
    assert all((tmp_path / p["file"]).is_file() for p in report["pictures"])
    assert (tmp_path / "contact_sheet.png").stat().st_size > 100_000
    shapes = report["shapes"]
    assert report["landmarks"]["kind"] == "68"
    assert all(entry["mean_change"] > 1 for entry in shapes)
    drawn = [np.asarray(Image.open(tmp_path / entry["landmarks"])) for entry in shapes]
    assert all(picture.any() and not np.array_equal(picture, drawn[0]) for picture in drawn[1:])
