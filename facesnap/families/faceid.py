"""IP-Adapter FaceID, Plus, PlusV2, Portrait and its unnormalised form: stage 1 of the mixer, or stage 2 alone.

The unnormalised Portrait has InstantID's resampler; everything else has the two linear layers of FaceID, and Plus a
perceiver over CLIP tokens behind them. Tensor names are kept; they only move below `mixer.stage1` or `mixer.stage2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.checkpoints import build as parts
from facesnap.checkpoints import layout
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.checkpoints.detection import FamilyMatch, Hint, WeightsFile, choose
from facesnap.families.recipes import RECIPES, Recipe

FAMILIES = ("faceid", "faceid-plus", "faceid-plusv2", "portrait")
ID_TOKENS = 4  # of FaceID; Portrait has 16
VIT_H_WIDTH = 1280
# sha256 of published files where the tensors leave a choice.
HASHES = {"252fb53e": "faceid-plus", "26d0d86a": "faceid-plusv2", "c6945d82": "faceid-plusv2"}
HINTS = (
    Hint(r"plus.*v2|v2.*plus", "faceid-plusv2"),
    Hint(r"plus", "faceid-plus"),
    Hint(r"unnorm", "portrait-unnorm"),
    Hint(r"portrait", "portrait-unnorm"),
)
LORA_IN_PROMPT = re.compile(r"<lora:([^:>]*face[-_ ]?id[^:>]*)[:>]", re.IGNORECASE)


def families_of(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Those of FAMILIES whose tensors these can be, by names and shapes alone; Plus and PlusV2 look alike."""
    found = layout.split_parts(state)
    if found is None or "proj.2.weight" not in found["image_proj"] or "norm.weight" not in found["image_proj"]:
        return ()
    projection = found["image_proj"]
    if "perceiver_resampler.proj_in.weight" in projection:
        return ("faceid-plus", "faceid-plusv2")
    rows, width = projection["proj.2.weight"].shape[:1], projection["norm.weight"].shape[:1]
    tokens = rows[0] // width[0] if rows and width else 0
    return ("faceid",) if tokens <= ID_TOKENS else ("portrait",)


def decide(options: Sequence[str], source: WeightsFile) -> FamilyMatch:
    """Which of `families_of` it is.

    Raises:
        CheckpointError: Plus or PlusV2, and neither user, content nor name tells which; or the user's word is wrong.
    """
    return choose(options, source, hashes=HASHES, hints=HINTS)


def load(
    state: Mapping[str, Tensor], source: WeightsFile, detection: FamilyMatch, topology: Topology | None = None
) -> Adapter:
    """The adapter, LoRA included.

    Raises:
        CheckpointError: tensors missing, extra, of a wrong shape or not finite.
    """
    found = layout.split_parts(state)
    assert found is not None
    where = source.path.name
    stage, group = ("stage2", "mix") if detection.family == "portrait-unnorm" else ("stage1", "id")
    read = layout.read_processors(found["processors"], where, group, topology)
    tensors = {f"mixer.{stage}.{name}": tensor for name, tensor in found["image_proj"].items()} | read.tensors
    if read.lora is not None:
        tensors |= read.lora.tensors()
    clip = found["image_proj"].get("perceiver_resampler.proj_in.weight")
    recipe = RECIPES[detection.family]
    published = clip is not None and clip.ndim == 2 and clip.shape[1] == VIT_H_WIDTH
    # Another width than the published encoder's was trained with an encoder that the file does not name.
    spec = spec_of(recipe, detection.family, read.base, source, encoder=recipe.encoder if published else "")
    return parts.build(tensors, spec, None, None, where, source.sha256, detection)


def spec_of(recipe: Recipe, family: str, base: str, source: WeightsFile, *, encoder: str = "") -> AdapterSpec:
    """The spec that a recipe makes of a family's file."""
    return AdapterSpec(
        base=base,
        recogniser="",  # the file names none; see facesnap.faces.recognisers
        recogniser_name=recipe.recogniser,
        encoder_name=encoder,
        id_vector=recipe.id_vector,
        uncond=recipe.uncond,
        shortcut=family == "faceid-plusv2",
        rule=recipe.rule,
        zero_tokens=recipe.zero_tokens,
        strength=recipe.strength,
        name=source.path.stem,
        licence=recipe.licence,
        family=family,
    )


def loras_in_prompt(prompt: str) -> list[str]:
    """Names of FaceID LoRAs that a prompt asks for: the file's own LoRA is then applied twice."""
    return LORA_IN_PROMPT.findall(prompt)
