"""CLIP vision files as found in WebUI folders -> a state dict in transformers' layout and its sizes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from facesnap.checkpoints.files import SUFFIXES, read_file
from facesnap.errors import CheckpointError, EncoderError
from facesnap.faces.known import ENCODER_FILES, ENCODER_HUB_FILES, ENCODER_SOURCES, advice
from facesnap.faces.packs import model_roots, webui_roots
from facesnap.models.tensors import load_strictly
from facesnap.remedies import remedy

StateDict = dict[str, torch.Tensor]

ENCODER_PARENTS = (
    "FaceSnap",
    "clip_vision",
    "ControlNet",
    "CLIP",
    "ControlNetPreprocessor",
    "ControlNetPreprocessor/clip_vision",
)
ANNOTATOR_PARENT = "extensions/sd-webui-controlnet/annotator/downloads/clip_vision"
FOLDER_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# Attention heads are not in the tensors: by width, as published; any other width has heads of 64.
HEADS_BY_WIDTH = {1280: 16, 1408: 16, 1664: 16}

# OpenCLIP's names below "visual." -> transformers' below "vision_model.", for tensors that only change name.
OPENCLIP_NAMES = (
    (r"conv1\.weight", r"embeddings.patch_embedding.weight"),
    (r"class_embedding", r"embeddings.class_embedding"),
    (r"positional_embedding", r"embeddings.position_embedding.weight"),
    (r"ln_pre\.(weight|bias)", r"pre_layrnorm.\1"),
    (r"ln_post\.(weight|bias)", r"post_layernorm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(weight|bias)", r"encoder.layers.\1.layer_norm\2.\3"),
    (
        r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(weight|bias)",
        r"encoder.layers.\1.self_attn.out_proj.\2",
    ),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(weight|bias)", r"encoder.layers.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(weight|bias)", r"encoder.layers.\1.mlp.fc2.\2"),
)
IN_PROJECTION = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


@dataclass(frozen=True)
class VisionConfig:
    """A CLIP vision transformer, read off its tensors.

    Attributes:
        heads, hidden_act, layer_norm_eps: not in the tensors; see read_config.
        chosen_by: where each of those three came from: "override", "config.json" or "rule".
    """

    width: int
    layers: int
    intermediate: int
    patch: int
    image_size: int
    projection: int
    heads: int
    hidden_act: str
    layer_norm_eps: float
    chosen_by: dict[str, str]


def read_tensors(path: Path) -> StateDict:
    """Every tensor of a .safetensors, .bin, .pt or .pth file, read as checkpoints are: nothing in it is executed."""
    if not path.is_file():
        raise EncoderError(
            f"Encoder file {path} does not exist.",
            expected="a CLIP vision model as .safetensors, .bin, .pt or .pth.",
            remedy=f"check the path; {remedy('see where files lie')}",
        )
    try:
        return read_file(path).tensors
    except CheckpointError as error:
        raise EncoderError(
            f"Encoder file {path} cannot be read ({error.what})",
            expected="a complete file that holds tensors only; code in a pickle is never run.",
            remedy="download it again, if possible as .safetensors.",
        ) from error


def fill(model: torch.nn.Module, tensors: StateDict, path: Path, network: str) -> None:
    """Give a module on the meta device its tensors, after a check of all names, shapes and values.

    Raises:
        EncoderError: a tensor is missing, unknown, of another shape or not finite. path, network: for the message.
    """
    odd = [name for name, t in tensors.items() if not t.is_floating_point() or not torch.isfinite(t).all()]
    if odd:
        raise EncoderError(
            f"{path}: {len(odd)} tensors of the {network} hold no finite numbers, such as {odd[0][:80]}.",
            expected="finite weights",
            remedy="download the file again",
        )
    try:
        load_strictly(model, tensors, network=network)
    except CheckpointError as error:
        raise EncoderError(f"{path}: {error.what}", expected=error.expected, remedy=error.remedy) from error


def vision_tensors(tensors: StateDict, path: Path) -> StateDict:
    """The vision half in transformers' names, of either layout, from a full CLIP or a vision model alone."""
    if "vision_model.embeddings.class_embedding" in tensors:
        kept = ("vision_model.", "visual_projection.")
        return {k: v for k, v in tensors.items() if k.startswith(kept) and not k.endswith("position_ids")}
    for prefix in ("visual.", ""):
        if prefix + "conv1.weight" in tensors and prefix + "class_embedding" in tensors:
            visual = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            return _from_openclip(visual, path)
    shown = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise EncoderError(
        f"{path} is no CLIP vision model: its tensors begin with {shown}.",
        expected="vision_model.embeddings.class_embedding (transformers), visual.class_embedding (OpenCLIP).",
        remedy="use an image encoder such as CLIP-ViT-H-14-laion2B-s32B-b79K.",
    )


def _from_openclip(visual: StateDict, path: Path) -> StateDict:
    result: StateDict = {}
    unknown = []
    for name, tensor in visual.items():
        if name == "proj":
            result["visual_projection.weight"] = tensor.t().contiguous()  # (width, proj) -> (proj, width)
        elif match := IN_PROJECTION.fullmatch(name):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):  # (3 * width, ...) -> 3 of (width, ...)
                result[f"vision_model.encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"] = piece.contiguous()
        elif new := _renamed(name):
            result[f"vision_model.{new}"] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise EncoderError(
            f"{path}: tensors that no CLIP ViT has: {', '.join(sorted(unknown)[:5])}.",
            expected="OpenCLIP's plain vision transformer.",
            remedy="use the ViT-H/14, ViT-bigG/14 or ViT-L/14 that the adapter was trained with.",
        )
    return result


