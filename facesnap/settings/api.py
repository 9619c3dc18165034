"""The API's object S: read, written, and its JSON schema.

A key that is absent takes the preset's value or the default. null does too, except where it is a value of its own:
the adapter's suggestion for strengths, the source's own for the numbers of a pose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from facesnap.errors import SettingsError
from facesnap.settings.field_types import Json, require_keys, wrong
from facesnap.settings.fields import Field
from facesnap.settings.model import PEOPLE, PERSON, POSE, SETTINGS, Person, Pose, Settings, check_windows
from facesnap.settings.words import PRESET, PRESETS

_PERSON_KEYS = (*PERSON, "pose")


def from_api(given: Mapping[str, Any], most_people: int = PEOPLE) -> Settings:
    """Settings from one API object S. `enabled` is true unless it says otherwise."""
    nested = given.get("people")
    own = [key for key in _PERSON_KEYS if key in given]
    require_keys(given, [*SETTINGS, "people", *_PERSON_KEYS], "")
    if nested is not None and own:
        raise SettingsError(
            f"The key {own[0]!r} stands beside 'people'.",
            expected="one person's keys at the top, or a list of people",
            remedy=f"move {own[0]!r} into an entry of 'people'",
        )
    if nested is None:
        nested = [{key: given[key] for key in own}] if own else []
    if not isinstance(nested, (list, tuple)):
        raise wrong("people", nested, "a list of objects, one a person")
    if len(nested) > most_people:
        raise SettingsError(
            f"{len(nested)} people are asked for.",
            expected=f"at most {most_people}",
            remedy="remove some, or raise the number of people on the settings page",
        )
    preset = _read(SETTINGS["preset"], given, PRESET)
    values = _read_all(SETTINGS, {"enabled": True, **given}, "", preset)
    where = "people[{}]" if given.get("people") is not None else ""
    people = tuple(_person(one, where.format(n), preset) for n, one in enumerate(nested))
    return Settings(**values, people=people)


def to_api(settings: Settings) -> Json:
    """The API object that gives these settings; pictures stay as they are."""
    people = [{**_as_json(PERSON, person), "pose": _as_json(POSE, person.pose)} for person in settings.people]
    return {**_as_json(SETTINGS, settings), "people": people}


def with_preset(settings: Settings, preset: str) -> Settings:
    """These settings with the preset's values in all fields that presets fill in."""
    preset = SETTINGS["preset"].kind.read(preset, "preset")
    chosen = PRESETS[preset]
    people = tuple(
        dataclasses.replace(person, **{key: chosen[key] for key in PERSON if key in chosen})
        for person in settings.people
    )
    return dataclasses.replace(settings, preset=preset, speed=chosen["speed"], people=people)


def schema(most_people: int = PEOPLE) -> Json:
    """JSON schema (2020-12) of S."""
    pose = {"anyOf": [_object(POSE, {}), {"type": "null"}], "title": "Pose", "default": None}
    person = _object(PERSON, {"pose": pose})
    people = {
        "anyOf": [{"type": "array", "items": person, "maxItems": most_people}, {"type": "null"}],
        "title": "People",
        "description": "The people in the picture. One person's keys may stand at the top instead.",
        "default": None,
    }
    whole = _object(SETTINGS, {"people": people, **person["properties"]})
    whole["properties"]["enabled"]["default"] = True
    either = [
        {"properties": {"people": {"type": "null"}}},
        {"not": {"anyOf": [{"required": [k]} for k in _PERSON_KEYS]}},
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "FaceSnap", **whole, "anyOf": either}


def _object(fields: Mapping[str, Field], more: Json) -> Json:
    properties = {name: field.schema() for name, field in fields.items()} | more
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _person(given: Any, where: str, preset: str) -> Person:
    if not isinstance(given, Mapping):
        raise wrong(where, given, "an object with one person's keys")
    require_keys(given, _PERSON_KEYS, where)
    values = _read_all(PERSON, given, where, preset)
    pose = given.get("pose")
    name = _join(where, "pose")
    if pose is not None and not isinstance(pose, Mapping):
        raise wrong(name, pose, f"an object with the keys {', '.join(POSE)}")
    require_keys(pose or {}, list(POSE), name)
    check_windows(values, lambda key: _join(where, key))
    return Person(**values, pose=Pose(**_read_all(POSE, pose or {}, name, preset)))


def _read_all(fields: Mapping[str, Field], given: Mapping[str, Any], where: str, preset: str) -> Json:
    return {name: _read(field, given, preset, where) for name, field in fields.items()}


def _read(field: Field, given: Mapping[str, Any], preset: str, where: str = "") -> Any:
    value = given.get(field.name)
    if value is not None:
        return field.kind.read(value, _join(where, field.name))
    if field.optional and field.name in given:
        return None
    default = PRESETS[preset][field.name] if field.preset else field.default
    return dict(default) if isinstance(default, dict) else default


def _as_json(fields: Mapping[str, Field], value: Any) -> Json:
    pairs = ((name, field, getattr(value, name)) for name, field in fields.items())
    return {name: None if one is None else field.kind.json(one) for name, field, one in pairs}


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
