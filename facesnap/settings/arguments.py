"""Command-line options made from the declared settings, and the settings that a command line asks for.

Options that are not given are None in the parsed arguments. Text that is no number, or no word of a choice, is wrong
usage; values out of their range are refused when the settings are made, in the words of every other door.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from facesnap.settings.field_types import (
    Blocks,
    Choice,
    Number,
    PicturesType,
    PictureType,
    RegionType,
    Switch,
)
from facesnap.settings.fields import Field
from facesnap.settings.model import PERSON, POSE, SETTINGS, Person, Pose, Settings, check_windows
from facesnap.settings.words import PRESETS, SUGGESTED

Options = argparse.ArgumentParser | argparse._ActionsContainer
# Options of two numbers: what stands between them, and their name in the help.
_PAIRS = {"--window": ("-", "A-B"), "--structure-window": ("-", "A-B"), "--position": (",", "X,Y")}


def add(parser: Options, fields: Mapping[str, Field], names: Iterable[str]) -> None:
    """Add the options of some declared fields to a parser or a group of it.

    Args:
        fields: SETTINGS, PERSON or POSE. names: of those to be added; fields that share an option are given together.
    """
    for option in dict.fromkeys(fields[name].option for name in names):
        together = [field for field in fields.values() if field.option == option]
        parser.add_argument(option, **_arguments(together))


def settings(args: argparse.Namespace) -> Settings:
    """The settings of a command line with one person, whose pictures are paths.

    Raises:
        SettingsError: a value out of its range, or a window that starts after its end.
    """
    own = _given(args, SETTINGS)
    filled = PRESETS[own["preset"]] if "preset" in own else {}
    person = {key: value for key, value in filled.items() if key in PERSON} | _given(args, PERSON)
    person.pop("identity", None)  # a file: its name stands in it
    defaults = {name: field.default for name, field in PERSON.items()}
    check_windows({**defaults, **person}, lambda name: PERSON[name].option)
    speed = {"speed": filled["speed"]} if filled else {}
    return Settings(**{"enabled": True, **speed, **own}, people=(Person(**person, pose=pose(args)),))


def pose(args: argparse.Namespace) -> Pose:
    """The pose of a command line: a driver picture's, else by numbers, else the reference's own.

    Raises:
        SettingsError: a value out of its range.
    """
    given = _given(args, POSE)
    if "image" in given:
        return Pose("picture", **given)
    numbers = any(name not in ("framing", "expression_gain") for name in given)
    return Pose("canvas" if numbers else "reference", **given)


def _given(args: argparse.Namespace, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Values by field, of the options that were given."""
    found: dict[str, Any] = {}
    for name, field in fields.items():
        value = getattr(args, field.option.lstrip("-").replace("-", "_"), None) if field.option else None
        if value is None:
            continue
        if field.option in _PAIRS:
            value = value[[one for one in fields if fields[one].option == field.option].index(name)]
        elif isinstance(field.kind, Blocks):
            value = dict(value)
        if isinstance(field.kind, RegionType) and isinstance(value, str):
            found[name] = field.kind.parse_text(value, field.option)
        else:
            found[name] = field.read(value, field.option)
    return found


def _arguments(together: list[Field]) -> dict[str, Any]:
    """The keywords of an option's `add_argument`."""
    field, kind = together[0], together[0].kind
    arguments: dict[str, Any] = {"default": None, "help": _help(together)}
    if field.option in _PAIRS:
        separator, metavar = _PAIRS[field.option]
        return arguments | {"type": _pair(separator, metavar), "metavar": metavar}
    if isinstance(kind, Switch):
        return arguments | {"action": "store_true"}
    if isinstance(kind, Choice):
        words = {option.lower(): option for option in kind.options}  # what is none stays, and argparse refuses it
        return arguments | {"type": lambda text: words.get(text.lower(), text), "choices": kind.options}
    if isinstance(kind, PicturesType):
        return arguments | {"nargs": "+", "type": Path, "metavar": "PHOTO"}
    if isinstance(kind, Blocks):
        return arguments | {"action": "append", "type": _block, "metavar": "BLOCK=W"}
    if isinstance(kind, PictureType):
        return arguments | {"type": Path, "metavar": "PHOTO"}
    if isinstance(kind, RegionType):
        return arguments | {"type": _region, "metavar": "FILE"}
    if isinstance(kind, Number):
        return arguments | {"type": _suggestible if field.suggested else float, "metavar": "N"}
    return arguments | {"metavar": "FILE" if field.name == "identity" else field.label.split()[-1].upper()}


def _help(together: list[Field]) -> str:
    field = together[0]
    said = " ".join(one.help for one in together)
    if isinstance(field.kind, Number):
        said += f" {field.kind.allowed}."
    default = "the adapter's suggestion" if field.suggested else field.default
    if field.name == "preset":  # in the API and the UI alone there is always one
        default = "the adapter's suggestions, over the whole sampling"
    if field.option in _PAIRS and field.default is not None:
        default = _PAIRS[field.option][0].join(f"{one.default:g}" for one in together)
    if default not in (None, "", (), {}, False):
        said += f" ({default})"
    return said.replace("%", "%%")


def _pair(separator: str, form: str) -> Callable[[str], tuple[float, float]]:
    def read(text: str) -> tuple[float, float]:
        try:
            first, last = (float(part) for part in text.split(separator))
        except ValueError as error:
            example = "0-0.8" if separator == "-" else "0.5,0.4"
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}, such as {example}") from error
        return first, last

    return read


def _suggestible(text: str) -> float | str:
    try:
        return text if text == SUGGESTED else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {SUGGESTED!r}") from error


def _block(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no block strength such as output.3=0.5") from error


def _region(text: str) -> Path | str:
    """A mask's path, or the text of a box: four fractions."""
    try:
        return text if len([float(part) for part in text.replace(",", " ").split()]) == 4 else Path(text)
    except ValueError:
        return Path(text)
