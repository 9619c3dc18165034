"""The UI's flat list: one column a control, in a fixed order, the same in txt2img and img2img."""

from __future__ import annotations

import base64
from collections.abc import Sequence
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
from facesnap.settings.model import MOST_PEOPLE, PEOPLE, PERSON, POSE, POSE_NUMBERS, SETTINGS, Settings
from facesnap.weights.adapters import TITLE_MARK

ON_SETTINGS_PAGE = "on_error"  # has no control here
MASK, POSE_VALUES = "region_mask", "values"
_MASK = Field(MASK, PictureType(), None, "Region mask", "White where the person is; instead of a region by numbers.")


@dataclass(frozen=True)
class PoseValues(FieldType):
    """The numbers of a pose in one text box: "yaw=20 size=0.5"; those left out are the source's own."""

    def read(self, value: Any, name: str) -> dict[str, float]:
        if not isinstance(value, str) or len(value) > 1000:
            raise wrong(name, value, 'text such as "yaw=20 pitch=-5"')
        found: dict[str, float] = {}
        for part in value.replace(",", " ").split():
            key, _, number = part.partition("=")
            if key not in POSE_NUMBERS or key in found:
                raise wrong(name, value, f"{', '.join(POSE_NUMBERS)}, each at most once, such as yaw=20")
            found[key] = POSE[key].kind.parse_text(number, f"{key} of {name}")
        return found

    def schema(self) -> Json:
        return {"type": "string"}

    def text(self, value: dict[str, float]) -> str:
        return " ".join(f"{key}={POSE[key].kind.text(number)}" for key, number in value.items())


_POSE_VALUES = Field(
    POSE_VALUES, PoseValues(), "", "Pose values",
    'What replaces the source\'s own pose, such as "yaw=20 pitch=-5 x=0.5 y=0.4 size=0.5"; the canvas writes it.',
)  # fmt: skip
_CONTROLS: dict[type[FieldType], str] = {
    Switch: "checkbox",
    Number: "slider",
    Choice: "radio",
    PictureType: "image",
    PicturesType: "images",
}
_POSE_COLUMNS = ("source", "image", POSE_VALUES, "expression", "framing")


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        part: "settings", "person" or "pose"; name: of the field in it. person: 0 for settings, else from 1.
        field: the declaration.
        control: "checkbox", "slider", "dropdown", "radio", "image", "images" or "text".
        default: what the control shows at first.
    """

    part: str
    name: str
    person: int
    field: Field
    control: str
    default: Any

    @property
    def label(self) -> str:
        """Unique within a tab: ui-config.json would mix two controls of one label."""
        return self.field.label if self.person < 2 else f"{self.field.label} (person {self.person})"

    def elem_id(self, tab: str) -> str:
        """Stable id; tab is "txt2img" or "img2img"."""
        part = "" if self.part == "settings" else f"p{self.person}_" + ("pose_" if self.part == "pose" else "")
        return f"facesnap_{tab}_{part}{self.name}"

    @property
    def where(self) -> str:
        """The name that messages give it."""
        return f"'{self.label}'"


def controls(most_people: int = PEOPLE) -> list[Control]:
    """All controls in the order of the flat list, for 1 to 8 people."""
    if not 1 <= most_people <= MOST_PEOPLE:
        raise wrong("the number of people", most_people, f"a whole number from 1 to {MOST_PEOPLE}")
    found = [_column("settings", 0, field) for name, field in SETTINGS.items() if name != ON_SETTINGS_PAGE]
    for n in range(1, most_people + 1):
        found += [_column("person", n, field) for field in PERSON.values()]
        found.append(_column("person", n, _MASK))
        pose = {**POSE, POSE_VALUES: _POSE_VALUES}
        found += [_column("pose", n, pose[name]) for name in _POSE_COLUMNS]
    return found


def _column(part: str, person: int, field: Field) -> Control:
    control = _control(field)
    default = field.default
    if control == "text":
        default = "" if not field.default else field.kind.text(field.default)
    if isinstance(field.kind, PicturesType):
        default = None
    if isinstance(field.kind, Text):
        default = _named(field, field.default)
    return Control(part, field.name, person, field, control, default)


def _control(field: Field) -> str:
    if field.name in ("adapter", "identity", "preset") or isinstance(field.kind, FaceChoice):
        return "dropdown"
    return _CONTROLS.get(type(field.kind), "text")


def from_flat(values: Sequence[Any], most_people: int = PEOPLE) -> Settings:
    """Settings from the controls' values; missing ones at the end are defaults, people without a photo are left out.

    Raises:
        SettingsError: a value that its control cannot have, or more values than controls.
    """
    order = controls(most_people)
    if len(values) > len(order):
        raise wrong("args", values, f"at most {len(order)} values, in the order of the controls")
    given: dict[str, Any] = {"people": [{"pose": {}} for _ in range(most_people)]}
    for column, value in zip(order, values, strict=False):
        _place(given, column, _checked(column, value))
    people = given["people"]
    given["people"] = [one for one in people if one.get("references") or one.get("identity")]
    given.setdefault("enabled", False)
    return from_api(given, most_people)


def _checked(column: Control, value: Any) -> Any:
    """A control's value as the API has it; None where it is empty."""
    field, name = column.field, column.where
    if isinstance(field.kind, PicturesType):
        value = _uploads(value)
    elif column.name == "adapter" and isinstance(value, str):
        value = value.partition(TITLE_MARK)[0]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(field.kind, RegionType):
        if not isinstance(value, str):
            raise wrong(name, value, 'four fractions as text, such as "0 0 0.5 1"')
        return field.kind.parse_text(value, name)
    if isinstance(field.kind, (Blocks, ExpressionMix)) and not isinstance(value, str):
        raise wrong(name, value, "text")
    return field.kind.read(value, name)


