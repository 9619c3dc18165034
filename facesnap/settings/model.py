"""Settings of one generation, declared: the single source of UI, API, infotext, X/Y/Z and documentation."""

# ruff: noqa: RUF009 (`setting` is dataclasses.field with a declaration)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facesnap.errors import SettingsError
from facesnap.settings.field_types import (
    Blocks,
    Choice,
    ExpressionMix,
    FaceChoice,
    Number,
    PicturesType,
    PictureType,
    RegionType,
    Switch,
    Text,
)
from facesnap.settings.fields import setting, table

VERSION = 1  # of the settings as the API has them: goes up when a key changes its meaning or goes
PEOPLE = 3  # shown in the UI; a WebUI option raises it
MOST_PEOPLE = 8
PRESETS: dict[str, dict[str, Any]] = {
    "Faithful": {"speed": "exact", "strength": 1.0, "structure": 1.0, "start": 0.0, "end": 1.0,
                 "structure_start": 0.0, "structure_end": 1.0},
    "Balanced": {"speed": "balanced", "strength": 0.8, "structure": 0.8, "start": 0.0, "end": 1.0,
                 "structure_start": 0.0, "structure_end": 0.9},
    "Creative": {"speed": "balanced", "strength": 0.6, "structure": 0.5, "start": 0.05, "end": 0.9,
                 "structure_start": 0.0, "structure_end": 0.6},
    "Fast": {"speed": "fast", "strength": 0.8, "structure": 0.8, "start": 0.0, "end": 1.0,
             "structure_start": 0.0, "structure_end": 0.6},
}  # fmt: skip
PRESET = "Balanced"
_BASE = PRESETS[PRESET]
POSE_SOURCES = ("none", "reference", "picture", "init", "canvas")
_SHARE = Number(0.0, 1.0, 0.01)
_WEIGHT = Number(0.0, 2.0, 0.05)


@dataclass(frozen=True)
class Pose:
    """Where pose and expression come from. Numbers replace the source's own; None keeps them (canvas: the default)."""

    source: str = setting(
        Choice(POSE_SOURCES), "reference", "Pose source",
        "none: the prompt decides (no landmarks). reference: as in the reference photo. picture: as in the pose "
        "picture. init: as in the picture that img2img starts from. canvas: as drawn.", infotext="pose",
    )  # fmt: skip
    image: Any = setting(PictureType(), None, "Pose picture", "A photo whose pose and expression are taken over.")
    yaw: float | None = setting(
        Number(-90, 90, 1), None, "Yaw", "Degrees; positive turns the face to the picture's right.", infotext="yaw"
    )
    pitch: float | None = setting(
        Number(-60, 60, 1), None, "Pitch", "Degrees; positive makes the face look up.", infotext="pitch"
    )
    roll: float | None = setting(
        Number(-180, 180, 1), None, "Roll", "Degrees; positive tilts the head to the picture's right.", infotext="roll"
    )
    x: float | None = setting(
        Number(-1, 2, 0.01), None, "Face centre x", "Fraction of the picture's width.", infotext="x"
    )
    y: float | None = setting(
        Number(-1, 2, 0.01), None, "Face centre y", "Fraction of the picture's height.", infotext="y"
    )
    size: float | None = setting(
        Number(0.02, 2, 0.01), None, "Face size",
        "Brows to chin, as a fraction of the picture's shorter side.", infotext="size",
    )  # fmt: skip
    expression: Any = setting(
        ExpressionMix(), None, "Expression",
        'Presets with amounts 0 to 1, such as "smile:0.8+wink_left"; left and right are the person\'s own. Empty: '
        "the source's own.", infotext="expression",
    )  # fmt: skip
    framing: str = setting(
        Choice(("keep framing", "true size")), "keep framing", "Framing",
        "keep framing: the head as large as the pose source's. true size: the person's own size before the same "
        "camera.", infotext="framing",
    )  # fmt: skip

    @property
    def numbers(self) -> dict[str, float]:
        """Those of yaw, pitch, roll, x, y and size that are given."""
        return {name: getattr(self, name) for name in POSE_NUMBERS if getattr(self, name) is not None}


POSE_NUMBERS = ("yaw", "pitch", "roll", "x", "y", "size")


