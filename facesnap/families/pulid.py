"""PuLID v1 and v1.1 for SDXL: an encoder of its own in the mixer's place, and ID projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.checkpoints import build as parts
from facesnap.checkpoints import layout
from facesnap.checkpoints.adapter import Adapter
from facesnap.checkpoints.detection import FamilyMatch, WeightsFile, choose
from facesnap.families import faceid
from facesnap.families.recipes import RECIPES

FAMILIES = ("pulid-v1", "pulid-v1.1")
TOWER_WIDTH = 1024  # of EVA02-CLIP-L's hidden states


def families_of(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """v1 or v1.1, by names alone; empty where it is neither."""
    found = layout.split_parts(state)
    if found is None or "mapping_0.0.weight" not in found["image_proj"]:
        return ()
    return ("pulid-v1.1",) if "latents" in found["image_proj"] else ("pulid-v1",)


def decide(options: Sequence[str], source: WeightsFile) -> FamilyMatch:
    """The one that `families_of` gave. Raises CheckpointError where the user's word is another."""
    return choose(options, source)


def load(
    state: Mapping[str, Tensor], source: WeightsFile, detection: FamilyMatch, topology: Topology | None = None
) -> Adapter:
    """The adapter, in fidelity mode; see `recipes.PULID_MODES`.

    Raises:
        CheckpointError: tensors missing, extra, of a wrong shape or not finite.
    """
    found = layout.split_parts(state)
    assert found is not None
    read = layout.read_processors(found["processors"], source.path.name, "id", topology)
    tensors = {f"mixer.{name}": tensor for name, tensor in found["image_proj"].items()} | read.tensors
    recipe = RECIPES[detection.family]
    states = found["image_proj"]["mapping_0.0.weight"]
    published = states.ndim == 2 and states.shape[1] == TOWER_WIDTH
    # Another width than the published tower's was trained with one that the file does not name.
    spec = faceid.spec_of(recipe, detection.family, read.base, source, encoder=recipe.encoder if published else "")
    return parts.build(tensors, spec, None, None, source.path.name, source.sha256, detection)
