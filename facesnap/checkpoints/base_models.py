"""The kind of a base model by its file's header, before a WebUI has loaded it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from facesnap.checkpoints.files import read_outline
from facesnap.errors import CheckpointError

PREFIX = "model.diffusion_model."  # of the UNet in a checkpoint; files of a UNet alone have none
LATENT = 4  # channels, of SD1.5 and SDXL
BASES = {768: "sd15", 2048: "sdxl"}  # by the width of the context
OTHER_UNETS = {1024: "Stable Diffusion 2", 1280: "the refiner of SDXL"}
# The first whose parts are all there says it: parts of names, as the WebUIs tell their transformers apart.
TRANSFORMERS = (
    (("double_stream_modulation_img",), "Flux.2"),
    (("double_blocks", "distilled_guidance_layer"), "Chroma"),
    (("double_blocks",), "Flux"),
    (("single_transformer_blocks",), "Flux"),
    (("joint_blocks",), "Stable Diffusion 3"),
    (("cap_embedder", "cap_pad_token"), "Z-Image"),
    (("cap_embedder",), "Lumina 2"),
    (("head", "modulation", "cross_attn"), "Wan"),
    (("llm_adapter",), "Anima"),
    (("lq_proj",), "PiD"),
    (("txtfusion",), "Krea 2"),
    (("txt_norm", "transformer_blocks"), "Qwen Image"),
    (("layers", "linear_fc2"), "Ernie Image"),
)


@dataclass(frozen=True)
class BaseModel:
    """The kind of a base model.

    Attributes:
        base: "sd15" or "sdxl"; "" for one that FaceSnap cannot use, or that is not known.
        other: name of a kind that FaceSnap cannot use, or "".
    """

    base: str = ""
    other: str = ""


def read_base_model(path: Path) -> BaseModel:
    """The kind of the base model in a file. Remembered until size or time change.

    Returns an empty one where the file is not there, cannot be read or has no tensors that are known.
    """
    try:
        status = path.stat()
    except OSError:
        return BaseModel()
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, size: int, mtime_ns: int) -> BaseModel:
    try:
        return base_model_of(read_outline(path).tensors)
    except (CheckpointError, OSError):
        return BaseModel()


def base_model_of(tensors: Mapping[str, Tensor]) -> BaseModel:
    """The kind by names and shapes of a checkpoint's tensors, or of a UNet's alone (meta tensors will do)."""
    inside = {name.removeprefix(PREFIX): one for name, one in tensors.items() if name.startswith(PREFIX)} or tensors
    contexts = [one.shape[-1] for name, one in inside.items() if name.endswith(".attn2.to_k.weight") and one.ndim == 2]
    if not contexts or not any(name.startswith(("input_blocks.", "down_blocks.")) for name in inside):
        return BaseModel(other=_transformer(inside))
    context = contexts[0]
    if context in OTHER_UNETS:
        return BaseModel(other=OTHER_UNETS[context])
    last = inside.get("out.2.weight", inside.get("conv_out.weight"))
    if context in BASES and last is not None and last.shape[0] != LATENT:
        title = {"sd15": "SD1.5", "sdxl": "SDXL"}[BASES[context]]
        return BaseModel(other=f"a relative of {title} with a latent of {last.shape[0]} channels")
    return BaseModel(BASES.get(context, ""))


def _transformer(names: Mapping[str, Tensor]) -> str:
    parts = {part for name in names for part in name.split(".")}
    return next((name for marks, name in TRANSFORMERS if parts.issuperset(marks)), "")
