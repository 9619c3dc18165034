"""Settings of one generation, declared: the source of command line, API, UI, infotext, X/Y/Z and documentation.

In Python and on the command line strength and structure are None unless given: the adapter's suggestion, over the
whole sampling. A preset is explicit values: the API and the UI start from one ("Balanced"), and fill in its values
where none are given; the command line does with --preset. In the API null, in texts the word "suggested", asks for
the adapter's suggestion instead. An infotext holds the numbers that were used.
"""

# ruff: noqa: RUF009 (`setting` is dataclasses.field with a declaration)
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from facesnap.settings.fields import Declared, setting, table
from facesnap.settings.words import FRAMINGS, ON_ERROR, PASSES, POSE_SOURCES, PRESET, PRESETS, PULID_MODES, SPEEDS

VERSION = 1  # of the settings as the API has them: goes up when a key changes its meaning or goes
PEOPLE = 3  # shown in the UI; a WebUI option raises it
MOST_PEOPLE = 8
WINDOWS = (("start", "end"), ("structure_start", "structure_end"))
POSE_NUMBERS = ("yaw", "pitch", "roll", "x", "y", "size")
_BASE = PRESETS[PRESET]
_SHARE = Number(0.0, 1.0, 0.01)
_WEIGHT, _SLIDER = Number(0.0, 10.0, 0.05), (0.0, 2.0)
_POSITION = Number(-4, 4, 0.01)


@dataclass(frozen=True)
class Pose(Declared):
    """Where pose and expression come from. Numbers replace the source's own; None keeps them (canvas: the default)."""

    source: str = setting(
        Choice(POSE_SOURCES), "reference", "Pose source",
        "none: the prompt decides (no landmarks). reference: as in the reference photo. picture: as in the pose "
        "picture. init: as in the picture that img2img starts from. canvas: as drawn.", infotext="pose",
    )  # fmt: skip
    image: Any = setting(
        PictureType(), None, "Pose picture", "A photo whose pose and expression are taken over.", option="--driver"
    )
    yaw: float | None = setting(
        Number(-90, 90, 1), None, "Yaw", "Degrees; positive turns the face to the picture's right.", infotext="yaw",
        option="--yaw",
    )  # fmt: skip
    pitch: float | None = setting(
        Number(-60, 60, 1), None, "Pitch", "Degrees; positive makes the face look up.", infotext="pitch",
        option="--pitch",
    )  # fmt: skip
    roll: float | None = setting(
        Number(-180, 180, 1), None, "Roll", "Degrees; positive tilts the head to the picture's right.", infotext="roll",
        option="--roll",
    )  # fmt: skip
    x: float | None = setting(
        _POSITION, None, "Face centre x", "Fraction of the picture's width.", infotext="x", option="--position"
    )
    y: float | None = setting(
        _POSITION, None, "Face centre y", "Fraction of the picture's height.", infotext="y", option="--position"
    )
    size: float | None = setting(
        Number(0.02, 2, 0.01), None, "Face size",
        "Brows to chin, as a fraction of the picture's shorter side.", infotext="size", option="--face-size",
    )  # fmt: skip
    expression: Any = setting(
        ExpressionMix(), None, "Expression",
        'Presets with amounts 0 to 1.5, such as "smile:0.8+wink_left"; left and right are the person\'s own. Empty: '
        "the source's own.", infotext="expression", option="--expression",
    )  # fmt: skip
    framing: str = setting(
        Choice(FRAMINGS), "keep framing", "Framing",
        "keep framing: the head as large as the pose source's. true size: the person's own size before the same "
        "camera.", infotext="framing", option="--framing",
    )  # fmt: skip
    expression_gain: float = setting(
        Number(0, 1.5, 0.05), 1.0, "Expression gain",
        "Factor of the expression, the source's own or the one given: 0 is a neutral face. In the UI it stands in the "
        'pose values, such as "gain=1.2".', infotext="expression gain", option="--expression-gain",
    )  # fmt: skip

    @property
    def numbers(self) -> dict[str, float]:
        """Those of yaw, pitch, roll, x, y and size that are given."""
        return {name: getattr(self, name) for name in POSE_NUMBERS if getattr(self, name) is not None}


