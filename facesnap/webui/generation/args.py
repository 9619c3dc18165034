"""A script's arguments, as the WebUI hands them over -> `Settings`.

The flat list of the UI's controls (`controls` is their order), or the API's `args`: `[S]`, `[true, S]`, `[false]`, S
being one object of the keys declared in `model`. One person's keys may stand at the top of S.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from facesnap.errors import SettingsError
from facesnap.settings.api import from_api
from facesnap.settings.field_types import wrong
from facesnap.settings.model import PEOPLE, Settings
from facesnap.webui.generation.controls import from_flat, to_flat


def parse(args: Sequence[Any], most_people: int = PEOPLE) -> Settings:
    """Settings from the UI's flat list or the API's `args`.

    Args:
        args: values in the order of `controls`, None or missing at the end for defaults; or `[S, ...]`, `[bool, S,
            ...]` with one object S (what follows, which the WebUI fills with the UI's values, is passed over).
        most_people: how many the WebUI's option allows.

    Raises:
        SettingsError: unknown key, wrong type, out of range, more than one S, too many people.
    """
    if not isinstance(args, (list, tuple)):
        raise wrong("args", args, "a list: [S], [true, S] or [false], S being one object")
    values = list(args)
    objects = [n for n, value in enumerate(values) if isinstance(value, Mapping)]
    if not objects or objects[0] > 1:
        return from_flat(values, most_people)
    if len(objects) > 1:
        raise SettingsError(
            "args holds more than one object.",
            expected="[S] or [true, S], one object for the whole generation",
            remedy='put several people into one object under the key "people"',
        )
    if objects[0] == 1 and not isinstance(values[0], bool):
        raise wrong("args", args, "[S], [true, S] or [false], S being one object")
    settings = from_api(values[objects[0]], most_people)
    if objects[0] == 1 and not values[0]:
        return dataclasses.replace(settings, enabled=False)
    return settings


def defaults(most_people: int = PEOPLE) -> list[Any]:
    """The values of the flat list when nothing has been touched."""
    return to_flat(Settings(), most_people)
