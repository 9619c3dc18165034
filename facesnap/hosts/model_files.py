"""What lies on the disk of a diffusion model: the variants in a diffusers folder, the parts of a single file.

Everything is looked at before diffusers is called, whose messages are written for programmers.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from facesnap.checkpoints import foreign, layout, pickles
from facesnap.checkpoints.files import SAVE_AGAIN, read_outline
from facesnap.checkpoints.inert import OBJECTS
from facesnap.errors import CheckpointError, HostError

INDEX = "model_index.json"
NEEDED = ("unet", "vae", "text_encoder")  # of every base model; SDXL's index names text_encoder_2 as well
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
SINGLE_FILES = (".safetensors", ".ckpt")
_SHARD = r"(?:-\d{5}-of-\d{5})?"
WEIGHTS = re.compile(
    rf"(?:diffusion_pytorch_model|pytorch_model|model){_SHARD}(?:\.(?P<variant>\w+))?{_SHARD}\.(?:safetensors|bin)"
)
DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
# Parts of a single file: how their tensors' names begin.
FILE_PARTS = {
    "UNet": ("model.diffusion_model.",),
    "VAE": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner.embedders."),
}


def folder_index(folder: Path) -> dict[str, Any]:
    """Part of a pipeline -> [library, class], as a diffusers folder states it; parts that are left out are not in it.

    Raises:
        HostError: there is no index, or it cannot be read, or a part that every model needs has no weights.
    """
    file = folder / INDEX
    if not file.is_file():
        single = [one.name for one in sorted(folder.iterdir()) if one.suffix.lower() in SINGLE_FILES]
        inside = [one.name for one in sorted(folder.iterdir()) if (one / INDEX).is_file()]
        found = [f"the file {name} in it" for name in single[:3]] + [f"the folder {name} in it" for name in inside[:3]]
        raise _bad_folder(folder, f"it has no {INDEX}", f"give {' or '.join(found)}" if found else "")
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        parts = {key: value for key, value in listed.items() if isinstance(value, list) and len(value) == 2}
    except (OSError, ValueError, AttributeError) as error:
        raise _bad_folder(folder, f"its {INDEX} cannot be read ({error})") from error
    parts = {key: value for key, value in parts.items() if all(isinstance(one, str) for one in value)}
    empty = [key for key in parts if key.startswith(NEEDED) and not _variants(folder / key)]
    if empty:
        said = " and ".join(f"{key}/" for key in empty)
        raise _bad_folder(folder, f"{said} {'holds' if len(empty) == 1 else 'hold'} no weights")
    return parts


def variant_of(folder: Path, dtype: torch.dtype) -> str | None:
    """The variant ("fp16", "bf16", "non_ema") of a part's weights in a folder; "" for those without one, None where it
    has none. Of several the plain ones count, then those of the dtype, then those of half precision."""
    found = _variants(folder)
    wanted = ("", DTYPES.get(dtype, ""), "fp16", "bf16")
    order = sorted(found, key=lambda one: (wanted.index(one) if one in wanted else len(wanted), one == "non_ema", one))
    return order[0] if order else None


def _variants(folder: Path) -> set[str]:
    """Variants of the weights in a folder, shards and all."""
    names = [file.name for file in folder.iterdir() if not file.name.startswith(".")] if folder.is_dir() else []
    return {match["variant"] or "" for match in map(WEIGHTS.fullmatch, names) if match}


def special_parts(diffusers: Any, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Parts of a diffusers folder that its `from_pretrained` would not find: those in a variant, loaded, and optional
    ones that are not there, None."""
    found: dict[str, Any] = {}
    for part, (library, name) in folder_index(folder).items():
        variant = variant_of(folder / part, dtype)
        if part in OPTIONAL and not (folder / part).is_dir():
            found[part] = None
        elif variant:
            home = getattr(diffusers.pipelines, library, None) or importlib.import_module(library)
            kind = getattr(home, name)
            found[part] = kind.from_pretrained(str(folder / part), variant=variant, torch_dtype=dtype)
    return found


def is_sdxl(path: Path) -> bool:
    """Whether a single file is SDXL's, which has a second text encoder.

    Raises:
        HostError: it cannot be read, is no base model, or lacks a part.
    """
    names = _names(path)
    lacking = [part for part, starts in FILE_PARTS.items() if not any(name.startswith(starts) for name in names)]
    if "UNet" in lacking:
        raise HostError(
            f"{path.name} is no base model: {_other_kind(names)}.",
            expected="an SD1.5 or SDXL checkpoint with its UNet, VAE and text encoder",
            remedy="choose the base model's file; adapters, LoRAs and ControlNets are used beside one",
        )
    if lacking:
        raise HostError(
            f"{path.name} holds no {' and no '.join(lacking)}.",
            expected="a whole checkpoint: UNet, VAE and text encoder in one file",
            remedy="fetch the full version of this model (the larger file of the same page), or a diffusers folder of "
            f"it; in a WebUI, merge it with a model of its kind that has a {' and a '.join(lacking)}",
        )
    return any(name.startswith("conditioner.embedders.1.") for name in names)


def _other_kind(names: dict[str, torch.Tensor]) -> str:
    return "it is an adapter" if layout.split_parts(names) else foreign.kind_of(names)


def _names(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a single file, on the meta device."""
    try:
        file = read_outline(path)
    except CheckpointError as error:
        reason = error.what.removeprefix(f"{path.name} cannot be used: ").rstrip(".")
        raise HostError(
            f"{path.name} cannot be loaded: {reason}.", expected=error.expected, remedy=error.remedy
        ) from error
    if file.objects and not _is_harmless(path):
        raise HostError(
            f"{path.name} cannot be loaded: {OBJECTS} ({', '.join(file.objects)}), which diffusers would need.",
            expected="a base model of tensors alone",
            remedy=SAVE_AGAIN,
        )
    return file.tensors


def _is_harmless(path: Path) -> bool:
    """Whether torch itself, and so diffusers, reads a pickle with objects."""
    try:
        torch.serialization.load(str(path), map_location="meta", weights_only=True)
    except pickles.DAMAGE:
        return False
    return True


def _bad_folder(folder: Path, why: str, remedy: str = "") -> HostError:
    return HostError(
        f"The folder {folder.name} cannot be loaded: {why}.",
        expected=f"a diffusers folder: {INDEX}, and weights (.safetensors or .bin) in unet/, vae/ and text_encoder/",
        remedy=remedy or "download the whole folder again, or give a single-file checkpoint",
    )


def not_loaded(path: Path, error: Exception, config: bool) -> HostError:
    """The error for a model that diffusers does not load, although all its parts are there."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
    if path.is_dir():
        return _bad_folder(path, f"diffusers says: {reason}", "download it again; update diffusers if it is a new kind")
    return HostError(
        f"{path.name} cannot be loaded: diffusers says: {reason}.",
        expected="an SD1.5 or SDXL model",
        remedy="check the file, and that --config names a folder of the same base model" if config
        else "check the file; offline, a single-file checkpoint needs --config FOLDER with its configuration",
    )  # fmt: skip
