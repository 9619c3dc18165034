"""The script's way from its arguments to the UNet: real files, real face models, the hosts' sampling."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.demo import untrained
from facesnap.errors import (
    CheckpointError,
    FaceSnapError,
    MissingWeightsError,
    NoFaceError,
    PackError,
    SettingsError,
    UnusableSettingError,
)
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.packs import load_pack
from facesnap.hosts.base import NOTE
from facesnap.models.mixer import FacialAttributeMixer
from facesnap.pipeline.cache import content_digest
from facesnap.settings.infotext import SKIPPED, VERSION
from facesnap.webui import options
from facesnap.webui.generation.job import after_picture, begin, finish
from facesnap.webui.generation.loader import PipelineLoader
from facesnap.webui.generation.results import KEY, RESULTS
from facesnap.webui.generation.xyz import NOTES
from facesnap.weights.folders import Folders
from facesnap.weights.identities import IdentityStore
from tests.families.test_families import widths_of
from tests.hosts.test_webui import processing, sampled
from tests.networks import diffusers_unet, ldm_unet
from tests.public_files import public_state, write

PACK = "test_pack"


@pytest.fixture(scope="module")
def unets():
    """Of the real layouts' depth, which public adapters fit."""
    return ldm_unet("sd15", seed=1), ldm_unet("sd15", seed=2), ldm_unet("sdxl", seed=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory, unets, face_pack):
    """A WebUI's folder of models: an untrained adapter with FFRNet, its encoder, a pack."""
    folder = tmp_path_factory.mktemp("webui") / "models"
    own = folder / "FaceSnap"
    encoder = ImageEncoder.load(untrained.save_encoder(own / "untrained-encoder.safetensors"))
    untrained.save_adapter(
        own / "untrained.safetensors", diffusers_unet("sd15", like=unets[0]), encoder=encoder.fingerprint,
        recogniser=load_pack(face_pack).recogniser_sha256, recogniser_name=PACK, encoder_name=encoder.name,
    )  # fmt: skip
    shutil.copytree(face_pack, own / PACK)
    return folder


@pytest.fixture()
def page() -> dict:
    """The settings page."""
    return {"facesnap_pack": PACK, "facesnap_score": False}


@pytest.fixture()
def shared(models, page) -> PipelineLoader:
    return PipelineLoader(lambda: Folders.of(models), lambda: options.values(page))


@pytest.fixture()
def run(world, shared, astronaut):
    """Arguments of the script -> (p, latent)."""

    def run(*args, **more) -> tuple:
        p = processing(world, prompts=[[7]], **{"width": 64, "height": 64, "prompt": "a person", "steps": 2, **more})
        begin(world.host, shared, p, args)
        return p, sampled(p)

    run.loader = shared
    return run


@pytest.fixture()
def snap(astronaut) -> dict:
    return {"references": [Image.fromarray(astronaut)], "preset": "Faithful"}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_a_photo_and_what_the_picture_tells_of_it(run, snap) -> None:
    bare = run()[1]
    p, made = run(snap)
    assert distance(made, bare) > 1e-2
    assert p.extra_generation_params["FaceSnap adapter"].startswith("untrained [")
    assert p.extra_generation_params["FaceSnap photos"].startswith("1 [")
    assert VERSION in p.extra_generation_params and NOTE not in p.extra_generation_params
    p, off = run(False, snap)
    assert torch.equal(off, bare) and p.extra_generation_params == {}


def test_every_part_acts_and_can_be_switched_off(run, snap) -> None:
    bare, whole = run()[1], run(snap)[1]
    tokens = run({**snap, "structure": 0})[1]
    landmarks = run({**snap, "strength": 0})[1]
    assert (
        min(distance(a, b) for a, b in ((whole, tokens), (whole, landmarks), (tokens, bare), (landmarks, bare))) > 1e-2
    )
    assert torch.equal(run({**snap, "strength": 0, "structure": 0})[1], bare)
    assert torch.equal(run({**snap, "pose": {"source": "none"}})[1], tokens)


