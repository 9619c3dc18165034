"""X/Y/Z axes as data. An axis notes its value on `p`; when the settings of `p` are read, the notes are applied.

Strength, structure, windows and poses act on every person, the identity on the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from facesnap.errors import SettingsError
from facesnap.settings.api import with_preset
from facesnap.settings.field_types import Choice, Number
from facesnap.settings.fields import Field
from facesnap.settings.model import PERSON, POSE, SETTINGS, WINDOWS, Person, Settings, check_windows

PREFIX = "[FaceSnap] "
NOTES = "facesnap_axes"  # attribute of p: ((axis name, value), ...)
Names = Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        name: of the field. part: "settings", "person" or "pose". field: its declaration.
    """

    name: str
    part: str
    field: Field

    @property
    def label(self) -> str:
        return PREFIX + self.field.label

    def read(self, value: Any) -> Any:
        """A cell's value as the settings have it.

        Raises:
            SettingsError: the field cannot take it.
        """
        return (self.field.parse_text if isinstance(value, str) else self.field.read)(value, self.label)

    def apply(self, settings: Settings, value: Any) -> Settings:
        """The settings with this value.

        Raises:
            SettingsError: the field cannot take it, or a window would end before it starts.
        """
        value = self.read(value)
        if self.name == "preset":
            return with_preset(settings, value)
        if self.part == "settings":
            return replace(settings, **{self.name: value})
        if self.name == "identity":
            first = replace(settings.people[0] if settings.people else Person(), identity=value, references=())
            return replace(settings, people=(first, *settings.people[1:]))
        return replace(settings, people=tuple(self._on(person, n, value) for n, person in enumerate(settings.people)))

    def _on(self, person: Person, n: int, value: Any) -> Person:
        if self.part == "pose":
            source = "canvas" if person.pose.source == "none" else person.pose.source  # a pose needs landmarks
            return replace(person, pose=replace(person.pose, source=source, **{self.name: value}))
        check_windows({**vars(person), self.name: value}, lambda name: f"{AXES[name].label}, person {n + 1}")
        return replace(person, **{self.name: value})


_WANTED = {
    "settings": (SETTINGS, ("adapter", "preset", "speed")),
    "person": (PERSON, ("identity", "strength", "structure", "start", "end", "structure_start", "structure_end")),
    "pose": (POSE, ("yaw", "pitch", "roll", "size", "expression")),
}
AXES = {name: Axis(name, part, table[name]) for part, (table, names) in _WANTED.items() for name in names}


def apply_notes(settings: Settings, p: Any) -> Settings:
    """The settings with the values that the axes have noted on `p`, the preset first, since it fills in the rest.

    Raises:
        SettingsError: as `Axis.apply`.
    """
    notes = getattr(p, NOTES, ())
    both = [window for window in WINDOWS if {name for name, _ in notes}.issuperset(window)]
    opened = [end for window in both for end in zip(window, (0.0, 1.0), strict=True)]  # or the order would matter
    for name, value in sorted([*opened, *notes], key=lambda note: note[0] != "preset"):
        settings = AXES[name].apply(settings, value)
    return settings


def find_grid(scripts_data: Iterable[Any]) -> ModuleType | None:
    """The loaded xyz_grid module among the host's `scripts.scripts_data`, or None."""
    for data in scripts_data:
        if Path(str(getattr(data, "path", ""))).name == "xyz_grid.py":
            return getattr(data, "module", None)
    return None


def register(
    grid: ModuleType, adapters: Names, identities: Names, is_adapter: Callable[[str], bool] | None = None
) -> None:
    """Put our axes into the list of the host's xyz_grid module; a second call replaces those of the first.

    Args:
        adapters, identities: names to choose from, asked when the list is opened.
        is_adapter: whether a name that is not in the list is one of an adapter all the same, such as a hash.
    """
    choices = {"adapter": adapters, "identity": identities}
    known = {"adapter": is_adapter}
    others = [option for option in grid.axis_options if not str(option.label).startswith(PREFIX)]
    ours = [_option(grid, axis, choices.get(axis.name), known.get(axis.name)) for axis in AXES.values()]
    grid.axis_options[:] = [*others, *ours]


def _option(grid: ModuleType, axis: Axis, names: Names | None, is_known: Callable[[str], bool] | None) -> Any:
    def apply(p: Any, x: Any, xs: Sequence[Any]) -> None:
        # A new tuple: the grid's copies of p share what they had before.
        setattr(p, NOTES, (*getattr(p, NOTES, ()), (axis.name, x)))

    def confirm(p: Any, xs: Sequence[Any]) -> None:
        for x in xs:
            value = axis.read(x)
            if names is not None and value not in ("", *names()) and not (is_known and is_known(value)):
                raise SettingsError(
                    f"{axis.label}: there is no {x!r}.", expected=", ".join(names()) or "some to choose from",
                    remedy="correct the name, or refresh the list",
                )  # fmt: skip

    words = list(axis.field.kind.options) if isinstance(axis.field.kind, Choice) else None
    listed = names or ((lambda: words) if words else None)
    read_as = float if isinstance(axis.field.kind, Number) else str  # numbers have ranges such as "0-1 [5]"
    return grid.AxisOption(axis.label, read_as, apply, confirm=confirm, choices=listed)
