"""The settings documented from their declaration: `python -m facesnap.webui.documentation > docs/settings.md`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from facesnap.settings.fields import Field
from facesnap.settings.model import PERSON, POSE, SETTINGS
from facesnap.settings.words import PRESETS
from facesnap.webui.options import OPTIONS

INTRODUCTION = """# Settings

Made from the declaration in `facesnap/settings/model.py`; the UI, the API, infotexts, the X/Y/Z plot and `facesnap
generate` use the same.

Through the API: `"alwayson_scripts": {"FaceSnap": {"args": [S]}}`, S one object with the keys below. `[true, S]` and
`[false]` work too. One person's keys may stand at the top of S instead of `people`. An unknown key, a wrong type, a
value out of its range or a window that starts after its end is refused with the key's name and what is allowed.

A preset is explicit values. The API and the UI start from "Balanced": a key that is absent takes its value. null means
the default too, except for `strength` and `structure`, where it means the adapter's suggestion. The command line takes
the adapter's suggestion, over the whole sampling, unless --preset or an option says otherwise. A window that is empty
(start = end) adds nothing, and is noted. In the text of a picture, and in the UI's list of values, the word "suggested"
asks for the adapter's suggestion; texts of pictures hold the numbers that were used.

A setting that the adapter cannot use (structure or a pose without a landmarks network, the mode of another family, the
LoRA of a file without one) has no effect, wherever it comes from: it is noted once, and the picture's text does not
hold it. With `strict` it is refused instead.
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
    head = [f"## {title}\n", "| key | value | default | command line | |", "|---|---|---|---|---|"]
    return [*head, *map(_row, fields.values()), "", *([more, ""] if more else [])]


def _row(field: Field) -> str:
    option = f"`{field.option}`" if field.option else ""
    default = "the preset's" if field.preset else _default(field.default)
    default = "true where S is given" if field.name == "enabled" else default
    return f"| `{field.name}` | {_cell(field.kind.allowed)} | {default} | {option} | {_cell(field.help)} |"


def _presets() -> list[str]:
    keys = list(next(iter(PRESETS.values())))
    head = ["| | " + " | ".join(f"`{key}`" for key in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    rows = [f"| {name} | " + " | ".join(str(one[key]) for key in keys) + " |" for name, one in PRESETS.items()]
    return [*head, *rows, ""]


def _default(value: object) -> str:
    empty = value is None or value == "" or value == () or value == {}
    return "" if empty else str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(markdown())
