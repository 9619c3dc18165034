"""PuLID from photos to the picture: the command line against the formulas of PuLID's paper and code."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import save_file

from facesnap.cli import main
from facesnap.demo import untrained
from facesnap.errors import EncoderError, IdentityMismatchError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.identity import Identity, quality_weights
from facesnap.faces.tower import load_encoder
from facesnap.families.registry import load_adapter
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.pipeline.id_tokens import check_identity
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.model import Person, Settings
from tests import eva, formulas
from tests.faces.test_tower import ellipse, head_of, pixels_of
from tests.families.test_families import widths_of
from tests.networks import CONTEXT
from tests.pipelines import save_sdxl_pipeline
from tests.public_files import public_state, write

SAMPLING = Sampling("a person in oil", "blurred", steps=2, cfg=4.0, size=(64, 64), seed=5)
STRENGTH = 0.8  # the families' suggestion
FAMILIES = ("pulid-v1", "pulid-v1.1")
NAMES = {"id_to_k": "to_k_ip", "id_to_v": "to_v_ip"}  # of ip-adapter_pulid_sdxl_fp16.safetensors


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory, face_pack: Path, astronaut: np.ndarray, components: Path):
    """An untrained SDXL, PuLID's files in their public layouts, its tower, real face models and photos."""
    folder = tmp_path_factory.mktemp("pulid")
    base = save_sdxl_pipeline(untrained.save_pipeline(folder / "sd15"), folder / "xl")
    host = DiffusersHost.load(base, device="cpu")
    states = {family: public_state(family, widths_of(host.unet), CONTEXT["sdxl"]) for family in FAMILIES}
    renamed = {f"image_proj.{k}": v for k, v in states["pulid-v1"]["image_proj"].items()}
    for key, tensor in states["pulid-v1"]["ip_adapter"].items():
        old = next(name for name in NAMES if name in key)
        renamed[f"ip_adapter.{key.replace(old, NAMES[old])}"] = tensor
    files = {"pulid-v1": folder / "ip-adapter_pulid_sdxl_fp16.safetensors"}
    save_file(renamed, files["pulid-v1"])
    files["pulid-v1.1"] = write(states["pulid-v1.1"], folder, "pulid-v1.1", "sdxl", ".safetensors")
    tower, state = folder / "EVA02_CLIP_L_336_psz14_s6B.pt", eva.tower_state()
    torch.save(eva.official(state), tower)
    pack = shutil.copytree(face_pack, folder / "antelopev2")  # the files name glintr100: a pack of that name has it
    photos = [folder / "astronaut.png", folder / "obama.png"]
    Image.fromarray(astronaut).save(photos[0])
    with Image.open(components / "photos" / "obama.jpg") as image:
        image.reduce(2).save(photos[1])  # below the 1024 pixels to which the official example reduces photos
    halves = {name: tensor.half().float() for name, tensor in state.items()}
    reference = DiffusersHost.load(base, device="cpu")
    return SimpleNamespace(
        base=base, host=host, reference=reference, states=states, files=files, tower=tower, halves=halves, pack=pack,
        photos=photos, analyser=FaceAnalyser(pack),
    )  # fmt: skip