def _uploads(value: Any) -> list[Any] | None:
    """Photos from the file control as the API has them. It hands over bytes, which no request in JSON can hold: text
    is base64 here as everywhere, never a path."""
    files = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [base64.b64encode(file).decode("ascii") if isinstance(file, bytes) else file for file in files] or None


def _place(given: dict[str, Any], column: Control, value: Any) -> None:
    """Put a checked value where the API's object has it."""
    if column.part == "settings":
        given[column.name] = value
        return
    person = given["people"][column.person - 1]
    if column.name == MASK:
        if value is not None and person.get("region") is not None:
            raise SettingsError(
                f"Person {column.person} has a region by numbers and a region mask.",
                expected="one of the two",
                remedy="empty the region's text box or remove the mask",
            )
        person["region"] = person.get("region") if value is None else value
    elif column.name == POSE_VALUES:
        person["pose"].update(value or {})
    elif column.part == "pose":
        person["pose"][column.name] = value
    else:
        person[column.name] = value


def to_flat(settings: Settings, most_people: int = PEOPLE) -> list[Any]:
    """What the controls show for these settings; `from_flat` reads it back.

    Raises:
        SettingsError: there are more people than controls for them.
    """
    if len(settings.people) > most_people:
        raise wrong("the number of people", len(settings.people), f"at most {most_people}")
    return [_shown(column, settings) for column in controls(most_people)]


def _shown(column: Control, settings: Settings) -> Any:
    if column.part == "settings":
        return getattr(settings, column.name)
    if column.person > len(settings.people):
        return column.default
    person = settings.people[column.person - 1]
    if column.name == MASK:
        return None if isinstance(person.region, Box) else person.region
    if column.name == POSE_VALUES:
        value: Any = person.pose.numbers
    elif column.name == "region":
        value = person.region if isinstance(person.region, Box) else None
    else:
        value = getattr(person.pose if column.part == "pose" else person, column.name)
    if isinstance(column.field.kind, PicturesType):
        return list(value) or None
    if column.control == "text":
        return column.field.kind.text(value) if value else ""
    return _named(column.field, value) if isinstance(column.field.kind, Text) else value


def _named(field: Field, value: str) -> str:
    """A list's entry for a name; the empty name is the word that means it: "Automatic", "None"."""
    assert isinstance(field.kind, Text)
    return value or field.kind.nothing[0].capitalize()
