"""PuLID v1 and v1.1 for SDXL: an encoder of its own in the mixer's place, and ID projections.

The suggested CFG scale is that of app_v1_1.py (ToTheBeginning/PuLID) with a model that is not distilled; v1's example
only runs SDXL-Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facesnap.attach.conditioning import Rule
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.known import EVA_TOWER, OWN, PACK_TERMS, RESEARCH_ONLY, File, Item
from facesnap.faces.tower import TowerEncoder
from facesnap.families.base import OfficialPreprocessing, id_vectors
from facesnap.families.ip_adapter import IPAdapterFamily
from facesnap.models.layers import TokenGroup
from facesnap.models.mixers import Mixer
from facesnap.models.pulid import TOWER_LEVELS, PulidMixer

STATES = "mapping_0.0.weight"
# (rule, zero tokens): PuLID's own recipe, and one that leaves the prompt's style alone.
MODES = {"fidelity": (Rule.ORTHO_V2, 8), "style": (Rule.ORTHO, 16)}


@dataclass(frozen=True, kw_only=True, eq=False)
class PuLID(IPAdapterFamily):
    """Five hidden states and the class vector of EVA-CLIP's tower beside the recogniser's vector.

    Attributes:
        queries: v1.1's form, which looks at all references together.
    """

    queries: bool

    def is_projection(self, projection: Mapping[str, Tensor]) -> bool:
        return STATES in projection and ("latents" in projection) == self.queries

    def missing(self, adapter: Adapter, identity: Identity) -> list[str]:
        assert isinstance(adapter.mixer, PulidMixer)
        found, config = super().missing(adapter, identity), adapter.mixer.config
        if identity.class_vectors is None or identity.class_vectors.shape[1] != config.class_width:
            found.append(f"class vectors {config.class_width} wide")
        if any(states.shape[2] != config.clip_width for states in identity.hidden.values()):
            found.append(f"hidden states {config.clip_width} wide")
        return found

    def tokens(
        self, mixer: Mixer, identity: Identity, spec: AdapterSpec, s_struct: float, official: OfficialPreprocessing
    ) -> dict[str, TokenGroup]:
        """Of each reference's own vector, class vector and hidden states."""
        assert identity.class_vectors is not None  # see `missing`
        return mixer(
            id_vectors(identity, spec.id_vector)[None],  # (1, R, 512)
            {level: identity.hidden[level].float()[None] for level in mixer.config.clip_levels},  # (1, R, P, W)
            class_vector=identity.class_vectors.float()[None],  # (1, R, V)
            weights=torch.from_numpy(identity.weights)[None],  # (1, R)
            s_struct=s_struct,
            join=official.joins,
        )

    def unconditional(
        self,
        mixer: Mixer,
        encoder: FaceEncoder | None,
        spec: AdapterSpec,
        s_struct: float,
        official: OfficialPreprocessing,
        references: int,
    ) -> dict[str, TokenGroup]:
        """Of zeros in the place of every input."""
        assert isinstance(mixer, PulidMixer)
        return mixer.unconditional(references if official.joins else 1)


def _download(version: str, megabytes: float, suffix: str, sha256: str = "") -> tuple[Item, ...]:
    file = f"pulid_v{version}{suffix}"
    licence = f"Apache-2.0; it needs antelopev2, which is for {PACK_TERMS}"
    files = (File(file, f"{OWN}/{file}", megabytes, None, sha256),)
    name, title = f"pulid-v{version}", f"PuLID v{version}"
    return (Item(name, title, "adapter for SDXL", "adapter", licence, files, "guozinan/PuLID", "sdxl"),)


_PULID: dict[str, Any] = {
    "licence": f"Apache-2.0; its insightface pack is for {RESEARCH_ONLY}",
    "part": "",
    "mixer_type": PulidMixer,
    "recogniser": "glintr100",
    "id_vector": "raw",
    "uncond": "zeros",
    "rule": MODES["fidelity"][0],
    "zero_tokens": MODES["fidelity"][1],
    "modes": MODES,
    "encoder": EVA_TOWER,
    "encoder_type": TowerEncoder,
    "encoder_kind": "an image tower",
    "probe": (STATES, 1024),
    "levels": TOWER_LEVELS,
    "crop": "aligned to 512 x 512, background white, face grey, bicubic to 336",
    "strength": 0.8,
}

FAMILIES = (
    PuLID(
        key="pulid-v1", title="PuLID v1", queries=False,
        official_preprocessing=OfficialPreprocessing(joins=True, longest=1024),
        downloads=_download("1", 1580, ".bin"), **_PULID,
    ),
    PuLID(
        key="pulid-v1.1", title="PuLID v1.1", queries=True, cfg=7.0,
        official_preprocessing=OfficialPreprocessing(longest=1024),
        downloads=_download("1.1", 984, ".safetensors",
                            "4cb8ceec1078e0165399b88332ab3c5971619111b8e1730e6bae64144aabae41"), **_PULID,
    ),
)  # fmt: skip
