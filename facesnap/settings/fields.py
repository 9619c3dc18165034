"""Declared fields: what one setting may be, its label and help, and its form in JSON, in the UI and in an infotext.

A dataclass declares its settings with `setting(kind, ...)`; everything else (validation, JSON schema, UI controls,
infotext, documentation) is derived from that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from facesnap.settings.field_types import (
    FieldType,
    Json,
)


@dataclass(frozen=True)
class Field:
    """One declared setting.

    Attributes:
        name: its key in the API. kind: what it may be. default: its value where nothing is given.
        label, help: of its control. infotext: words after "FaceSnap" in an infotext; empty: not written.
        optional: the value may be None, and None is a value of its own (the driver's, nobody's).
        preset: the default comes from the preset.
    """

    name: str
    kind: FieldType
    default: Any
    label: str
    help: str
    infotext: str = ""
    optional: bool = False
    preset: bool = False

    def schema(self) -> Json:
        """JSON schema with null, which means the default."""
        inner = self.kind.schema()
        parts = inner.pop("anyOf", None) or [inner]
        default = None if self.default is None else self.kind.json(self.default)
        shown = {"title": self.label, "description": self.help, "default": default}
        return {**shown, "anyOf": [*parts, {"type": "null"}]}


def setting(
    kind: FieldType,
    default: Any,
    label: str,
    help: str,
    *,
    infotext: str = "",
    preset: bool = False,
) -> Any:
    """Declare a setting as a dataclass field; see `Field`."""
    declared = Field("", kind, default, label, help, infotext, optional=default is None, preset=preset)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={"setting": declared})
    return dataclasses.field(default=default, metadata={"setting": declared})


def table(cls: type) -> dict[str, Field]:
    """The declared settings of a dataclass, by name, in their order."""
    fields = [field for field in dataclasses.fields(cls) if "setting" in field.metadata]
    return {f.name: dataclasses.replace(f.metadata["setting"], name=f.name) for f in fields}
