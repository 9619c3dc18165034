"""The mixers: FaceSnap's own (with its donors), or PuLID's two encoders."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from facesnap.models.mixer import FacialAttributeMixer, MixerConfig
from facesnap.models.pulid import PulidConfig, PulidMixer
from facesnap.models.tensors import on_meta

Mixer = FacialAttributeMixer | PulidMixer


def empty_mixer(state: Mapping[str, Tensor], *, shortcut: bool, dim_head: int) -> Mixer:
    """The mixer that a state dict describes, on the meta device.

    Raises:
        CheckpointError: a tensor that fixes a size is missing or of another shape.
    """
    with on_meta():
        if any(name.startswith("mapping_0.") for name in state):
            return PulidMixer(PulidConfig.from_state_dict(state, dim_head=dim_head))
        return FacialAttributeMixer(MixerConfig.from_state_dict(state, shortcut=shortcut, dim_head=dim_head))
