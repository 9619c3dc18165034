"""One rule for settings that an adapter cannot use: they are noted, have no effect and stand in no infotext; they are
refused only where `Settings.strict` asks for it. `Family.lacks` says which they are.

Asked for is what differs from the default and the preset's value; a strength of 0 asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import UnusableSettingError
from facesnap.families.base import Part
from facesnap.families.registry import find
from facesnap.settings.fields import Field
from facesnap.settings.model import PERSON, SETTINGS, Person, Pose, Settings
from facesnap.settings.words import PRESETS


def usable(settings: Settings, adapter: Adapter) -> tuple[Settings, tuple[str, ...]]:
    """The settings with defaults in the place of what the adapter cannot use, and a note for each part that it lacks.

    Raises:
        UnusableSettingError: something of this was asked for, and the settings are strict.
    """
    notes = []
    name = adapter.spec.name or "the adapter"
    for part in find(adapter.spec.family).lacks(adapter):
        asked = _asked(part, settings)
        if asked:
            names = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])} and {asked[-1]}"
            notes.append(f"{name} {part.lack}, {names} {'is' if len(asked) == 1 else 'are'} not used")
        settings = _without(part, settings)
    if notes and settings.strict:
        raise UnusableSettingError(
            f"{'; '.join(notes)}.",
            expected="settings that the adapter can use, since strict was asked for",
            remedy="leave these settings out, choose another adapter, or leave strict out: they are noted then",
        )
    return settings, tuple(notes)


def usable_by_one(person: Person, settings: Settings, adapter: Adapter) -> tuple[Person, Settings]:
    """The same for one person of a generation, without notes."""
    found, _ = usable(replace(settings, people=(person,), strict=False), adapter)
    return found.people[0], replace(found, people=settings.people, strict=settings.strict)


def _asked(part: Part, settings: Settings) -> list[str]:
    """Settings of a part that ask for something, as people call them; each once."""
    people = [one for one in settings.people if not part.strength or getattr(one, part.strength) != 0.0]
    if settings.people and not people:  # all have switched it off
        return []
    found = [_name(SETTINGS[key]) for key in part.settings if _differs(SETTINGS, key, settings, settings.preset)]
    for person in people:
        found += [_name(PERSON[key]) for key in part.person if _differs(PERSON, key, person, settings.preset)]
        pose = person.pose
        if part.pose and pose.source != "none" and replace(pose, image=None) != Pose():
            found.append("the pose")
    return list(dict.fromkeys(found))


def _differs(fields: Mapping[str, Field], key: str, given: Any, preset: str) -> bool:
    value, field = getattr(given, key), fields[key]
    return value is not None and value not in (field.default, _unasked(field, preset))


def _unasked(field: Field, preset: str) -> Any:
    return PRESETS[preset][field.name] if field.preset else field.default


def _without(part: Part, settings: Settings) -> Settings:
    preset = settings.preset
    own = {key: _unasked(PERSON[key], preset) for key in part.person} | ({"pose": Pose()} if part.pose else {})
    people = tuple(replace(person, **own) for person in settings.people)
    return replace(settings, people=people, **{key: _unasked(SETTINGS[key], preset) for key in part.settings})


def _name(field: Field) -> str:
    """A label inside a sentence: names keep their capitals."""
    first, _, rest = field.label.partition(" ")
    return f"{first.lower() if first[1:].islower() else first}{' ' if rest else ''}{rest}"
