"""Declared fields: the values, label, help and names of one setting in the API, UI, infotext and command line.

A dataclass declares its settings with `setting(kind, ...)`; everything else (validation, JSON schema, UI controls,
infotext, command line, documentation) is derived from that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from facesnap.settings.field_types import FieldType, Json
from facesnap.settings.words import SUGGESTED


@dataclass(frozen=True)
class Field:
    """One declared setting.

    Attributes:
        name: its key in the API.
        kind: the values that it takes.
        default: its value in Python and on the command line where none is given.
        initial: its value in the API and the UI where none is given; another than `default` where presets fill it in.
        label, help: of its control.
        infotext: words after "FaceSnap" in an infotext; empty: not written.
        option: the command line's; empty: none. Fields with the same option are given together in it.
        optional: None is a value of its own (the driver's, the adapter's suggestion).
        preset: presets fill it in.
        slider: (lowest, highest) that the UI's slider shows of a wider range; None: the whole range.
    """

    name: str
    kind: FieldType
    default: Any
    label: str
    help: str
    infotext: str = ""
    option: str = ""
    optional: bool = False
    preset: bool = False
    initial: Any = None
    slider: tuple[float, float] | None = None

    @property
    def suggested(self) -> bool:
        """Whether None, the adapter's suggestion, needs a word in texts, because an absent value is the preset's."""
        return self.optional and self.preset

    def read(self, value: Any, name: str) -> Any:
        """The value in its one form; None, or the word "suggested", where it is the adapter's suggestion.

        Raises:
            SettingsError: as `FieldType.read`, under the name that the door gives it.
        """
        if self.suggested and (value is None or (isinstance(value, str) and value == SUGGESTED)):
            return None
        return self.kind.read(value, name)

    def text(self, value: Any) -> str:
        """The value as text, for infotexts and text boxes."""
        return SUGGESTED if value is None and self.suggested else self.kind.text(value)

    def parse_text(self, text: str, name: str) -> Any:
        """The inverse of `text`."""
        return None if self.suggested and text == SUGGESTED else self.kind.parse_text(text, name)

    def schema(self) -> Json:
        """JSON schema with null: the default or, where the field is optional, None."""
        inner = self.kind.schema()
        parts = inner.pop("anyOf", None) or [inner]
        default = None if self.initial is None else self.kind.json(self.initial)
        shown = {"title": self.label, "description": self.help, "default": default}
        return {**shown, "anyOf": [*parts, {"type": "null"}]}


def setting(kind: FieldType, default: Any, label: str, help: str, **more: Any) -> Any:
    """A dataclass field with a declaration; see `Field`. more: infotext, option, slider, and initial where presets fill
    the field in."""
    derived = {"optional": default is None, "preset": "initial" in more, "initial": default}
    declared = Field("", kind, default, label, help, **(derived | more))
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={"setting": declared})
    return dataclasses.field(default=default, metadata={"setting": declared})


_tables: dict[type, dict[str, Field]] = {}


def table(cls: type) -> dict[str, Field]:
    """The declared settings of a dataclass, by name, in their order; made once, and not to be changed."""
    if cls not in _tables:
        fields = [field for field in dataclasses.fields(cls) if "setting" in field.metadata]
        _tables[cls] = {f.name: dataclasses.replace(f.metadata["setting"], name=f.name) for f in fields}
    return _tables[cls]


class Declared:
    """Base of dataclasses with declared settings: every value is checked, and brought to its one form.

    Raises:
        SettingsError: a value is of another kind, or out of its range.
    """

    def __post_init__(self) -> None:
        for name, declared in table(type(self)).items():
            value = getattr(self, name)
            if value is not None or not declared.optional:
                object.__setattr__(self, name, declared.kind.read(value, name))