@dataclass(frozen=True)
class Person:
    """One person: who, how much, where and in which pose. Either references or a saved identity."""

    references: tuple[Any, ...] = setting(
        PicturesType(), (), "Reference photos", "One or several photos of the person; more are better."
    )
    identity: str = setting(
        Text(("none",)), "", "Identity", "A saved identity, instead of photos.", infotext="identity"
    )
    strength: float = setting(
        _WEIGHT, _BASE["strength"], "Strength",
        "Weight of the ID tokens: how much the face is the person's. 0 is off.", infotext="strength", preset=True,
    )  # fmt: skip
    structure: float = setting(
        _WEIGHT, _BASE["structure"], "Structure strength",
        "Weight of the landmarks: how closely shape and pose are followed. 0 is off; used by adapters that have this "
        "network.", infotext="structure", preset=True,
    )  # fmt: skip
    face: str = setting(
        FaceChoice(), "largest", "Face choice",
        "Which face of a reference with several: largest, leftmost, central, or a number from 0 (the largest).",
        infotext="face",
    )  # fmt: skip
    start: float = setting(
        _SHARE, _BASE["start"], "Start", "Share of the sampling after which the ID tokens act.",
        infotext="start", preset=True,
    )  # fmt: skip
    end: float = setting(
        _SHARE, _BASE["end"], "End", "Share of the sampling until which the ID tokens act.",
        infotext="end", preset=True,
    )  # fmt: skip
    structure_start: float = setting(
        _SHARE, _BASE["structure_start"], "Structure start", "Share of the sampling after which the landmarks act.",
        infotext="structure start", preset=True,
    )  # fmt: skip
    structure_end: float = setting(
        _SHARE, _BASE["structure_end"], "Structure end", "Share of the sampling until which the landmarks act.",
        infotext="structure end", preset=True,
    )  # fmt: skip
    s_struct: float = setting(
        Number(0, 5, 0.05), 1.0, "CLIP weight",
        "Weight of the CLIP branch inside the mixer; only adapters of the PlusV2 form use it.", infotext="s_struct",
    )  # fmt: skip
    lora: float = setting(
        _WEIGHT, 1.0, "LoRA strength",
        "Weight of the LoRA that FaceID files bring: 1 is how they were trained, 0 is off.", infotext="lora",
    )  # fmt: skip
    lora_in_region: bool = setting(
        Switch(), False, "LoRA inside the region only", "The LoRA changes the region only; of use with a region.",
        infotext="lora in region",
    )  # fmt: skip
    blocks: Any = setting(
        Blocks(), {}, "Block strengths",
        'Factors by UNet block or site, such as "middle=0.5 output.3=0.8"; others are 1.', infotext="blocks",
    )  # fmt: skip
    region: Any = setting(
        RegionType(), None, "Region",
        'Where the person is: left, top, width and height as fractions, such as "0 0 0.5 1", or a mask picture. '
        "Empty: everywhere.", infotext="region",
    )  # fmt: skip
    pose: Pose = Pose()

    @property
    def empty(self) -> bool:
        """Whether nobody is named."""
        return not self.references and not self.identity

    def require(self, number: int) -> None:
        """Raise a SettingsError where nobody is named, or somebody twice. number: the person's, from 1."""
        if self.empty:
            raise _nobody(number)
        if self.references and self.identity:
            raise SettingsError(
                f"Person {number} has reference photos and the identity '{self.identity}'.",
                expected="one of the two",
                remedy="remove the photos or choose no identity",
            )


@dataclass(frozen=True)
class Settings:
    """Everything FaceSnap is told for one generation."""

    enabled: bool = setting(Switch(), False, "FaceSnap", "Put the people below into the picture.")
    adapter: str = setting(
        Text(("automatic", "none")), "", "Adapter",
        "The checkpoint to use, by name with or without extension, or by hash. Empty: the one that fits the base "
        "model.", infotext="adapter",
    )  # fmt: skip
    preset: str = setting(
        Choice(tuple(PRESETS)), PRESET, "Preset", "Fills in strengths, windows and speed.", infotext="preset"
    )
    speed: str = setting(
        Choice(("exact", "balanced", "fast")), _BASE["speed"], "Speed",
        "exact: landmarks at every step. balanced: every second step in the middle. fast: only around the face.",
        infotext="speed", preset=True,
    )  # fmt: skip
    hires: str = setting(
        Choice(("both", "first", "second")), "both", "Passes",
        "With hires. fix: act in both passes, the first or the second alone.", infotext="hires pass",
    )  # fmt: skip
    pulid_mode: str = setting(
        Choice(("fidelity", "style")), "fidelity", "PuLID mode",
        "fidelity: the most alike. style: leaves more of the prompt's style. Only PuLID's adapters use it.",
        infotext="PuLID mode",
    )  # fmt: skip
    model_card: bool = setting(
        Switch(), False, "Match the model card",
        "Prepare photos and mix tokens as the adapter's official example does, where FaceSnap does it better: for "
        "comparisons.", infotext="model card",
    )  # fmt: skip
    on_error: str | None = setting(
        Choice(("stop", "skip")), None, "If FaceSnap cannot act",
        "stop: no picture, and a message. skip: a picture without FaceSnap, noted in its infotext. Not given: as the "
        "settings page says.",
    )  # fmt: skip
    people: tuple[Person, ...] = ()

    def require_people(self) -> None:
        """Raise a SettingsError where FaceSnap is on and somebody is missing, or is given twice."""
        if not self.enabled:
            return
        if not self.people:
            raise _nobody(1)
        for n, person in enumerate(self.people, 1):
            person.require(n)


SETTINGS, PERSON, POSE = table(Settings), table(Person), table(Pose)


def _nobody(n: int) -> SettingsError:
    return SettingsError(
        f"Person {n} has neither a reference photo nor an identity.",
        expected="a photo of the person, or a saved identity",
        remedy="add a photo, choose an identity, or switch FaceSnap off",
    )