@pytest.fixture
def floats(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the VAE gave for every picture made, before it becomes whole numbers."""
    found: list[torch.Tensor] = []
    original = VaeImageProcessor.postprocess

    def postprocess(self, image, *args, **kwargs):
        found.append(image.detach().clone())
        return original(self, image, *args, **kwargs)

    monkeypatch.setattr(VaeImageProcessor, "postprocess", postprocess)
    return found


def _pipeline(xl, family: str) -> FaceSnapPipeline:
    return FaceSnapPipeline(load_adapter(xl.files[family]), xl.analyser, load_encoder(xl.tower))


def _tokens(xl, family: str, photos: list[Path], join: bool = False) -> torch.Tensor:
    """(2, T, C): of nobody, and of the person, by the formulas."""
    faces = [xl.analyser.face(photo) for photo in photos]
    f_id = torch.from_numpy(np.stack([face.embedding for face in faces]))
    states, vectors = eva.tower(xl.halves, torch.cat([pixels_of(head_of(face), ellipse()) for face in faces]))
    levels, joined = [states[level] for level in eva.LEVELS], torch.cat([f_id, vectors], 1)
    s, nothing = xl.states[family]["image_proj"], [torch.zeros(1, 577, 64)] * 5
    if family == "pulid-v1.1":
        person = formulas.pulid_v11(s, joined[None], [h.flatten(0, 1)[None] for h in levels])
        return torch.cat([formulas.pulid_v11(s, torch.zeros(1, 1, 552), nothing), person])
    each, nobody = formulas.pulid_v1(s, joined, levels), formulas.pulid_v1(s, torch.zeros(1, 552), nothing)
    if join:
        rows = [[one[0], *[one[0][:5]] * (len(photos) - 1)] for one in [nobody]]
        rows.append([each[0], *each[1:, :5]])
        return torch.stack([torch.cat(row) for row in rows])
    share = torch.from_numpy(quality_weights(np.array([face.quality.score for face in faces])))
    return torch.cat([nobody, (each * share[:, None, None]).sum(0, keepdim=True)])


@torch.no_grad()
def _reference(xl, family: str, tokens: torch.Tensor, strength: float = STRENGTH, mode: str = "fidelity") -> None:
    """Make the picture with diffusers alone and processors that are the formulas."""
    host = xl.reference
    rule, zeros = {"fidelity": ("ortho_v2", 8), "style": ("ortho", 16)}[mode]
    formulas.set_reference(host.unet, xl.states[family]["ip_adapter"], tokens, strength, rule=rule, zeros=zeros)
    host.sample(SAMPLING, [])


def _generate(xl, family: str, out: Path, *options: str, photos: list[Path] | None = None) -> int:
    photos = xl.photos[:1] if photos is None else photos
    who = ["--reference", *map(str, photos)] if photos else []
    return main(["generate", "--base", str(xl.base), "--adapter", str(xl.files[family]), "--pack", str(xl.pack), *who,
                 "--prompt", SAMPLING.prompt, "--negative", SAMPLING.negative_prompt, "--steps", "2", "--cfg", "4",
                 "--size", "64x64", "--seed", "5", "--out", str(out), "--json", *options])  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ("fidelity", "style"))
def test_generate_equals_the_formulas(xl, floats, tmp_path: Path, capsys, family: str, mode: str) -> None:
    options = ["--encoder", str(xl.tower), *(["--pulid-mode", "style"] if mode == "style" else [])]
    assert _generate(xl, family, tmp_path, *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert "ellipse" in report["encoder pictures"]
    with Image.open(report["pictures"][0]["file"]) as image:
        assert ("PuLID mode: style" in image.info["parameters"]) == (mode == "style")
    tokens = _tokens(xl, family, xl.photos[:1])
    _reference(xl, family, tokens, mode=mode)
    ours, theirs = floats
    assert (ours - theirs).abs().max() <= 1e-4
    for other in ({"strength": 0.0}, {"mode": "style" if mode == "fidelity" else "fidelity"}):
        _reference(xl, family, tokens, **({"mode": mode} | other))
        assert (floats[-1] - theirs).abs().max() > 1e-2, other
    _reference(xl, family, torch.cat([tokens[1:], tokens[1:]]), mode=mode)  # the tokens of nobody matter, too
    assert (floats[-1] - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_several_photos_and_the_model_card(xl, floats, family: str) -> None:
    """v1 averages by quality, its demo joins; v1.1 looks at all of them together, either way."""
    pipeline = _pipeline(xl, family)
    for match in (False, True):
        identity = pipeline.identity(xl.photos, match_model_card=match)
        pipeline.generate(xl.host, SAMPLING, [(identity, Person())], settings=Settings(model_card=match))
        tokens = _tokens(xl, family, xl.photos, join=match and family == "pulid-v1")
        assert tokens.shape[1] == {"pulid-v1": 15 if match else 10, "pulid-v1.1": 12}[family]
        _reference(xl, family, tokens)
        assert (floats[-1] - floats[-2]).abs().max() <= 1e-4
    assert ((floats[0] - floats[2]).abs().max() > 1e-2) == (family == "pulid-v1")


def test_the_model_card_reduces_large_photos(xl, astronaut: np.ndarray, tmp_path: Path) -> None:
    import cv2

    large = cv2.resize(astronaut, (1536, 1280), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(large).save(tmp_path / "large.png")
    pipeline = _pipeline(xl, "pulid-v1")
    plain, card = (pipeline.identity([tmp_path / "large.png"], match_model_card=match) for match in (False, True))
    small = cv2.resize(large, (1024, int(1280 * (1024 / 1536))), interpolation=cv2.INTER_LANCZOS4)
    expected = xl.analyser.face(small)
    assert np.array_equal(card.embeddings[0], expected.embedding)
    assert not np.array_equal(plain.embeddings[0], expected.embedding)
    pixels = pixels_of(head_of(expected), ellipse())
    assert (card.class_vectors - eva.tower(xl.halves, pixels)[1]).abs().max() <= 1e-5
    again = [pipeline.identity(xl.photos[:1], match_model_card=match).digest for match in (False, True)]
    assert again[0] == again[1]  # a photo of 512 pixels is not changed


def test_a_saved_identity_needs_neither_pack_nor_tower(xl, floats, tmp_path: Path, capsys) -> None:
    file = tmp_path / "who.safetensors"
    assert main(["identity", "make", str(xl.photos[0]), "--out", str(file), "--pack", str(xl.pack), "--encoder",
                 str(xl.tower), "--json"]) == 0  # fmt: skip
    made = json.loads(capsys.readouterr().out)
    assert list(made["levels"]) == [str(level) for level in eva.LEVELS] and "ellipse" in made["encoder_pictures"]
    assert _generate(xl, "pulid-v1.1", tmp_path / "a", "--identity", str(file), "--pack", "absent", photos=[]) == 0
    assert _generate(xl, "pulid-v1.1", tmp_path / "b", "--encoder", str(xl.tower)) == 0
    assert torch.equal(floats[0], floats[1])


def test_what_does_not_suit_is_refused(xl, tmp_path: Path, capsys) -> None:
    assert _generate(xl, "pulid-v1", tmp_path) == 1  # no tower
    error = capsys.readouterr().err
    assert "needs an image tower" in error and "--encoder" in error
    adapter, clip = load_adapter(xl.files["pulid-v1"]), untrained.save_encoder(tmp_path / "clip.safetensors")
    with pytest.raises(IdentityMismatchError, match="The encoder is ViT"):
        FaceSnapPipeline(adapter, xl.analyser, ImageEncoder.load(clip))
    face = xl.analyser.face(xl.photos[0])
    with pytest.raises(EncoderError, match=r"no hidden states of the levels \[4, 8.*no class vectors 40 wide"):
        check_identity(adapter, Identity.from_faces([face]))
    person = Identity.from_faces([face], load_encoder(xl.tower))
    for broken, words in (
        ({"class_vectors": None}, "class vectors 40 wide"),
        ({"class_vectors": person.class_vectors[:, :9]}, "class vectors 40 wide"),
        ({"hidden": {level: h[..., :32] for level, h in person.hidden.items()}}, "hidden states 64 wide"),
    ):
        with pytest.raises(EncoderError, match=words):
            check_identity(adapter, dataclasses.replace(person, **broken))
    published = dataclasses.replace(adapter, spec=dataclasses.replace(adapter.spec, encoder_name="EVA02-CLIP-L-14-336"))
    with pytest.raises(IdentityMismatchError, match="EVA02-CLIP-L-14-336"):
        FaceSnapPipeline(published, encoder=load_encoder(xl.tower))
    with pytest.raises(SettingsError, match="pulid_mode is 'loud'"):
        Settings(pulid_mode="loud")
    faceid = write(public_state("faceid", widths_of(xl.host.unet), CONTEXT["sdxl"]), tmp_path, "faceid", "sdxl")
    other = Identity.from_faces([dataclasses.replace(face, alias="buffalo_l")])
    own = FaceSnapPipeline(load_adapter(faceid))
    assert own.conditioning(other, settings=Settings(pulid_mode="style")).rule is own.conditioning(other).rule
    options = ["--base", "x", "--reference", "a.png", "--prompt", "a portrait", "--out", str(tmp_path / "out")]
    assert main(["generate", "--adapter", str(faceid), *options, "--pulid-mode", "style", "--strict"]) == 1
    assert "has no modes, PuLID mode is not used" in capsys.readouterr().err
    pipeline = FaceSnapPipeline(adapter)
    plain, asked = (pipeline.conditioning(person, Person(s_struct=weight)) for weight in (1.0, 0.5))
    assert asked.cond is plain.cond  # kept: it is the same
