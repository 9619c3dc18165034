"""Any file that holds an adapter: FaceSnap's own, or one of the public families."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter
from facesnap.checkpoints.detection import FamilyMatch, WeightsFile
from facesnap.checkpoints.files import read_file
from facesnap.errors import CheckpointError
from facesnap.families import faceid, instantid, pulid
from facesnap.families.recipes import RECIPES
from facesnap.files import sha256_of

logger = logging.getLogger(__name__)

NATIVE = "facesnap"
FAMILIES = (NATIVE, *RECIPES)
MODULES: tuple[ModuleType, ...] = (faceid, instantid, pulid)


def load_adapter(path: Path | str, family: str | None = None, topology: Topology | None = None) -> Adapter:
    """Load an adapter of whatever kind; `Adapter.detection` tells which, and why that was chosen.

    Args:
        path: .safetensors, .bin, .pt or .pth.
        family: one of FAMILIES where tensors and name leave a choice, or None to find out.
        topology: of the UNet, only needed for UNets of another shape than SD1.5's and SDXL's.

    Raises:
        CheckpointError: no such file, damaged, hostile, of an unknown kind, or a choice is left open.
    """
    path = Path(path)
    if family is not None and family not in FAMILIES:
        raise CheckpointError(
            f"There is no family {family!r}.", expected=", ".join(FAMILIES), remedy="choose one of these"
        )
    file = read_file(path)
    if native.KEY in file.metadata or family == NATIVE:
        return native.load(path)
    source = WeightsFile(path, sha256_of(path), family or "")
    detection = decide(families_of(file.tensors), source, file.tensors)
    try:
        adapter: Adapter = _owner(detection.family).load(file.tensors, source, detection, topology)
    except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError) as error:  # odd sizes refused by torch
        raise CheckpointError(
            f"{path.name} looks like {RECIPES[detection.family].title}, but it cannot be built ({error}).",
            expected="the tensors of that family, with sizes that fit together",
            remedy="the file is damaged; fetch it again",
        ) from error
    logger.info("%s: %s (%s), %s", path.name, RECIPES[detection.family].title, adapter.spec.base, detection.why)
    return adapter


def families_of(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The public families that tensors can be of, by names and shapes alone (meta tensors will do).

    One; two that look alike, which `decide` tells apart; or none.
    """
    return next((found for module in MODULES if (found := module.families_of(tensors))), ())


def decide(options: Sequence[str], source: WeightsFile, names: Iterable[str] = ()) -> FamilyMatch:
    """Which of the families that `families_of` allows a file is, by what is known besides its tensors.

    Args:
        names: of its tensors, to say what else it may be where there is no option.

    Raises:
        CheckpointError: no family, an open choice, or the user's word contradicts the tensors.
    """
    if not options:
        raise CheckpointError(
            f"{source.path.name} is no adapter that FaceSnap knows: {_kind(sorted(names))}.",
            expected="FaceSnap's own, or " + ", ".join(recipe.title for recipe in RECIPES.values()),
            remedy="choose an adapter file; see `facesnap inspect FILE`",
        )
    detection: FamilyMatch = _owner(options[0]).decide(options, source)
    return detection


def _owner(family: str) -> ModuleType:
    return next(module for module in MODULES if family in module.FAMILIES)


def _kind(names: list[str]) -> str:
    """A guess for people at what a file is that is no adapter."""
    for mark, kind in (
        ("controlnet_cond_embedding", "it is a ControlNet, which goes with an adapter (convert --structure)"),
        ("input_hint_block", "it is a ControlNet, which goes with an adapter (convert --structure)"),
        ("lora_unet_", "it is a LoRA for the prompt"),
        ("_lora.", "it is a LoRA alone"),
        ("image_proj.proj.weight", "it is an IP-Adapter for pictures, without a recogniser"),
        ("image_proj.proj_in", "it is an IP-Adapter for pictures, without a recogniser"),
        ("image_proj.proj.3", "it is an IP-Adapter for pictures, without a recogniser"),
        ("id_encoder", "it is PhotoMaker"),
        ("FacialEncoder", "it is ConsistentID"),
        ("model.diffusion_model", "it is a Stable Diffusion model"),
        ("vision_model", "it is an image encoder"),
        ("visual.", "it is an image encoder"),
        ("down_blocks.", "it is a UNet alone"),
    ):
        if any(mark in name for name in names):
            return kind
    return f"its tensors begin with {', '.join(name[:60] for name in names[:3])}"
