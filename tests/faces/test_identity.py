"""Identities: fusing references, the file, and the refusal of foreign ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from facesnap.errors import CheckpointError, IdentityMismatchError, NoFaceError, SettingsError
from facesnap.faces import Face, FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.identity import Identity, quality_weights, similarity
from facesnap.faces.stored_landmarks import StoredLandmarks


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    """A small CLIP ViT for 224 px, every parameter drawn anew."""
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=96, projection_dim=32, num_hidden_layers=3, num_attention_heads=1
    )
    config.image_size, config.patch_size = 224, 32
    model = CLIPVisionModelWithProjection(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    file = tmp_path_factory.mktemp("encoder") / "vit.safetensors"
    save_file({k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")}, file)
    return ImageEncoder.load(file)


@pytest.fixture(scope="session")
def obama(analyser: FaceAnalyser, components: Path) -> list[Face]:
    return [analyser.face(components / "photos" / name) for name in ("obama.jpg", "obama3.jpg")]


@pytest.fixture
def identity(obama: list[Face], encoder: ImageEncoder) -> Identity:
    return Identity.from_faces(obama, encoder, levels=(-2, 1), name="Präsident 大統領", keep_crops=True)


def plain(embeddings: np.ndarray, scores: list[float] | None = None, recogniser: str = "a" * 64) -> Identity:
    values = np.array(scores or [0.5] * len(embeddings), dtype=np.float32)
    return Identity("x", recogniser, f"pack {recogniser[0]}", embeddings, quality_weights(values), values)


def test_references_of_one_person_agree(identity: Identity, astronaut_face: Face, obama: list[Face]) -> None:
    other = Identity.from_faces([astronaut_face], name="astronaut")
    single = [Identity.from_faces([face]) for face in obama]
    assert similarity(*single) > 0.5 > 0.3 > similarity(identity, other)
    assert all(similarity(identity, one) > similarity(*single) for one in single)  # the mean is nearer to each
    assert similarity(identity, identity) == pytest.approx(1, abs=1e-6)


def test_contents(identity: Identity, obama: list[Face], encoder: ImageEncoder) -> None:
    assert identity.references == 2 and identity.crops is not None
    assert set(identity.hidden) == {-2, 1} and identity.hidden[1].shape == (2, encoder.tokens, 64)
    expected = encoder.encode(np.stack([face.crop(224) for face in obama]), (-2,))[-2]
    assert torch.equal(identity.hidden[-2], expected)
    assert (identity.hidden[-2] - identity.hidden[1]).abs().max() > 0.1
    assert (identity.encoder, identity.encoder_name) == (encoder.fingerprint, encoder.name)
    assert identity.weights[np.argmax(identity.scores)] == identity.weights.max()
    one = Identity.from_faces(obama[:1])
    assert np.allclose(one.f_id("normed"), obama[0].normed_embedding, atol=1e-6)
    assert np.allclose(one.f_id("raw"), obama[0].embedding, atol=1e-4)
    assert one.hidden == {} and one.encoder is None and one.crops is None


def test_round_trip(identity: Identity, tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "ü.safetensors"
    identity.save(file)
    loaded = Identity.load(file)
    for key in ("embeddings", "weights", "scores", "crops"):
        assert np.array_equal(getattr(loaded, key), getattr(identity, key)), key
    for level, states in identity.hidden.items():
        assert torch.equal(loaded.hidden[level], states)
    for key in ("name", "recogniser", "alias", "encoder", "encoder_name", "digest"):
        assert getattr(loaded, key) == getattr(identity, key), key
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # no partial file stays behind
    loaded.save(file)  # over the old one
    assert Identity.load(file).digest == identity.digest


def test_no_picture_is_stored_unless_asked(obama: list[Face], encoder: ImageEncoder, tmp_path: Path) -> None:
    file = tmp_path / "i.safetensors"
    Identity.from_faces(obama, encoder).save(file)
    assert set(load_file(file)) == {"embeddings", "weights", "scores", "hidden.-2"}
    assert not any(tensor.dtype == torch.uint8 for tensor in load_file(file).values())


def test_digest_follows_the_content(identity: Identity, obama: list[Face]) -> None:
    assert dataclasses.replace(identity, name="other", crops=None).digest == identity.digest
    changed = identity.embeddings.copy()
    changed[0, 0] += 1e-3
    digests = {
        identity.digest,
        dataclasses.replace(identity, embeddings=changed).digest,
        dataclasses.replace(identity, recogniser="0" * 64).digest,
        dataclasses.replace(identity, encoder="0" * 64).digest,
        dataclasses.replace(identity, hidden={-2: identity.hidden[-2]}).digest,
        dataclasses.replace(identity, hidden={-2: identity.hidden[-2], 1: identity.hidden[1] + 1}).digest,
        Identity.from_faces(obama).digest,
    }
    assert len(digests) == 7


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_quality_weights(scores: list[float]) -> None:
    weights = quality_weights(np.array(scores, dtype=np.float32))
    assert (weights > 0).all() and abs(float(weights.sum()) - 1) < 1e-5
    order = np.argsort(scores, kind="stable")
    assert (np.diff(weights[order]) >= -1e-7).all()


@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.1, 50))
def test_fused_vector(seed: int, count: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    base = random.normal(size=512)
    embeddings = ((base + random.normal(size=(count, 512))) * scale).astype(np.float32)
    scores = random.uniform(0.1, 1, count).tolist()
    identity = plain(embeddings, scores)
    normed, raw = identity.f_id(), identity.f_id("raw")
    assert abs(np.linalg.norm(normed) - 1) < 1e-5 and normed.dtype == raw.dtype == np.float32
    norms = np.linalg.norm(embeddings, axis=1)
    assert norms.min() * 0.999 <= np.linalg.norm(raw) <= norms.max() * 1.001
    assert np.allclose(raw / np.linalg.norm(raw), normed, atol=1e-5)
    order = random.permutation(count)
    shuffled = plain(embeddings[order], [scores[i] for i in order])
    assert np.allclose(shuffled.f_id(), normed, atol=1e-5)  # the order of photos does not matter
    louder = plain(embeddings * np.float32(3), scores)
    assert np.allclose(louder.f_id(), normed, atol=1e-5)  # nor does the length of a vector


def test_another_recogniser_is_refused_by_name(astronaut_face: Face) -> None:
    ours, theirs = (
        plain(np.eye(1, 512, dtype=np.float32)),
        plain(np.eye(1, 512, dtype=np.float32), None, "b" * 64),
    )
    ours.require_recogniser("a" * 64, "pack a")
    for action in (lambda: similarity(ours, theirs), lambda: theirs.require_recogniser("a" * 64, "pack a")):
        with pytest.raises(IdentityMismatchError, match=r"pack b.*bbbb.*pack a.*aaaa"):
            action()
    foreign = dataclasses.replace(astronaut_face, recogniser="c" * 64, alias="pack c")
    with pytest.raises(IdentityMismatchError, match="pack c"):
        Identity.from_faces([astronaut_face, foreign])


def test_settings(identity: Identity) -> None:
    with pytest.raises(NoFaceError):
        Identity.from_faces([])
    with pytest.raises(SettingsError):
        identity.f_id("squared")


def test_refuses_damaged_and_foreign_files(identity: Identity, tmp_path: Path) -> None:
    file = tmp_path / "i.safetensors"
    identity.save(file)
    whole, tensors = file.read_bytes(), load_file(file)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())

    def variant(name: str, content: dict[str, torch.Tensor], **changes: str) -> Path:
        target = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in content.items()}, target, metadata | changes)
        return target

    def without(key: str) -> dict[str, torch.Tensor]:
        return {k: v for k, v in tensors.items() if k != key}

    def raw(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    embeddings = tensors["embeddings"]
    bad = [
        (tmp_path / "absent.safetensors", "cannot be read"),
        (tmp_path, "cannot be read"),
        (raw("empty.safetensors", b""), "cannot be read"),
        (raw("cut.safetensors", whole[: len(whole) // 2]), "cannot be read"),
        (raw("page.safetensors", b"<!DOCTYPE html>" * 9), "cannot be read"),
        (variant("foreign", tensors, format="pt"), "another kind"),
        (variant("future", tensors, version="2"), "version 2"),
        (variant("less", without("weights")), "lacks"),
        (variant("more", tensors | {"extra": torch.ones(1)}), "extra"),
        (variant("nan", tensors | {"embeddings": embeddings * float("nan")}), "finite"),
        (variant("zero", tensors | {"embeddings": embeddings * 0}), "zero"),
        (variant("shape", tensors | {"embeddings": torch.ones(2, 100)}), r"\(2, 100\)"),
        (variant("half", tensors | {"embeddings": embeddings.half()}), "another type"),
        (variant("bf16", tensors | {"weights": tensors["weights"].bfloat16()}), "another type"),
        (variant("weights", tensors | {"weights": torch.tensor([0.5, 0.9])}), "sum 1"),
        (variant("negative", tensors | {"weights": torch.tensor([-0.5, 1.5])}), "positive"),
        (variant("count", tensors | {"scores": torch.ones(3)}), r"\(3,\)"),
        (variant("cancel", tensors | {"embeddings": torch.stack([embeddings[0], -embeddings[0]]),
                                      "weights": torch.tensor([0.5, 0.5])}), "contradict"),
        (variant("hidden", tensors | {"hidden.1": torch.full((2, 50, 64), float("inf"))}), "not finite"),
        (variant("hidden shape", tensors | {"hidden.1": torch.ones(3, 50, 64)}), r"\(3, 50, 64\)"),
        (variant("no hidden", {k: v for k, v in tensors.items() if not k.startswith("hidden")}), "encoder"),
        (variant("crops", tensors | {"crops": torch.zeros(1, 2, 3, 3, dtype=torch.uint8)}), "crops"),
    ]  # fmt: skip
    for path, words in bad:
        with pytest.raises(CheckpointError, match=words):
            Identity.load(path)
    assert Identity.load(file).digest == identity.digest


def test_a_place_that_cannot_be_written(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        identity.save(tmp_path / "file" / "i.safetensors")


def _landmarks(points: np.ndarray, kind: str = "68") -> StoredLandmarks:
    count = len(points)
    return StoredLandmarks(
        points.astype(np.float32),
        np.full((count, 2), 300, np.int32),
        np.full(count, 0.03, np.float32),
        kind,
        "größe.onnx",
    )


def test_landmarks_travel_with_an_identity(tmp_path: Path) -> None:
    bare = plain(np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32))
    points = np.random.default_rng(1).uniform(0, 300, (2, 72, 2))
    points[0, 3] = np.nan  # hidden
    whole = dataclasses.replace(bare, landmarks=_landmarks(points))
    whole.save(tmp_path / "i.safetensors")
    loaded = Identity.load(tmp_path / "i.safetensors")
    assert loaded.digest == whole.digest != bare.digest
    for name in ("points", "sizes", "sigma"):
        found, kept = getattr(loaded.landmarks, name), getattr(whole.landmarks, name)
        assert np.array_equal(found, kept, equal_nan=True) and found.dtype == kept.dtype
    assert (loaded.landmarks.kind, loaded.landmarks.model) == ("68", "größe.onnx")
    moved = dataclasses.replace(bare, landmarks=_landmarks(points + 1))
    other = dataclasses.replace(bare, landmarks=_landmarks(points, "106"))
    assert len({whole.digest, moved.digest, other.digest}) == 3
    bare.save(tmp_path / "i.safetensors")
    assert Identity.load(tmp_path / "i.safetensors").landmarks is None


def test_refuses_damaged_landmarks(tmp_path: Path) -> None:
    from safetensors import safe_open

    points = np.random.default_rng(1).uniform(0, 300, (2, 72, 2))
    identity = plain(np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32))
    dataclasses.replace(identity, landmarks=_landmarks(points)).save(tmp_path / "i.safetensors")
    tensors = load_file(tmp_path / "i.safetensors")
    with safe_open(tmp_path / "i.safetensors", framework="pt") as opened:
        metadata = dict(opened.metadata())
    for changes, told, words in (
        ({"landmarks.points": tensors["landmarks.points"][:1]}, {}, r"\(1, 72, 2\) for 2"),
        ({"landmarks.points": tensors["landmarks.points"][:, :68]}, {}, r"\(2, 68, 2\)"),
        ({"landmarks.points": tensors["landmarks.points"] * float("inf")}, {}, "not finite"),
        ({"landmarks.points": tensors["landmarks.points"].bfloat16()}, {}, "bfloat16"),
        ({"landmarks.sizes": tensors["landmarks.sizes"] * 0}, {}, "picture sizes"),
        ({"landmarks.sigma": -tensors["landmarks.sigma"]}, {}, "outside 0..1"),
        ({"landmarks.more": torch.ones(1)}, {}, "landmarks.more"),
        ({}, {"landmark_kind": "five"}, "72 landmarks of the kind 'five'"),
    ):
        save_file(
            {k: v.contiguous() for k, v in (tensors | changes).items()}, tmp_path / "bad.safetensors", metadata | told
        )
        with pytest.raises(CheckpointError, match=words):
            Identity.load(tmp_path / "bad.safetensors")
    for key in ("landmarks.points", "landmarks.sizes"):
        save_file({k: v for k, v in tensors.items() if k != key}, tmp_path / "bad.safetensors", metadata)
        with pytest.raises(CheckpointError, match=key):
            Identity.load(tmp_path / "bad.safetensors")
    save_file(tensors, tmp_path / "bad.safetensors", {k: v for k, v in metadata.items() if k != "landmark_kind"})
    with pytest.raises(CheckpointError, match="landmark_kind"):
        Identity.load(tmp_path / "bad.safetensors")
