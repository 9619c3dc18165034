"""The switch "match the model card" follows the family's official example, and changes nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import Identity
from facesnap.families.base import OfficialPreprocessing
from facesnap.families.registry import PUBLIC, find, load_adapter
from facesnap.models.layers import TokenGroup
from facesnap.models.projections import GroupKV
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.model import Settings
from tests import formulas
from tests.families.test_families import ldm_of, widths_of
from tests.networks import CONTEXT
from tests.public_files import draw, plus_shapes, public_state, write

CLIP = 64  # width of the untrained encoder's hidden states


def _pipeline(world: SimpleNamespace, tmp_path: Path, family: str) -> tuple[FaceSnapPipeline, dict]:
    state = public_state(family, widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    if family.startswith("faceid-plus"):
        state["image_proj"] = draw(plus_shapes(CONTEXT["sd15"], clip=CLIP), 4)
    pack = shutil.copytree(world.pack, tmp_path / "buffalo_l", dirs_exist_ok=True)
    return FaceSnapPipeline(
        load_adapter(write(state, tmp_path, family, "sd15")), FaceAnalyser(pack), world.encoder
    ), state


@pytest.fixture(scope="module")
def crowd(world, components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, the larger one out of focus: the detector is surer of the smaller one."""
    left = np.asarray(Image.open(world.photo).convert("RGB").resize((900, 900)))
    with Image.open(components / "photos" / "obama.jpg") as image:
        right = np.asarray(image.convert("RGB").resize((360, 540)).crop((0, 0, 360, 900)))
    file = tmp_path_factory.mktemp("crowd") / "crowd.png"
    Image.fromarray(np.hstack([cv2.GaussianBlur(left, (0, 0), 12), right])).save(file)
    return file


def _same(a: Identity, b: Identity) -> bool:
    return a.digest == b.digest


def test_faceid_takes_the_first_face(world, crowd: Path, tmp_path: Path) -> None:
    pipeline, _ = _pipeline(world, tmp_path, "faceid")
    faces = pipeline.analyser.faces(crowd)
    assert len(faces) == 2 and faces[0].area > faces[1].area and faces[0].score < faces[1].score
    plain, official = (pipeline.identity([crowd], match_model_card=match) for match in (False, True))
    assert np.array_equal(plain.embeddings[0], faces[0].embedding)
    assert np.array_equal(official.embeddings[0], faces[1].embedding)
    for choose in (0, "leftmost"):  # somebody was asked for by name: that stays
        assert _same(*(pipeline.identity([crowd], choose, match_model_card=match) for match in (False, True)))
    alone = [pipeline.identity([world.photo], match_model_card=match) for match in (False, True)]
    assert _same(*alone)
    kv = [pipeline.conditioning(alone[0], settings=Settings(model_card=match)) for match in (False, True)]
    for site in kv[0].cond:
        assert torch.equal(kv[0].cond[site][0].k, kv[1].cond[site][0].k)
    assert (kv[0].rule, kv[0].zero_tokens, kv[0].strength) == (kv[1].rule, kv[1].zero_tokens, kv[1].strength)


@torch.no_grad()
def test_faceid_plus_shows_the_encoder_a_tinted_crop(world, tmp_path: Path) -> None:
    pipeline, state = _pipeline(world, tmp_path, "faceid-plusv2")
    face = pipeline.analyser.face(world.photo)
    plain, official = (pipeline.identity([world.photo], match_model_card=match) for match in (False, True))
    assert np.array_equal(plain.embeddings, official.embeddings) and np.array_equal(plain.weights, official.weights)
    crop = face.crop(224)
    red_is_blue = np.stack([crop[..., 2], crop[..., 1], crop[..., 0]], axis=-1)
    for identity, pixels in ((plain, crop), (official, red_is_blue)):
        expected = world.encoder.encode([pixels])[-2]
        assert torch.equal(identity.hidden[-2], expected)
        f_id = torch.from_numpy(face.normed_embedding)[None]
        tokens = formulas.plus(state["image_proj"], f_id, expected, True)
        made = pipeline.conditioning(identity, settings=Settings(model_card=True)).cond
        expected_kv = pipeline.adapter.projections.keys_values({"id": TokenGroup(tokens)})
        for site, groups in made.items():
            assert (groups[0].k - expected_kv[site][0].k).abs().max() <= 1e-3
    assert (plain.hidden[-2] - official.hidden[-2]).abs().max() > 0.05


@torch.no_grad()
def test_portrait_counts_several_photos_alike(world, components: Path, tmp_path: Path) -> None:
    """As the official example: the tokens of all photos in one row, (1, 2 x 16, C), without a weight."""
    pipeline, state = _pipeline(world, tmp_path, "portrait")
    photos = [world.photo, components / "photos" / "obama.jpg"]
    identity = pipeline.identity(photos, match_model_card=True)
    assert identity.weights[0] != identity.weights[1]
    vectors = torch.from_numpy(np.stack([pipeline.analyser.face(photo).normed_embedding for photo in photos]))
    tokens = formulas.faceid(state["image_proj"], vectors).flatten(0, 1)[None]
    made = [pipeline.conditioning(identity, settings=Settings(model_card=match)).cond for match in (True, False)]
    (site, _), expected = (
        next(iter(made[0].items())),
        pipeline.adapter.projections.keys_values({"id": TokenGroup(tokens)}),
    )
    q = torch.randn(9, expected[site][0].k.shape[1], generator=torch.Generator().manual_seed(2))

    def attended(kv: GroupKV) -> torch.Tensor:
        return torch.softmax(q @ kv.k.T + (0 if kv.bias is None else kv.bias), -1) @ kv.v

    official, plain = (attended(one[site][0]) for one in made)
    assert made[0][site][0].k.shape[0] == 32 and (official - attended(expected[site][0])).abs().max() <= 1e-4
    assert (plain - official).abs().max() > 1e-3


def test_the_official_examples_differ_as_listed() -> None:
    """The table of the families' official examples, as people read it in `facesnap inspect`."""
    first = OfficialPreprocessing(face="first")
    expected = {
        "faceid": first, "portrait-unnorm": first, "instantid": OfficialPreprocessing(),
        "portrait": OfficialPreprocessing(face="first", alike=True),
        "faceid-plus": OfficialPreprocessing(face="first", bgr=True),
        "faceid-plusv2": OfficialPreprocessing(face="first", bgr=True),
        "pulid-v1": OfficialPreprocessing(joins=True, longest=1024), "pulid-v1.1": OfficialPreprocessing(longest=1024),
    }  # fmt: skip
    assert {family.key: family.official_preprocessing for family in PUBLIC} == expected
    words = {"face": "surest", "bgr": "BGR", "joins": "joins", "alike": "count alike", "longest": "1024 pixels"}
    for family, official in expected.items():
        text = official.text
        for field, word in words.items():
            assert (word in text) == (getattr(official, field) != getattr(OfficialPreprocessing(), field)), (
                family,
                field,
            )
        assert bool(text) == (official != OfficialPreprocessing())
    assert find("").official_preprocessing == find("facesnap").official_preprocessing == OfficialPreprocessing()
