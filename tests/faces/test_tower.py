"""PuLID's view of a face: alignment, background, tower, file layouts, and what an identity keeps of it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from facesnap.checkpoints.files import read_file
from facesnap.demo import untrained
from facesnap.errors import CheckpointError, EncoderError, NoFaceError
from facesnap.faces import encoder_files as files
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.encoder_files import find_encoder
from facesnap.faces.encoder_search import encoder_of
from facesnap.faces.face import Face
from facesnap.faces.grey_face import aligned_head, find_parser
from facesnap.faces.identity import Identity
from facesnap.faces.known import EVA_TOWER
from facesnap.faces.tower import PUBLISHED, TowerEncoder, load_encoder
from facesnap.models.eva_tower import EvaTower
from facesnap.weights.doctor import NOTE, OK, parsers
from tests import eva
from tests.models.test_face_parsing import facexlib_networks

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
POINTS = [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
          [313.08905, 371.15118]]  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESNAP_MODELS", "")


@pytest.fixture(scope="module")
def state() -> eva.State:
    return eva.tower_state()


@pytest.fixture(scope="module")
def file(state: eva.State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tower") / "EVA02_CLIP_L_336_psz14_s6B.pt"
    torch.save(eva.official(state), file)
    return file


@pytest.fixture(scope="module")
def models(components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models where a face restorer keeps both parsing networks, untrained."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "GFPGAN").mkdir()
    for name, network in facexlib_networks(components).items():
        torch.save(network.state_dict(), folder / "GFPGAN" / f"parsing_{name.lower()}.pth")
    return folder


@pytest.fixture(scope="module")
def faces(analyser: FaceAnalyser, astronaut: np.ndarray, components: Path) -> list[Face]:
    return [analyser.face(astronaut), analyser.face(components / "photos" / "obama.jpg")]


def head_of(face: Face) -> np.ndarray:
    """The aligned head as facexlib makes it, in BGR as facexlib has it, and back."""
    matrix = cv2.estimateAffinePartial2D(face.kps.astype(np.float64), np.array(POINTS), method=cv2.LMEDS)[0]
    bgr = np.ascontiguousarray(face.picture[:, :, ::-1])
    return cv2.warpAffine(bgr, matrix, (512, 512), borderValue=(135, 133, 132))[:, :, ::-1].copy()


def pixels_of(head: np.ndarray, outside: torch.Tensor, side: int = 56) -> torch.Tensor:
    """PuLID's formula: grey where the face is, white elsewhere, resized and normalised. outside: (512, 512) bool."""
    red, green, blue = (torch.from_numpy(head[:, :, i]).double() / 255 for i in range(3))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    picture = torch.where(outside, torch.ones((), dtype=torch.double), grey)[None, None]
    small = torch.nn.functional.interpolate(picture, (side, side), mode="bicubic", antialias=False)
    return torch.cat([(small - m) / s for m, s in zip(MEAN, STD, strict=True)], 1).float()


def ellipse() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    return ((x - 256) / 168) ** 2 + ((y - 262) / 218) ** 2 > 1


@torch.no_grad()
def test_faces_without_a_parsing_network(state, file: Path, faces: list[Face], caplog) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = TowerEncoder.load(file)
    assert len(caplog.records) == 1 and "ellipse" in caplog.text and "parsing_bisenet.pth" in caplog.text
    seen = encoder.see(faces)
    assert "ellipse" in seen.preparation
    halves = {name: tensor.half().float() for name, tensor in state.items()}  # what the file holds
    pixels = torch.cat([pixels_of(head_of(face), ellipse()) for face in faces])
    states, vector = eva.tower(halves, pixels)
    assert list(seen.hidden) == list(eva.LEVELS)
    for level in eva.LEVELS:
        assert (seen.hidden[level] - states[level]).abs().max() <= 1e-4 * max(1.0, float(states[level].std()))
    assert (seen.class_vectors - vector).abs().max() <= 1e-5
    plain = pixels_of(head_of(faces[0]), torch.zeros(512, 512, dtype=torch.bool))
    assert (eva.tower(halves, plain)[0][20] - states[20][:1]).abs().max() > 0.05  # the background matters


@torch.no_grad()
def test_the_background_is_told_by_a_network_where_there_is_one(
    state, file: Path, models: Path, components: Path, faces: list[Face], tmp_path: Path
) -> None:
    assert find_parser([models]) == models / "GFPGAN" / "parsing_bisenet.pth"
    encoder = load_encoder(file, [models])
    assert isinstance(encoder, TowerEncoder) and "BiSeNet" in (made := encoder.see(faces[:1])).preparation
    theirs = facexlib_networks(components)["BiSeNet"]
    head = head_of(faces[0])
    picture = torch.from_numpy(head).permute(2, 0, 1)[None].float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    labels = theirs((picture - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))[0].argmax(1)[0]
    outside = sum(labels == i for i in (0, 16, 18, 7, 8, 9, 14, 15)).bool()
    halves = {name: tensor.half().float() for name, tensor in state.items()}
    states, vector = eva.tower(halves, pixels_of(head, outside))
    for level in eva.LEVELS:
        assert (made.hidden[level] - states[level]).abs().max() <= 1e-3 * max(1.0, float(states[level].std()))
    assert (made.class_vectors - vector).abs().max() <= 1e-4
    (tmp_path / "facexlib").mkdir()
    (models / "GFPGAN" / "parsing_parsenet.pth").rename(tmp_path / "facexlib" / "parsing_parsenet.pth")
    assert TowerEncoder.load(file, model_dirs=[tmp_path]).parser.title == "ParseNet"
    (tmp_path / "facexlib" / "parsing_parsenet.pth").write_bytes(b"PK\x03\x04" + b"0" * 99)
    with pytest.raises(EncoderError, match=r"parsing_parsenet\.pth"):  # damaged is not the same as absent
        TowerEncoder.load(file, model_dirs=[tmp_path])