def test_poses(run, snap, components) -> None:
    driver = Image.open(components / "photos" / "obama.jpg")
    poses = [
        {"source": "reference"},
        {"source": "reference", "yaw": 40},
        {"source": "picture", "image": driver},
        {"source": "init"},
        {"source": "canvas", "x": 0.3, "size": 0.3},
    ]
    made = [run({**snap, "strength": 0, "pose": pose}, init_images=[driver.rotate(20)])[1] for pose in poses]
    assert min(distance(a, b) for n, a in enumerate(made) for b in made[:n]) > 1e-3
    for pose, words in (({"source": "picture"}, "the pose picture of person 1"), ({"source": "init"}, "init image")):
        with pytest.raises(SettingsError, match=words):
            run({**snap, "pose": pose})


def test_twenty_pictures_analyse_the_person_once(run, snap, monkeypatch) -> None:
    """And a change of the prompt, the strength or the seed calls no network of ours at all."""
    first = run(snap, steps=1)[1]
    for where, name in ((FaceAnalyser, "faces"), (FacialAttributeMixer, "forward"), (ImageEncoder, "encode")):
        monkeypatch.setattr(where, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called again"))
    for n in range(20):
        assert distance(run({**snap, "strength": 0.5 + n / 40}, prompt=f"picture {n}", steps=1)[1], first) > 1e-4
    assert torch.equal(run(snap, steps=1)[1], first)


def test_similarity_is_told_picture_by_picture(run, snap, page, astronaut) -> None:
    page["facesnap_score"] = True
    p, _ = run(snap)
    after_picture(p, Image.fromarray(astronaut))
    assert float(p.extra_generation_params["FaceSnap similarity"]) > 0.99
    after_picture(p, Image.new("RGB", (64, 64)))
    assert "FaceSnap similarity" not in p.extra_generation_params
    nested = SimpleNamespace(**vars(p))  # a copy, as ADetailer makes one
    after_picture(nested, Image.fromarray(astronaut))
    assert len(p.facesnap_job.similarity) == 2
    processed = SimpleNamespace(extra_generation_params=dict(p.extra_generation_params))
    finish(p, processed)
    reported = processed.extra_generation_params
    assert reported["FaceSnap similarity"].endswith(", none") and reported["FaceSnap faces"] == "0 of 1"
    result = RESULTS.get(reported[KEY]).json()
    assert result["state"] == "finished" and result["people"][0]["references"][0]["faces"] == 1
    assert result["people"][0]["similarity"][1] is None and result["people"][0]["similarity"][0] > 0.99


def test_the_api_is_told_of_failures(run, snap, world) -> None:
    with pytest.raises(NoFaceError):
        run({**snap, "references": [Image.new("RGB", (200, 200), "grey")]})
    assert "No face was found" in RESULTS.last()[0].json()["error"]

    def fail(denoiser) -> None:
        raise RuntimeError("planted")

    p = processing(world, width=64, height=64, prompt="", steps=2, before_step=fail)
    begin(world.host, run.loader, p, [snap])
    with pytest.raises(RuntimeError, match="planted"):
        sampled(p)
    assert RESULTS.last()[0].json()["error"] == "planted"


def test_a_public_adapter_by_name(run, snap, shared, models, world, unets, face_pack) -> None:
    """FaceID with its LoRA: the pack is found by the recogniser's name, the LoRA acts, a pose is not followed."""
    file = write(public_state("faceid", widths_of(unets[0]), 64), models / "FaceSnap", "faceid", "sd15")
    pack = shutil.copytree(face_pack, models / "insightface" / "models" / "buffalo_l")
    try:
        bare = run()[1]
        p, made = run({**snap, "adapter": file.stem, "pose": {"source": "canvas", "yaw": 30}},
                      prompt="a person <lora:ip-adapter-faceid_sd15_lora:0.6>")  # fmt: skip
        assert distance(made, bare) > 1e-2
        assert distance(run({**snap, "adapter": file.stem, "lora": 0})[1], made) > 1e-2
        own = (models / "FaceSnap" / "untrained.safetensors").rename(models / "untrained.safetensors")
        assert torch.equal(run({**snap, "pose": {"source": "canvas", "yaw": 30}})[1], made)  # the only one that fits
        own.rename(models / "FaceSnap" / "untrained.safetensors")
        note = p.extra_generation_params[NOTE]
        assert "the pose is not used" in note and "applied twice" in note
        shutil.rmtree(pack)
        p = processing(world, width=64, height=64, prompt="", steps=2)
        begin(world.host, PipelineLoader(shared.folders, shared.options), p, [{**snap, "adapter": file.stem}])
        with pytest.raises(PackError, match="w600k_r50") as refused:
            sampled(p)
        assert refused.value.status_code == 503
    finally:
        file.unlink()
        shutil.rmtree(pack, ignore_errors=True)


def test_photos_are_looked_at_with_the_pack_of_the_generation(
    run, snap, shared, models, page, face_pack, unets
) -> None:
    """The adapter's, else the settings page's, else any: not the page's, which need not be there."""
    page["facesnap_pack"] = "buffalo_l"
    looked = [shared.viewer(name, base).pack.folder for name in ("", "untrained") for base in ("sd15", None)]
    assert set(looked) == {models / "FaceSnap" / PACK}
    assert shared.viewer("", "sdxl").pack.name == PACK  # no adapter, and not the page's pack: any
    p, _ = run(snap)
    assert p.facesnap_job.prepared.pipeline.analyser is shared.viewer("", "sd15")
    file = write(public_state("faceid", widths_of(unets[0]), 64), models / "FaceSnap", "faceid", "sd15")
    other = shutil.copytree(face_pack, models / "FaceSnap" / "antelopev2")
    pack = models / "insightface" / "models" / "buffalo_m"
    try:
        page["facesnap_pack"] = "antelopev2"
        assert shared.viewer(file.stem, "sd15").pack.name == "antelopev2"  # its own is not there: the page's
        shutil.copytree(face_pack, pack)
        assert shared.viewer(file.stem, "sd15").pack.name == "buffalo_m"
        p, _ = run({**snap, "adapter": file.stem})
        assert p.facesnap_job.prepared.pipeline.analyser is shared.viewer(file.stem, "sd15")
        with pytest.raises(CheckpointError, match="no adapter 'gone'"):
            shared.viewer("gone", "sd15")
    finally:
        file.unlink()
        shutil.rmtree(other)
        shutil.rmtree(pack, ignore_errors=True)


def test_a_saved_identity_needs_no_pack(run, snap, shared, models, world) -> None:
    p, made = run(snap)
    identity = p.facesnap_job.prepared.people[0].identity
    IdentityStore(shared.folders().identities).save(replace(identity, name="Zoe"), replace=True)
    hidden = (models / "FaceSnap" / PACK).rename(models.parent / "elsewhere")
    try:
        alone = PipelineLoader(shared.folders, shared.options)
        p = processing(world, width=64, height=64, prompt="", steps=2)
        begin(world.host, alone, p, [{"identity": "zoe", "preset": "Faithful"}])
        assert torch.equal(sampled(p), made)
        assert p.extra_generation_params["FaceSnap identity"].startswith("zoe [")
        p = processing(world, width=64, height=64, prompt="", steps=2)
        begin(world.host, PipelineLoader(shared.folders, shared.options), p, [snap])
        with pytest.raises(PackError, match="No pack has the recogniser"):
            sampled(p)
    finally:
        hidden.rename(models / "FaceSnap" / PACK)


def test_refused_or_skipped(run, snap, page, world, unets) -> None:
    faceless = {**snap, "references": [Image.new("RGB", (200, 200), "grey")]}
    run = partial(run, steps=1)
    bare = run()[1]
    for bad, kind, status in (
        ({"strenght": 1}, SettingsError, 422),
        (faceless, NoFaceError, 422),
        ({**snap, "adapter": "gone"}, CheckpointError, 422),  # another request will not help
        ({**snap, "identity": "somebody"}, SettingsError, 422),
    ):
        with pytest.raises(kind) as refused:
            run(bad)
        assert refused.value.status_code == status
    p, made = run({**faceless, "on_error": "skip"})
    assert torch.equal(made, bare) and "No face was found" in p.extra_generation_params[SKIPPED]
    assert "Tried" not in p.extra_generation_params[SKIPPED] and "Remedy" in p.extra_generation_params[SKIPPED]
    processed = SimpleNamespace(extra_generation_params={})
    finish(p, processed)
    result = RESULTS.get(processed.extra_generation_params[KEY]).json()
    assert "Tried" not in result["error"] and result["details"].count(";") > 10
    page["facesnap_on_error"] = "skip"
    p, made = run(faceless)
    assert torch.equal(made, bare) and p.comments
    with pytest.raises(NoFaceError):
        run({**faceless, "on_error": "stop"})
    for cannot in (
        {"references": ["no picture at all"]},
        {"references": ["bm8gcGljdHVyZQ=="]},
        {"references": [Image.new("1", (9000, 9000))]},
        {**snap, "region": "bm8gcGljdHVyZQ=="},
        {**snap, "pose": {"source": "picture", "image": "bm8gcGljdHVyZQ=="}},
        {**snap, "adapter": "gone"},
        {**snap, "identity": "", "references": ["https://example.com/zoe.jpg"]},
    ):
        p, made = run(cannot)
        assert torch.equal(made, bare) and SKIPPED in p.extra_generation_params, cannot
        with pytest.raises(FaceSnapError):
            run({**cannot, "on_error": "stop"})
    for wrong in ({**snap, "strenght": 1}, {**snap, "strength": "much"}, {**snap, "pulid_mode": "loud"}):
        with pytest.raises(SettingsError):
            run(wrong)
    world.standin.load(unets[2])  # SDXL
    with pytest.raises(MissingWeightsError, match="no adapter for SDXL") as refused:
        run({**snap, "on_error": "stop"})
    assert refused.value.status_code == 503  # until one is put there
    p = processing(world, width=64, height=64, prompt="", steps=2)
    begin(world.host, PipelineLoader(lambda: None, lambda: 1 / 0), p, [snap])  # a mistake of ours
    with pytest.raises(ZeroDivisionError):
        sampled(p)


def test_settings_that_the_adapter_cannot_use(run, snap, shared, models, unets, face_pack) -> None:
    """Noted once, without effect, not in the infotext; refused only where strict is asked for."""
    file = write(public_state("faceid", widths_of(unets[0]), 64), models / "FaceSnap", "faceid", "sd15")
    pack = shutil.copytree(face_pack, models / "insightface" / "models" / "buffalo_l")
    plain = {**snap, "adapter": file.stem}
    try:
        bare, made = run(plain, steps=1)
        asked: list[tuple[dict, str]] = [
            ({"structure": 1.5}, "structure strength is not used"),
            ({"structure_start": 0.2, "structure_end": 0.5}, "structure start and structure end are not used"),
            ({"speed": "fast"}, "speed is not used"),
            ({"s_struct": 0.5}, "CLIP weight is not used"),
            ({"pulid_mode": "style"}, "PuLID mode is not used"),
            ({"pose": {"source": "canvas", "yaw": 30}}, "the pose is not used"),
            ({"pose": {"source": "reference", "expression": "smile"}}, "the pose is not used"),
            ({"pose": {"source": "picture"}}, "the pose is not used"),  # which is missing
            ({"pose": {"source": "init", "framing": "true size"}}, "the pose is not used"),
            ({"structure": 2, "pose": {"source": "canvas"}}, "structure strength and the pose are not used"),
        ]  # fmt: skip
        for more, words in asked:
            p, other = run({**plain, **more}, steps=1)
            assert torch.equal(other, made), more
            note = p.extra_generation_params.pop(NOTE)
            assert note.count("not used") == 1 and words in note and p.comments == [note], (more, note)
            assert p.extra_generation_params == bare.extra_generation_params, more
            with pytest.raises(UnusableSettingError, match="strict") as refused:
                run({**plain, **more, "strict": True, "on_error": "skip"})
            assert refused.value.status_code == 422
        for more in ({"structure": 0}, {"structure": None}, {"pose": {"source": "none"}}, {"preset": "Fast"}):
            p, _ = run({**plain, **more, "strict": True}, steps=1)  # asks for nothing that is not there
            assert NOTE not in p.extra_generation_params and not p.comments, more
            assert not any(" structure" in key or " pose" in key for key in p.extra_generation_params), more
        two = {key: value for key, value in plain.items() if key != "references"}
        people = [{"references": snap["references"], "structure": 1.5} for _ in range(2)]
        p, _ = run({**two, "people": people})
        assert p.extra_generation_params[NOTE].count("structure strength") == 1
        native, _ = run({**snap, "adapter": "untrained", "lora": 0.5, "lora_in_region": True, "model_card": True})
        note = native.extra_generation_params[NOTE]
        assert "LoRA strength and LoRA inside the region only are not used" in note and "model card is not used" in note
        assert not any("lora" in key or "model card" in key for key in native.extra_generation_params)
    finally:
        file.unlink()
        shutil.rmtree(pack)


def test_a_saved_identity_with_a_pose_picture_needs_no_pack_where_the_pose_is_not_used(
    run, snap, shared, models, world, unets, face_pack
) -> None:
    file = write(public_state("faceid", widths_of(unets[0]), 64), models / "FaceSnap", "faceid", "sd15")
    pack = shutil.copytree(face_pack, models / "insightface" / "models" / "buffalo_l")
    try:
        p, made = run({**snap, "adapter": file.stem})
        identity = p.facesnap_job.prepared.people[0].identity
        IdentityStore(shared.folders().identities).save(replace(identity, name="Ada"), replace=True)
        shutil.rmtree(pack)
        pose = {"source": "picture", "image": snap["references"][0]}
        p = processing(world, width=64, height=64, prompt="", steps=2)
        fresh = PipelineLoader(shared.folders, shared.options)
        begin(world.host, fresh, p, [{"identity": "Ada", "preset": "Faithful", "adapter": file.stem, "pose": pose}])
        assert torch.equal(sampled(p), made)
    finally:
        file.unlink()
        shutil.rmtree(pack, ignore_errors=True)


def test_the_same_sites_in_other_widths_are_another_unet(run, snap, world, unets) -> None:
    """The adapter stays loaded between generations; it must not be taken for one that fits."""
    made = run(snap)[1]
    world.standin.load(ldm_unet("sd15", width=64))
    with pytest.raises(CheckpointError, match="the adapter has") as refused:
        run(snap)
    assert "choose a base model" in str(refused.value)
    world.standin.load(unets[0])
    assert torch.equal(run(snap)[1], made)


def test_axes_and_an_earlier_run_of_the_same_object(run, snap) -> None:
    half = run({**snap, "strength": 0.5})[1]
    p, made = run(snap, **{NOTES: (("strength", "0.5"),)})
    assert torch.equal(made, half) and p.extra_generation_params["FaceSnap strength"] == "0.5"
    p, _ = run(False, snap, extra_generation_params={"FaceSnap strength": "0.5", "Other": "1"})
    assert p.extra_generation_params == {"Other": "1"}


def test_pictures_have_one_digest_everywhere(astronaut: np.ndarray) -> None:
    assert content_digest(astronaut) == content_digest(astronaut.copy()) != content_digest(astronaut[::-1])
    assert content_digest(astronaut[:, ::2]) != content_digest(np.ascontiguousarray(astronaut[:, ::2]).astype(np.int16))
