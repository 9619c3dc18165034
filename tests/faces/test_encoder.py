"""ImageEncoder against transformers' own model and processor on random weights, in every layout."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from facesnap.errors import EncoderError
from facesnap.faces.encoder import CLIP_MEAN, CLIP_STD, ImageEncoder, preprocess
from facesnap.faces.encoder_files import find_encoder, read_config

WIDTH, LAYERS, PATCH, SIZE = 128, 4, 16, 64


@pytest.fixture(scope="module")
def reference() -> CLIPVisionModelWithProjection:
    """Every parameter drawn anew, at a scale that keeps hidden states near 1."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=256,
        projection_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@pytest.fixture(scope="module")
def tensors(reference: CLIPVisionModelWithProjection) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in reference.state_dict().items() if not k.endswith("position_ids")}


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


def crops(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def expected_states(model: CLIPVisionModelWithProjection, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(pixel_values=pixels, output_hidden_states=True).hidden_states


def openclip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers -> OpenCLIP, written from OpenCLIP's side, independent of the code under test."""
    v, out = "vision_model.", {}
    out["visual.class_embedding"] = tensors[v + "embeddings.class_embedding"]
    out["visual.positional_embedding"] = tensors[v + "embeddings.position_embedding.weight"]
    out["visual.conv1.weight"] = tensors[v + "embeddings.patch_embedding.weight"]
    out["visual.proj"] = tensors["visual_projection.weight"].T.contiguous()
    for end in ("weight", "bias"):
        out[f"visual.ln_pre.{end}"] = tensors[v + f"pre_layrnorm.{end}"]
        out[f"visual.ln_post.{end}"] = tensors[v + f"post_layernorm.{end}"]
        for i in range(LAYERS):
            theirs, block = v + f"encoder.layers.{i}.", f"visual.transformer.resblocks.{i}."
            parts = [tensors[theirs + f"self_attn.{p}_proj.{end}"] for p in ("q", "k", "v")]
            out[block + f"attn.in_proj_{end}"] = torch.cat(parts)
            out[block + f"attn.out_proj.{end}"] = tensors[theirs + f"self_attn.out_proj.{end}"]
            out[block + f"ln_1.{end}"] = tensors[theirs + f"layer_norm1.{end}"]
            out[block + f"ln_2.{end}"] = tensors[theirs + f"layer_norm2.{end}"]
            out[block + f"mlp.c_fc.{end}"] = tensors[theirs + f"mlp.fc1.{end}"]
            out[block + f"mlp.c_proj.{end}"] = tensors[theirs + f"mlp.fc2.{end}"]
    return out


@pytest.mark.parametrize("layout", ["safetensors", "bin", "full clip", "openclip", "openclip full", "state_dict"])
def test_equals_transformers_in_every_layout(
    layout: str, tmp_path: Path, tensors: dict[str, torch.Tensor], reference: CLIPVisionModelWithProjection
) -> None:
    path = tmp_path / "e.bin"
    if layout == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(tensors, path)
    elif layout == "bin":
        torch.save(tensors, path)
    elif layout == "state_dict":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    elif layout == "full clip":
        text = {
            "text_model.embeddings.token_embedding.weight": torch.ones(3, 4),
            "logit_scale": torch.ones(()),
        }
        torch.save(tensors | text, path)
    elif layout == "openclip":
        torch.save(openclip(tensors), path)
    else:
        text = {
            "transformer.resblocks.0.ln_1.weight": torch.ones(3),
            "token_embedding.weight": torch.ones(3, 4),
        }
        torch.save(openclip(tensors) | text, path)
    encoder = ImageEncoder.load(path)
    pixels = preprocess(crops(SIZE), SIZE)
    states = expected_states(reference, pixels)
    levels = (-2, 0, 1, 3, -1)
    found = encoder.encode(crops(SIZE), levels)
    for level in levels:
        assert found[level].shape == (2, encoder.tokens, WIDTH) == (2, 17, WIDTH)
        assert (found[level] - states[level]).abs().max() <= 1e-6 * max(1.0, float(states[level].abs().max()))
    assert 0.1 < states[-2].std() < 10
    assert (found[-2] - found[-1]).abs().max() > 1e-2  # levels differ: the right one matters
    zero = expected_states(reference, torch.zeros(1, 3, SIZE, SIZE))[-2]
    assert (encoder.encode_zero()[-2] - zero).abs().max() <= 1e-6 * max(1.0, float(zero.abs().max()))
    assert (zero - found[-2][:1]).abs().max() > 1e-2
    assert encoder.name == f"ViT/16 {WIDTH}x{LAYERS} proj48"
    own = reference.vision_model.embeddings.class_embedding.detach().half().numpy().tobytes()
    assert encoder.fingerprint == hashlib.sha256(own).hexdigest()  # the same in every layout


@pytest.mark.parametrize("size", [224, 112, 256, 300])
def test_preprocess_equals_clip_image_processor(size: int) -> None:
    import transformers

    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    from PIL import Image

    pictures = [Image.fromarray(crop) for crop in crops(size)]
    theirs = torch.stack([torch.as_tensor(processor(p, return_tensors="pt").pixel_values[0]) for p in pictures])
    ours = preprocess(crops(size), 224)
    assert ours.shape == (2, 3, 224, 224)
    assert (ours - theirs).abs().max() <= 2e-6  # values reach 2.6
    assert (ours - preprocess(255 - crops(size), 224)).abs().max() > 1


def test_preprocess_constants() -> None:
    grey = np.full((1, 8, 8, 3), 255, np.uint8)
    expected = (1 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    assert np.allclose(preprocess(grey, 8)[0, :, 0, 0].numpy(), expected, atol=1e-6)


def test_many_crops_equal_single_ones(file: Path) -> None:
    encoder = ImageEncoder.load(file)
    many = encoder.encode(crops(SIZE, 19))[-2]
    single = torch.cat([encoder.encode(crop[None])[-2] for crop in crops(SIZE, 19)])
    assert (many - single).abs().max() <= 1e-5


def test_precision_is_its_own_under_autocast(file: Path) -> None:
    encoder = ImageEncoder.load(file)
    plain = encoder.encode(crops(SIZE))[-2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.encode(crops(SIZE))[-2], plain)
    half = ImageEncoder.load(file, dtype=torch.bfloat16).encode(crops(SIZE))[-2]
    assert half.dtype == torch.bfloat16 and 0 < (half.float() - plain).abs().max() < 0.5


def shapes(width: int, layers: int, projection: int, patch: int = 14, image: int = 224) -> dict[str, torch.Tensor]:
    empty = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": ((image // patch) ** 2 + 1, width),
        "visual_projection.weight": (projection, width),
    }
    empty |= {f"vision_model.encoder.layers.{i}.mlp.fc1.weight": (4 * width, width) for i in range(layers)}
    return {name: torch.empty(shape, device="meta") for name, shape in empty.items()}


@pytest.mark.parametrize(
    ("width", "layers", "projection", "heads", "act"),
    [
        (1280, 32, 1024, 16, "gelu"),
        (1664, 48, 1280, 16, "gelu"),
        (1024, 24, 768, 16, "quick_gelu"),
        (384, 12, 384, 6, "gelu"),
    ],
)
def test_configuration_of_the_published_encoders(
    width: int, layers: int, projection: int, heads: int, act: str, tmp_path: Path
) -> None:
    config = read_config(shapes(width, layers, projection), tmp_path / "x.bin")
    assert (config.width, config.layers, config.projection) == (width, layers, projection)
    assert (config.heads, config.hidden_act, config.image_size, config.patch) == (heads, act, 224, 14)
    assert config.chosen_by == {"heads": "rule", "hidden_act": "rule", "layer_norm_eps": "rule"}


def test_overrides_and_config_json(file: Path, tmp_path: Path) -> None:
    by_rule = ImageEncoder.load(file)
    stated = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    }
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": stated}), encoding="utf-8")
    beside = ImageEncoder.load(file)
    assert (beside.config.heads, beside.config.hidden_act) == (4, "quick_gelu")
    assert beside.config.chosen_by["heads"] == "config.json"
    forced = ImageEncoder.load(file, heads=8, hidden_act="gelu")
    assert (forced.config.heads, forced.config.chosen_by["heads"]) == (8, "override")
    outputs = [encoder.encode(crops(SIZE))[-2] for encoder in (by_rule, beside, forced)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3 and (outputs[0] - outputs[2]).abs().max() > 1e-3
    (tmp_path / "config.json").write_text(json.dumps(stated | {"hidden_size": 999}), encoding="utf-8")
    assert ImageEncoder.load(file).config == by_rule.config  # another model's config does not count
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(EncoderError, match="not valid JSON"):
        ImageEncoder.load(file)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil-was-here"),))


def test_refuses_damaged_hostile_and_foreign_files(
    file: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    def saved(name: str, content: dict) -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    key = "vision_model.encoder.layers.1.mlp.fc2.weight"
    whole = file.read_bytes()
    torch.save(tensors, tmp_path / "whole.bin")
    pickled = (tmp_path / "whole.bin").read_bytes()
    bad = [
        (tmp_path / "absent.safetensors", "does not exist"),
        (write("cut.safetensors", whole[: len(whole) // 2]), "cannot be read"),
        (write("cut.bin", pickled[: len(pickled) // 2]), "cannot be read"),
        (write("empty.bin", b""), "cannot be read"),
        (write("page.safetensors", b"<!DOCTYPE html><html></html>"), "cannot be read"),
        (write("evil.bin", pickle.dumps(Evil())), "cannot be read"),
        (saved("evil2.pt", {"a": Evil()}), "cannot be read"),
        (saved("list.pt", {"a": [1, 2]}), "holds no tensor"),
        (saved("other.pt", {"model.weight": torch.ones(2)}), "no CLIP vision model"),
        (saved("less.pt", {k: v for k, v in tensors.items() if k != key}), "1 missing"),
        (saved("more.pt", tensors | {"vision_model.extra": torch.ones(2)}), "1 not part of the network"),
        (saved("shape.pt", tensors | {key: torch.ones(3, 3)}), r"\(3, 3\) instead of \(128, 256\)"),
        (saved("nan.pt", tensors | {key: tensors[key] * float("nan")}), "no finite numbers"),
        (
            saved("grid.pt", tensors | {"vision_model.embeddings.position_embedding.weight": torch.ones(7, 128)}),
            "positions",
        ),
        (saved("openclip.pt", openclip(tensors) | {"visual.attnpool.q": torch.ones(2)}), "attnpool"),
        (
            saved("scalar.pt", tensors | {"vision_model.embeddings.class_embedding": torch.ones(())}),
            "missing",
        ),
    ]
    for path, words in bad:
        with pytest.raises(EncoderError, match=words):
            ImageEncoder.load(path)
    assert not Path("evil-was-here").exists() and not (tmp_path / "evil-was-here").exists()
    with pytest.raises(EncoderError, match="heads"):
        ImageEncoder.load(file, heads=3)
    with pytest.raises(EncoderError, match="Activation"):
        ImageEncoder.load(file, hidden_act="nonsense")
    encoder = ImageEncoder.load(file)
    for wrong in ([], [6], [-6]):
        with pytest.raises(EncoderError, match="Levels"):
            encoder.encode(crops(SIZE), wrong)
    for picture in (
        np.zeros((4, 5, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
    ):
        with pytest.raises(EncoderError, match="crop"):
            encoder.encode([picture])
    with pytest.raises(EncoderError, match="No crops"):
        encoder.encode([])


def test_find_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESNAP_MODELS", "")
    named = tmp_path / "clip_vision" / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
    named.parent.mkdir()
    named.write_bytes(b"x")
    folder = tmp_path / "CLIP" / "my-encoder"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert find_encoder("vit-h", [tmp_path]) == named
    assert find_encoder("clip-vit-h-14-laion2b-s32b-b79k", [tmp_path]) == named
    assert find_encoder("my-encoder", [tmp_path]) == folder / "pytorch_model.bin" == find_encoder(folder)
    assert find_encoder(named) == named
    with pytest.raises(EncoderError, match=r"clip_vision.*download"):
        find_encoder("vit-bigg", [tmp_path])
