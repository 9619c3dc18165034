"""The UI's flat list: one value a control, in a fixed order, the same in txt2img and img2img."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facesnap.errors import SettingsError
from facesnap.settings.api import from_api
from facesnap.settings.field_types import (
    Blocks,
    Box,
    Choice,
    ExpressionMix,
    FaceChoice,
    FieldType,
    Json,
    Number,
    PicturesType,
    PictureType,
    RegionType,
    Switch,
    Text,
    wrong,
)
from facesnap.settings.fields import Field
from facesnap.settings.model import MOST_PEOPLE, PEOPLE, PERSON, POSE, POSE_NUMBERS, SETTINGS, Settings, check_windows
from facesnap.settings.words import PRESET, PRESETS, SUGGESTED, TITLE_MARK

NO_CONTROL = ("on_error", "strict")  # the one is on the settings page, the other for clients of the API
MASK, POSE_VALUES = "region_mask", "values"
_MASK = Field(MASK, PictureType(), None, "Region mask", "White where the person is; instead of a region by numbers.")


# What stands in one text box: name there -> field of a pose. Settings without a control of their own are among them.
BOX_NUMBERS = {**{name: name for name in POSE_NUMBERS}, "gain": "expression_gain"}


@dataclass(frozen=True)
class PoseValues(FieldType):
    """The numbers of a pose in one text box: "yaw=20 size=0.5 gain=1.2"; those left out are the source's own."""

    allowed = "text"

    def read(self, value: Any, name: str) -> dict[str, float]:
        """Numbers by field of `Pose`."""
        if not isinstance(value, str) or len(value) > 1000:
            raise wrong(name, value, 'text such as "yaw=20 pitch=-5"')
        found: dict[str, float] = {}
        for part in value.replace(",", " ").split():
            key, _, number = part.partition("=")
            field = BOX_NUMBERS.get(key, "")
            if not field or field in found:
                raise wrong(name, value, f"{', '.join(BOX_NUMBERS)}, each at most once, such as yaw=20")
            found[field] = POSE[field].kind.parse_text(number, f"{key} of {name}")
        return found

    def schema(self) -> Json:
        return {"type": "string"}

    def text(self, value: Mapping[str, float]) -> str:
        return " ".join(
            f"{key}={POSE[field].kind.text(value[field])}" for key, field in BOX_NUMBERS.items() if field in value
        )


