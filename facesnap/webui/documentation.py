"""The settings documented from their declaration: `python -m facesnap.webui.documentation > docs/settings.md`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from facesnap.settings.field_types import (
    Blocks,
    Choice,
    ExpressionMix,
    FaceChoice,
    FieldType,
    Number,
    PicturesType,
    PictureType,
    RegionType,
    Switch,
    expressions,
)
from facesnap.settings.fields import Field
from facesnap.settings.model import PERSON, POSE, PRESETS, SETTINGS
from facesnap.webui.options import OPTIONS

INTRODUCTION = """# Settings

Made from the declaration in `facesnap/settings/model.py`; the UI, the API, infotexts and the X/Y/Z plot use the same.

Through the API: `"alwayson_scripts": {"FaceSnap": {"args": [S]}}`, S one object with the keys below. `[true, S]` and
`[false]` work too. null means the default. One person's keys may stand at the top of S instead of `people`. An unknown
key, a wrong type or a value out of its range is refused with the key's name and what is allowed.
"""


def markdown() -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        *_section("The whole generation", SETTINGS, "`people`: a list of objects, one a person."),
        *_section("One person", PERSON, "`pose`: an object, see below."),
        *_section("A person's pose", POSE, ""),
        "## Presets\n",
        *_presets(),
        "## Settings page\n",
        "| setting | default | |",
        "|---|---|---|",
        *(f"| {one.label} | {_default(one.default)} | {_cell(one.info)} |" for one in OPTIONS),
    ]
    return "\n".join(parts) + "\n"


def _section(title: str, fields: Mapping[str, Field], more: str) -> list[str]:
    head = [f"## {title}\n", "| key | value | default | |", "|---|---|---|---|"]
    rows = [f"| `{f.name}` | {_cell(_allowed(f.kind))} | {_default_of(f)} | {_cell(f.help)} |" for f in fields.values()]
    return [*head, *rows, "", *([more, ""] if more else [])]


def _presets() -> list[str]:
    keys = list(next(iter(PRESETS.values())))
    head = ["| | " + " | ".join(f"`{key}`" for key in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    rows = [f"| {name} | " + " | ".join(str(one[key]) for key in keys) + " |" for name, one in PRESETS.items()]
    return [*head, *rows, ""]


def _allowed(kind: FieldType) -> str:
    if isinstance(kind, Number):
        return f"{kind.low:g} to {kind.high:g}"
    if isinstance(kind, Choice):
        return ", ".join(kind.options)
    if isinstance(kind, ExpressionMix):
        return "object of " + ", ".join(expressions()) + ", each 0 to 1"
    words: dict[type[FieldType], str] = {
        Switch: "true, false",
        FaceChoice: "largest, leftmost, central, 0, 1, ...",
        PictureType: "base64 or data URL",
        PicturesType: "list of base64 or data URLs",
        RegionType: "{x, y, w, h} in 0..1, or a mask picture",
        Blocks: 'object such as {"middle": 0.5}, each 0 to 10',
    }
    return words.get(type(kind), "text")


def _default_of(field: Field) -> str:
    if field.name == "enabled":
        return "true where S is given"
    return "the preset's" if field.preset else _default(field.default)


def _default(value: object) -> str:
    empty = value is None or value == "" or value == () or value == {}
    return "" if empty else str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(markdown())
