"""One person of a generation: how much, where, when and in which pose they are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from facesnap.errors import SettingsError
from facesnap.families.pulid import MODES
from facesnap.pipeline.shape import PoseSettings


@dataclass(frozen=True)
class PersonSettings:
    """How much and where a person is wanted; see `facesnap.attach.Conditioning` for ranges.

    Attributes:
        strength: of the ID tokens; None takes the adapter's suggestion.
        s_struct: 0..5, weight of the CLIP branch (PlusV2 form only).
        start, end, block_strengths, region, pictures: as in Conditioning; region and pictures hold for FFRNet too.
        structure: strength of FFRNet's residuals, 0..10; 0 is off, None takes the adapter's suggestion.
        structure_start, structure_end: FFRNet's window of the sampling's progress.
        pose: of the face; None is the first reference's own.
        lora: 0..10, strength of the LoRA that the adapter brings; 0 is off, 1 is how it was trained.
        lora_in_region: the LoRA changes the region only; of use with a region.
        pulid_mode: "fidelity" (None is the same), or "style", which leaves more of the prompt's style; PuLID only.
        match_model_card: prepare and mix as the family's official example does where FaceSnap does otherwise; see
            `facesnap.families.base.OfficialPreprocessing`. A saved identity stays as it was made.
    """

    strength: float | None = None
    s_struct: float = 1.0
    start: float = 0.0
    end: float = 1.0
    block_strengths: Mapping[str, float] = field(default_factory=dict)
    region: Tensor | None = None
    pictures: frozenset[int] | None = None
    structure: float | None = None
    structure_start: float = 0.0
    structure_end: float = 1.0
    pose: PoseSettings | None = None
    lora: float = 1.0
    lora_in_region: bool = False
    pulid_mode: str | None = None
    match_model_card: bool = False

    def __post_init__(self) -> None:
        if self.pulid_mode not in (None, *MODES):
            raise SettingsError(
                f"PuLID's mode is {self.pulid_mode!r}.", expected=" or ".join(MODES), remedy="use one of these"
            )
        if not 0.0 <= self.s_struct <= 5.0:
            raise SettingsError(
                f"s_struct is {self.s_struct}.", expected="a number from 0 to 5", remedy="correct s_struct"
            )