@dataclass(frozen=True)
class Person(Declared):
    """One person: who, how much, where and in which pose. Either references or a saved identity.

    Pictures are paths or arrays in Python, text in the API; a region is a `Box`, a map (H, W) from 0 to 1, or a mask
    picture, white where the person is.

    Raises:
        SettingsError: a value out of its range, or a window that starts after its end.
    """

    references: Sequence[Any] = setting(
        PicturesType(), (), "Reference photos", "One or several photos of the person; more are better.",
        option="--reference",
    )  # fmt: skip
    identity: str = setting(
        Text(("none",)), "", "Identity", "A saved identity, instead of photos.", infotext="identity",
        option="--identity",
    )  # fmt: skip
    strength: float | None = setting(
        _WEIGHT, None, "Strength",
        "Weight of the ID tokens: how much the face is the person's. 0 is off.", infotext="strength",
        option="--strength", initial=_BASE["strength"], slider=_SLIDER,
    )  # fmt: skip
    structure: float | None = setting(
        _WEIGHT, None, "Structure strength",
        "Weight of the landmarks: how closely shape and pose are followed. 0 is off; used by adapters that have this "
        "network.", infotext="structure", option="--structure", initial=_BASE["structure"], slider=_SLIDER,
    )  # fmt: skip
    face: str = setting(
        FaceChoice(), "largest", "Face choice",
        "Which face of a reference with several: largest, leftmost, central, first (the detector is surest of it), or "
        "a number from 0 (the largest).", infotext="face", option="--choose",
    )  # fmt: skip
    start: float = setting(
        _SHARE, 0.0, "Start", "Share of the sampling after which the ID tokens act.",
        infotext="start", option="--window", initial=_BASE["start"],
    )  # fmt: skip
    end: float = setting(
        _SHARE, 1.0, "End", "Share of the sampling until which the ID tokens act.",
        infotext="end", option="--window", initial=_BASE["end"],
    )  # fmt: skip
    structure_start: float = setting(
        _SHARE, 0.0, "Structure start", "Share of the sampling after which the landmarks act.",
        infotext="structure start", option="--structure-window", initial=_BASE["structure_start"],
    )  # fmt: skip
    structure_end: float = setting(
        _SHARE, 1.0, "Structure end", "Share of the sampling until which the landmarks act.",
        infotext="structure end", option="--structure-window", initial=_BASE["structure_end"],
    )  # fmt: skip
    s_struct: float = setting(
        Number(0, 5, 0.05), 1.0, "CLIP weight",
        "Weight of the CLIP branch inside the mixer; only adapters of the PlusV2 form use it.", infotext="s_struct",
        option="--s-struct",
    )  # fmt: skip
    lora: float = setting(
        _WEIGHT, 1.0, "LoRA strength",
        "Weight of the LoRA that FaceID files bring: 1 is how they were trained, 0 is off.", infotext="lora",
        option="--lora", slider=_SLIDER,
    )  # fmt: skip
    lora_in_region: bool = setting(
        Switch(), False, "LoRA inside the region only", "The LoRA changes the region only; of use with a region.",
        infotext="lora in region", option="--lora-in-region",
    )  # fmt: skip
    blocks: Any = setting(
        Blocks(), {}, "Block strengths",
        'Factors by UNet block or site, such as "middle=0.5 output.3=0.8"; others are 1.', infotext="blocks",
        option="--block-strength",
    )  # fmt: skip
    region: Any = setting(
        RegionType(), None, "Region",
        'Where the person is: left, top, width and height as fractions, such as "0 0 0.5 1", or a mask picture. '
        "Empty: everywhere.", infotext="region", option="--region",
    )  # fmt: skip
    pose: Pose = Pose()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_windows(vars(self))

    def require(self, number: int) -> None:
        """Raise a SettingsError unless exactly one of photos and identity is given. number: the person's, from 1."""
        if not self.references and not self.identity:
            raise _missing(number)
        if self.references and self.identity:
            raise SettingsError(
                f"Person {number} has reference photos and the identity '{self.identity}'.",
                expected="one of the two",
                remedy="remove the photos or choose no identity",
            )

    def empty_windows(self, structure: bool = True) -> list[str]:
        """A sentence for each window that is empty (start = end), although its strength is not 0.

        Args:
            structure: whether the adapter has the network that the second window belongs to.
        """
        parts = [("ID tokens", self.strength, self.start, self.end)]
        if structure and self.pose.source != "none":
            parts.append(("landmarks", self.structure, self.structure_start, self.structure_end))
        return [
            f"the window of the {name} is empty ({start:g} to {end:g}), they add nothing"
            for name, strength, start, end in parts
            if strength != 0 and start == end
        ]


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that one generation is asked for."""

    enabled: bool = setting(Switch(), False, "FaceSnap", "Put the people below into the picture.")
    adapter: str = setting(
        Text(("automatic", "none")), "", "Adapter",
        "The checkpoint to use, by name with or without extension and folder, or by hash. Empty: the one that fits the "
        'base model. "NAME as FAMILY", such as "ip-adapter as instantid", says what kind it is where its file leaves '
        "that open.", infotext="adapter",
    )  # fmt: skip
    preset: str = setting(
        Choice(tuple(PRESETS)), PRESET, "Preset", "Fills in strengths, windows and speed.", infotext="preset",
        option="--preset",
    )  # fmt: skip
    speed: str = setting(
        Choice(SPEEDS), _BASE["speed"], "Speed",
        "exact: landmarks at every step. balanced: every second step in the middle. fast: only around the face.",
        infotext="speed", option="--speed", initial=_BASE["speed"],
    )  # fmt: skip
    hires: str = setting(
        Choice(PASSES), "both", "Passes",
        "With hires. fix: act in both passes, the first or the second alone.", infotext="hires pass",
    )  # fmt: skip
    pulid_mode: str = setting(
        Choice(PULID_MODES), "fidelity", "PuLID mode",
        "fidelity: the most alike. style: leaves more of the prompt's style. Only PuLID's adapters use it.",
        infotext="PuLID mode", option="--pulid-mode",
    )  # fmt: skip
    model_card: bool = setting(
        Switch(), False, "Match the model card",
        "Prepare photos and mix tokens as the adapter's official example does, where FaceSnap does it better: for "
        "comparisons.", infotext="model card", option="--match-model-card",
    )  # fmt: skip
    on_error: str | None = setting(
        Choice(ON_ERROR), None, "If FaceSnap cannot act",
        "stop: no picture, and a message. skip: a picture without FaceSnap, noted in its infotext. Not given: as the "
        "settings page says.",
    )  # fmt: skip
    strict: bool = setting(
        Switch(), False, "Strict",
        "Refuse settings that the adapter cannot use. Without it they are noted and have no effect.", option="--strict",
    )  # fmt: skip
    people: tuple[Person, ...] = ()

    def require_people(self) -> None:
        """Raise a SettingsError where FaceSnap is on and a person is missing, or is given twice."""
        if not self.enabled:
            return
        if not self.people:
            raise _missing(1)
        for n, person in enumerate(self.people, 1):
            person.require(n)


SETTINGS, PERSON, POSE = table(Settings), table(Person), table(Pose)


def check_windows(values: Mapping[str, Any], name: Callable[[str], str] = str) -> None:
    """Raise a SettingsError where a window starts after its end.

    Args:
        values: start, end, structure_start and structure_end, by key. name: of a key, as messages call it.
    """
    for start, end in WINDOWS:
        first, last = values[start], values[end]
        if first <= last:
            continue
        if name(start) == name(end):
            said = f"{name(start)} is {first:g}-{last:g}."
        else:
            said = f"{name(start)} is {first:g}, {name(end)} {last:g}."
        raise SettingsError(said, expected=f"{start} not after {end}", remedy=f"correct {start} or {end}")


def _missing(n: int) -> SettingsError:
    return SettingsError(
        f"Person {n} has neither a reference photo nor an identity.",
        expected="a photo of the person, or a saved identity",
        remedy="add a photo, choose an identity, or switch FaceSnap off",
    )