def _renamed(name: str) -> str | None:
    for pattern, replacement in OPENCLIP_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return None


def read_config(
    tensors: StateDict, path: Path, heads: int | None = None, hidden_act: str | None = None
) -> VisionConfig:
    """Configuration by tensor shapes; for what they do not say: override, then config.json, then a rule.

    A config.json beside the file counts only if its width and depth are those of the tensors. The rules: 16
    heads for the widths 1280, 1408 and 1664, heads of 64 otherwise; quick_gelu for OpenAI's ViT-L/14 (width
    1024, 24 layers, projection 768), gelu otherwise; layer_norm_eps 1e-5.
    """
    try:
        width = tensors["vision_model.embeddings.class_embedding"].shape[0]
        patch = tensors["vision_model.embeddings.patch_embedding.weight"].shape[-1]
        positions = tensors["vision_model.embeddings.position_embedding.weight"].shape[0]
        intermediate = tensors["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0]
        projection = tensors["visual_projection.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise EncoderError(
            f"{path}: the tensor {error} is missing or has too few axes.",
            expected="a complete CLIP vision model with its projection.",
            remedy="download the file again.",
        ) from error
    grid = round((positions - 1) ** 0.5)
    if grid * grid + 1 != positions:
        raise EncoderError(
            f"{path}: {positions} positions.",
            expected="one for the class token and a square grid of patches.",
            remedy="use a CLIP model for square pictures.",
        )
    found = (re.match(r"vision_model\.encoder\.layers\.(\d+)\.", name) for name in tensors)
    layers = 1 + max(int(match[1]) for match in found if match)
    beside = _config_beside(path, width, layers)
    openai_l = (width, layers, projection) == (1024, 24, 768)
    usual_heads = HEADS_BY_WIDTH.get(width, width // 64 if width % 64 == 0 else 0)
    sources = {
        "heads": (heads, beside.get("num_attention_heads"), usual_heads),
        "hidden_act": (hidden_act, beside.get("hidden_act"), "quick_gelu" if openai_l else "gelu"),
        "layer_norm_eps": (None, beside.get("layer_norm_eps"), 1e-5),
    }
    chosen, values = {}, {}
    for key, options in sources.items():
        named = zip(("override", "config.json", "rule"), options, strict=True)
        chosen[key], values[key] = next((where, value) for where, value in named if value is not None)
    if not isinstance(values["heads"], int) or values["heads"] < 1 or width % values["heads"]:
        raise EncoderError(
            f"{path}: {values['heads']} attention heads for width {width} (by {chosen['heads']}).",
            expected="a number of heads that divides the width.",
            remedy="pass heads=..., or put the model's config.json beside the file.",
        )
    return VisionConfig(
        width=width,
        layers=layers,
        intermediate=intermediate,
        patch=patch,
        image_size=grid * patch,
        projection=projection,
        heads=values["heads"],
        hidden_act=str(values["hidden_act"]),
        layer_norm_eps=float(str(values["layer_norm_eps"])),
        chosen_by=chosen,
    )


def _config_beside(path: Path, width: int, layers: int) -> dict:
    file = path.parent / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{file} is not valid JSON ({error}).",
            expected="transformers' config.json.",
            remedy="remove or replace it.",
        ) from error
    config = config.get("vision_config", config) if isinstance(config, dict) else {}
    # A folder of several encoders has at most one config.json: it speaks only for the one it fits.
    fits = config.get("hidden_size") == width and config.get("num_hidden_layers") == layers
    return config if fits else {}


def find_encoder(name: str | os.PathLike, model_dirs: Iterable[str | os.PathLike] = ()) -> Path:
    """An encoder file by path, by the folder it is in, by file name, or by a key of `ENCODER_FILES` such as "vit-h".

    Raises:
        EncoderError: it is in none of the usual places; says which, and where to download it.
    """
    direct = Path(name).expanduser()
    if direct.is_file():
        return direct
    if direct.is_dir() and (file := _file_in(direct)):
        return file
    key = str(name).lower()
    stems = [stem.lower() for stem in ENCODER_FILES.get(key, ())] + [key]
    parents = encoder_parents(model_dirs)
    for parent in parents:
        if not parent.is_dir():
            continue
        for entry in sorted(parent.iterdir()):
            if (
                entry.is_file()
                and entry.suffix.lower() in SUFFIXES
                and {entry.name.lower(), entry.stem.lower()} & set(stems)
            ):
                return entry
            if entry.is_dir() and entry.name.lower() in stems and (file := _file_in(entry)):
                return file
    if key in ENCODER_HUB_FILES:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(*ENCODER_HUB_FILES[key])
        if isinstance(cached, str):
            return Path(cached)
    source = ENCODER_SOURCES.get(key, f"the encoder that the adapter names, for example {ENCODER_SOURCES['vit-h']}")
    places = ", ".join(map(str, parents)) or "no model folder is known"
    raise EncoderError(
        f"Image encoder '{name}' was not found.",
        expected=f"a file, or one of that name in: {places}.",
        remedy=f"{advice(key, f'download {source}')}, or give its path.",
    )


def encoder_parents(model_dirs: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Folders that may hold encoder files, in search order."""
    roots = model_roots(model_dirs)
    parents = [root / parent for root in roots for parent in (*ENCODER_PARENTS, ".")]
    return list(dict.fromkeys(parents + [root / ANNOTATOR_PARENT for root in webui_roots()]))


def _file_in(folder: Path) -> Path | None:
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