def test_points_that_cannot_be_aligned(faces: list[Face]) -> None:
    upright = aligned_head(faces[0])
    assert upright.shape == (512, 512, 3) and np.array_equal(upright, head_of(faces[0]))
    with pytest.raises(NoFaceError, match="cannot be aligned"):
        aligned_head(dataclasses.replace(faces[0], kps=np.full((5, 2), 7, np.float32)))


def test_every_file_layout_is_the_same_encoder(state, file: Path, faces: list[Face], tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in state.items()}
    save_file(eva.timm_names(halves, "visual.trunk."), tmp_path / "open_clip_model.safetensors")
    save_file(eva.timm_names(halves), tmp_path / "timm.safetensors")
    one = load_encoder(file)
    expected = one.see(faces[:1])
    for name in ("open_clip_model.safetensors", "timm.safetensors"):
        other = load_encoder(tmp_path / name)
        assert other.fingerprint == one.fingerprint and other.name == one.name == "EVA02-CLIP 64x21-14-56"
        assert torch.equal(other.see(faces[:1]).hidden[20], expected.hidden[20])
    with torch.device("meta"):
        whole = EvaTower(PUBLISHED)
    assert sum(p.numel() for p in whole.parameters()) == 304_432_832  # as timm counts it
    assert TowerEncoder(whole, "", None, torch.device("meta")).name == EVA_TOWER
    assert isinstance(load_encoder(untrained.save_encoder(tmp_path / "clip.safetensors")), ImageEncoder)


def test_a_file_is_read_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tower's file takes seconds."""
    read = []
    monkeypatch.setattr(files, "read_file", lambda path: read.append(path) or read_file(path))
    clip = untrained.save_encoder(tmp_path / "clip.safetensors")
    assert isinstance(load_encoder(file), TowerEncoder) and isinstance(load_encoder(str(clip)), ImageEncoder)
    assert read == [file, clip]


def test_what_is_no_tower_is_refused(state, tmp_path: Path) -> None:
    key = "visual.blocks.3.mlp.w2.weight"
    good = eva.official(state)
    for name, content, words in (
        ("less", {k: v for k, v in good.items() if k != key}, "missing"),
        ("more", good | {"visual.extra": torch.ones(2)}, "not part of the network"),
        ("shape", good | {key: torch.ones(3, 3)}, r"\(3, 3\)"),
        ("nan", good | {key: good[key] * float("nan")}, "no finite numbers"),
        ("whole", good | {key: torch.ones(good[key].shape, dtype=torch.int32)}, "no finite numbers"),
    ):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(EncoderError, match=words):
            load_encoder(tmp_path / f"{name}.pt")
    torch.save({"a": print}, tmp_path / "code.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "nan.pt").read_bytes()[:5000])
    for name in ("code.pt", "cut.pt", "absent.pt"):
        with pytest.raises(EncoderError, match=name):
            load_encoder(tmp_path / name)
    with pytest.raises(EncoderError, match="no EVA-CLIP image tower"):
        TowerEncoder.load(untrained.save_encoder(tmp_path / "clip.safetensors"))


def test_an_identity_keeps_what_the_tower_saw(file: Path, faces: list[Face], tmp_path: Path) -> None:
    encoder = load_encoder(file)
    identity = Identity.from_faces(faces, encoder)
    assert identity.class_vectors.shape == (2, 40) and identity.hidden[20].shape == (2, 17, 64)
    assert (identity.encoder, identity.encoder_name) == (encoder.fingerprint, encoder.name)
    identity.save(tmp_path / "i.safetensors")
    again = Identity.load(tmp_path / "i.safetensors")
    assert torch.equal(again.class_vectors, identity.class_vectors) and again.digest == identity.digest
    assert again.preparation == identity.preparation and "ellipse" in again.preparation
    moved = dataclasses.replace(identity, class_vectors=identity.class_vectors + 1e-3)
    assert len({identity.digest, moved.digest, dataclasses.replace(identity, class_vectors=None).digest}) == 3
    tensors = load_file(tmp_path / "i.safetensors")
    for wrong in (torch.ones(3, 40), torch.ones(2), torch.full((2, 40), float("nan")), torch.ones(2, 40).int()):
        with pytest.raises(CheckpointError, match="class vectors"):
            dataclasses.replace(identity, class_vectors=wrong)
    assert tensors["class_vectors"].dtype == torch.float32


def test_finding_the_files(tmp_path: Path, file: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = tmp_path / "clip_vision" / "EVA02_CLIP_L_336_psz14_s6B.pt"
    tower.parent.mkdir()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    (missing,) = parsers([tmp_path])
    assert missing.level == NOTE and "parsing_bisenet.pth" in missing.what and "ellipse" in missing.remedy
    with pytest.raises(EncoderError, match="download eva02-clip-l-14-336"):
        find_encoder(EVA_TOWER, [tmp_path])
    asked = []
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: asked.append(a) or str(file))
    assert find_encoder(EVA_TOWER, [tmp_path]) == file  # what another program has fetched
    assert asked == [("QuanSun/EVA-CLIP", "EVA02_CLIP_L_336_psz14_s6B.pt")]
    tower.write_bytes(b"x")
    assert find_encoder(EVA_TOWER, [tmp_path]) == tower
    assert encoder_of("", EVA_TOWER, [tmp_path]) == tower  # as adapters ask for it
    with pytest.raises(EncoderError, match="does not say through which image encoder"):
        encoder_of("", "", [tmp_path])
    (parser,) = parsers([models])
    assert parser.level == OK and "GFPGAN" in parser.what
