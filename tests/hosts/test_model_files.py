"""Models as they lie on disks: folders in a variant, folders and single files that lack something."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from facesnap.demo import untrained
from facesnap.errors import HostError
from facesnap.hosts.diffusers import DiffusersHost
from facesnap.hosts.model_files import variant_of

PYTHON = re.compile(r"from_single_file|from_pretrained|weights_only|add_safe_globals|torch\.load|low_cpu_mem|kwargs|`")
UNET = "model.diffusion_model.input_blocks.0.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
TEXT = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained.save_pipeline(tmp_path_factory.mktemp("model") / "größe")


def renamed(folder: Path, variants: dict[str, str]) -> None:
    """Give the weights of these parts a variant's name."""
    for part, variant in variants.items():
        for file in list((folder / part).glob("*.safetensors")):
            file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def as_pickle(folder: Path, variants: dict[str, str]) -> None:
    for part, variant in variants.items():
        file = next((folder / part).glob("*.safetensors"))
        stem = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(load_file(file), file.with_name(f"{stem}.{variant}.bin"))
        file.unlink()


def sharded(folder: Path, variants: dict[str, str]) -> None:
    """Two files and their index, as diffusers writes them."""
    if "force_hooks" not in inspect.signature(accelerate.load_checkpoint_and_dispatch).parameters:
        pytest.skip("this accelerate is older than diffusers' shards")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    for part, variant in variants.items():
        shutil.rmtree(folder / part)
        size = sum(t.numel() * 4 for t in getattr(pipeline, part).state_dict().values())
        getattr(pipeline, part).save_pretrained(folder / part, variant=variant, max_shard_size=size * 2 // 3)
        assert len(list((folder / part).glob("*.safetensors"))) >= 2


def shards_of_old_versions(folder: Path, variants: dict[str, str]) -> None:
    """The variant behind the number."""
    sharded(folder, variants)
    for part, variant in variants.items():
        for file in list((folder / part).glob(f"*.{variant}-*")):
            stem, number = file.stem.split(f".{variant}")
            file.rename(file.with_name(f"{stem}{number}.{variant}.safetensors"))
        index = next((folder / part).glob("*.index*.json"))
        index.write_text(re.sub(rf"\.{variant}(-\d+-of-\d+)\.", rf"\1.{variant}.", index.read_text("utf-8")), "utf-8")


ALL = {"unet": "fp16", "vae": "fp16", "text_encoder": "fp16"}
FOLDERS: dict[str, tuple[Callable[[Path, dict[str, str]], None], dict[str, str]]] = {
    "fp16": (renamed, ALL),
    "bf16": (renamed, dict.fromkeys(ALL, "bf16")),
    "non_ema": (renamed, {"unet": "non_ema"}),
    "the UNet alone": (renamed, {"unet": "fp16"}),
    "two variants": (renamed, ALL | {"vae": "bf16"}),
    "pickles": (as_pickle, ALL),
    "shards": (sharded, {"unet": "fp16"}),
    "shards of old versions": (shards_of_old_versions, {"unet": "fp16"}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_variant_is_found_by_what_lies_in_the_folder(plain: Path, tmp_path: Path, name: str) -> None:
    change, variants = FOLDERS[name]
    folder = shutil.copytree(plain, tmp_path / "model")
    change(folder, variants)
    (folder / "unet" / "LICENSE").write_text("x", encoding="utf-8")
    found, before = (DiffusersHost.load(one, device="cpu").pipeline for one in (folder, plain))
    for part in ALL:
        theirs = getattr(before, part).state_dict()
        assert all(torch.equal(t, theirs[k]) for k, t in getattr(found, part).state_dict().items()), part


def test_of_several_variants_the_plain_weights_count(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "model") / "unet"
    for variant in ("fp16", "bf16", "non_ema", "fp32"):
        shutil.copy(folder / "diffusion_pytorch_model.safetensors", folder / f"diffusion_pytorch_model.{variant}.bin")
    (folder / "._diffusion_pytorch_model.safetensors").write_bytes(b"macOS")
    assert variant_of(folder, torch.float16) == ""
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    kinds = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    assert {dtype: variant_of(folder, dtype) for dtype in kinds} == kinds
    for variant in ("fp32", "fp16", "bf16"):
        (folder / f"diffusion_pytorch_model.{variant}.bin").unlink()
    assert variant_of(folder, torch.float16) == "non_ema" and variant_of(folder / "none", torch.float16) is None


def test_an_optional_part_that_is_not_there_is_left_out(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
              "feature_extractor": ["transformers", "CLIPImageProcessor"]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert DiffusersHost.load(folder, device="cpu").pipeline.safety_checker is None


def refused(path: Path, word: str) -> str:
    with pytest.raises(HostError, match=word) as caught:
        DiffusersHost.load(path, device="cpu")
    said = str(caught.value)
    assert path.name in said and not PYTHON.search(said), said
    return said


def test_a_folder_is_spoken_of_as_a_folder(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "model")
    shutil.rmtree(folder / "vae")
    said = refused(folder, "vae/ holds no weights")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    said += refused(folder, "unet/ and vae/ hold no weights|vae/ and unet/ hold no weights")
    (folder / "model_index.json").write_text("{", encoding="utf-8")
    said += refused(folder, r"model_index\.json cannot be read")
    assert "--config" not in said and "single-file checkpoint needs" not in said
    (folder / "model_index.json").unlink()
    refused(folder, "no model_index")
    (folder / "v1-5.safetensors").write_bytes(b"x")
    refused(folder, r"give the file v1-5\.safetensors")
    shutil.copytree(plain, tmp_path / "outer" / "snapshot")
    refused(tmp_path / "outer", "give the folder snapshot")
    damaged = shutil.copytree(plain, tmp_path / "damaged")
    file = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert "--config" not in refused(damaged, "The folder damaged cannot be loaded")


class Callback:
    """An object, as Lightning keeps them beside the weights."""


@pytest.mark.parametrize("suffix", (".safetensors", ".ckpt"))
@pytest.mark.parametrize(
    ("names", "word"),
    (
        ((UNET,), "no VAE and no text encoder.*full version"),
        ((UNET, VAE), "holds no text encoder"),
        ((UNET, TEXT), "holds no VAE"),
        ((VAE, TEXT), "is no base model"),
        (("input_blocks.0.0.weight",), "it is a UNet alone"),
        (("lora_unet_x.lora_down.weight",), "it is a LoRA"),
        (("double_blocks.0.img_attn.proj.weight",), "made for FLUX"),
        (("image_proj.proj.0.weight", "ip_adapter.1.to_k_ip.weight"), "is no base model: it is an adapter"),
    ),
)
def test_a_single_file_names_the_parts_that_it_lacks(tmp_path: Path, names: tuple, word: str, suffix: str) -> None:
    path, tensors = tmp_path / f"model{suffix}", {name: torch.ones(2, 2) for name in names}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)
    refused(path, word)


@pytest.mark.parametrize(
    ("content", "word"),
    (
        (b"", "0 bytes"),
        (bytes(40), "begins with zeros"),
        (b"\1" * 40, "no archive of torch"),
        (b"GGUF" + bytes(40), "a GGUF file"),
    ),
)
def test_a_file_that_is_none_does_not_ask_for_a_configuration(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "model.ckpt").write_bytes(content)
    assert "--config" not in refused(tmp_path / "model.ckpt", word)


def test_pickles_with_objects_are_not_read_and_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "epoch=3.ckpt"
    content = {"state_dict": {n: torch.ones(2, 2) for n in (UNET, VAE, TEXT)}, "global_step": 3}
    torch.save(content | {"callbacks": {"x": Callback()}}, path)
    assert ".safetensors" in refused(path, "Python objects.*Callback")
    torch.save(content | {"shape": torch.Size([1])}, path)  # harmless for torch: the refusal is diffusers' own
    assert "Python objects" not in refused(path, "cannot be loaded")