_POSE_VALUES = Field(
    POSE_VALUES, PoseValues(), "", "Pose values",
    'Numbers that replace the source\'s own, such as "yaw=20 pitch=-5 x=0.5 y=0.4 size=0.5"; the canvas writes them. '
    'gain: a factor of the expression, such as "gain=1.2".',
)  # fmt: skip
_COMPONENTS: dict[type[FieldType], str] = {
    Switch: "checkbox",
    Number: "slider",
    Choice: "radio",
    PictureType: "image",
    PicturesType: "images",
}
_POSE_CONTROLS = ("source", "image", POSE_VALUES, "expression", "framing")


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        part: "settings", "person" or "pose"; name: of the field in it. person: 0 for settings, else from 1.
        field: the declaration.
        component: "checkbox", "slider", "dropdown", "radio", "image", "images" or "text".
        default: the value that it shows at first.
    """

    part: str
    name: str
    person: int
    field: Field
    component: str
    default: Any

    @property
    def label(self) -> str:
        """Unique within a tab: ui-config.json would mix two controls of one label."""
        return self.field.label if self.person < 2 else f"{self.field.label} (person {self.person})"

    def elem_id(self, tab: str) -> str:
        """Stable id; tab is "txt2img" or "img2img"."""
        part = "" if self.part == "settings" else f"p{self.person}_" + ("pose_" if self.part == "pose" else "")
        return f"facesnap_{tab}_{part}{self.name}"


def controls(most_people: int = PEOPLE) -> list[Control]:
    """All controls in the order of the flat list, for 1 to 8 people."""
    if not 1 <= most_people <= MOST_PEOPLE:
        raise wrong("the number of people", most_people, f"a whole number from 1 to {MOST_PEOPLE}")
    pose = {**POSE, POSE_VALUES: _POSE_VALUES}
    found = [_made("settings", 0, field) for name, field in SETTINGS.items() if name not in NO_CONTROL]
    for n in range(1, most_people + 1):
        found += [_made("person", n, field) for field in (*PERSON.values(), _MASK)]
        found += [_made("pose", n, pose[name]) for name in _POSE_CONTROLS]
    return found


def _made(part: str, person: int, field: Field) -> Control:
    listed = field.name in ("adapter", "identity", "preset") or isinstance(field.kind, FaceChoice)
    component = "dropdown" if listed else _COMPONENTS.get(type(field.kind), "text")
    default = field.initial
    if component == "text":
        default = field.kind.text(default) if default else ""
    if isinstance(field.kind, PicturesType):
        default = None
    if isinstance(field.kind, Text):
        default = _named(field, default)
    return Control(part, field.name, person, field, component, default)


def from_flat(values: Sequence[Any], most_people: int = PEOPLE) -> Settings:
    """Settings from the controls' values; missing ones at the end are defaults, people without a photo are left out.

    Raises:
        SettingsError: a value that its control cannot have, or more values than controls.
    """
    order = controls(most_people)
    if len(values) > len(order):
        raise wrong("args", values, f"at most {len(order)} values, in the order of the controls")
    given: dict[str, Any] = {"people": [{"pose": {}} for _ in range(most_people)]}
    for control, value in zip(order, values, strict=False):
        checked = _checked(control, value)
        if checked is not None:
            _place(given, control, None if control.field.suggested and checked == SUGGESTED else checked)
    people = {n: one for n, one in enumerate(given["people"], 1) if one.get("references") or one.get("identity")}
    for n, one in people.items():
        labels = {control.name: f"'{control.label}'" for control in order if control.person == n}
        check_windows({**PRESETS[given.get("preset", PRESET)], **one}, labels.__getitem__)
    given["people"] = list(people.values())
    given.setdefault("enabled", False)
    return from_api(given, most_people)


def _checked(control: Control, value: Any) -> Any:
    """A control's value as the API has it; None where it is empty."""
    field, name = control.field, f"'{control.label}'"
    if isinstance(field.kind, PicturesType):
        # The file control hands over bytes, which no request in JSON can hold: text is base64 here too, never a path.
        files = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        value = [base64.b64encode(one).decode("ascii") if isinstance(one, bytes) else one for one in files] or None
    elif control.name == "adapter" and isinstance(value, str):
        value = value.partition(TITLE_MARK)[0]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if field.suggested and value == SUGGESTED:
        return value
    if isinstance(field.kind, RegionType):
        if not isinstance(value, str):
            raise wrong(name, value, 'four fractions as text, such as "0 0 0.5 1"')
        return field.kind.parse_text(value, name)
    if isinstance(field.kind, (Blocks, ExpressionMix)) and not isinstance(value, str):
        raise wrong(name, value, "text")
    return field.kind.read(value, name)


def _place(given: dict[str, Any], control: Control, value: Any) -> None:
    """Put a checked value where the API's object has it."""
    person = given["people"][control.person - 1]
    if control.part == "settings":
        given[control.name] = value
    elif control.name == MASK:
        if "region" in person:
            raise SettingsError(
                f"Person {control.person} has a region by numbers and a region mask.",
                expected="one of the two",
                remedy="empty the region's text box or remove the mask",
            )
        person["region"] = value
    elif control.name == POSE_VALUES:
        person["pose"].update(value)
    elif control.part == "pose":
        person["pose"][control.name] = value
    else:
        person[control.name] = value


def to_flat(settings: Settings, most_people: int = PEOPLE) -> list[Any]:
    """The values of the controls for these settings; `from_flat` reads them back.

    Strengths that are the adapter's suggestion are the word "suggested", which no slider shows but `from_flat` reads.

    Raises:
        SettingsError: there are more people than controls for them.
    """
    if len(settings.people) > most_people:
        raise wrong("the number of people", len(settings.people), f"at most {most_people}")
    return [_shown(control, settings) for control in controls(most_people)]


def _shown(control: Control, settings: Settings) -> Any:
    if control.part == "settings":
        return getattr(settings, control.name)
    if control.person > len(settings.people):
        return control.default
    person = settings.people[control.person - 1]
    if control.name == MASK:
        return None if isinstance(person.region, Box) else person.region
    if control.name == POSE_VALUES:
        given = {field: getattr(person.pose, field) for field in BOX_NUMBERS.values()}
        value: Any = {field: number for field, number in given.items() if number != POSE[field].default}
    elif control.name == "region":
        value = person.region if isinstance(person.region, Box) else None
    else:
        value = getattr(person.pose if control.part == "pose" else person, control.name)
    if isinstance(control.field.kind, PicturesType):
        return list(value) or None
    if value is None and control.field.suggested:
        return SUGGESTED
    if control.component == "text":
        return control.field.kind.text(value) if value else ""
    return _named(control.field, value) if isinstance(control.field.kind, Text) else value


def _named(field: Field, value: str) -> str:
    """A list's entry for a name; the empty name is the word that means it: "Automatic", "None"."""
    assert isinstance(field.kind, Text)
    return value or field.kind.nothing[0].capitalize()
