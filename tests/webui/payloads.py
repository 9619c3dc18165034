"""What clients may send inside `args`: for the stand-in host and for real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from facesnap.settings.api import to_api
from facesnap.settings.model import PERSON, POSE, SETTINGS
from tests.webui.standin.pictures import png
from tests.webui.strategies import JSON, settings_objects

WHO = "Anna"  # an identity that the host must know
PHOTO = "PHOTO"  # stands for a photo: hypothesis draws a word instead of a long text
MASK = png(np.kron(np.eye(2, dtype=np.uint8) * 255, np.ones((8, 8), np.uint8))[..., None].repeat(3, 2))
_FEW = st.one_of(settings_objects(1), settings_objects(1), settings_objects(3))
_JUNK = JSON.filter(lambda value: value is not None)


@st.composite
def payloads(draw: st.DrawFn) -> Any:
    """`args` of a client that means well, one that errs in one place, or one that sends anything."""
    kind = draw(st.sampled_from(("right", "right", *("one wrong",) * 7, "anything", "anything")))
    if kind == "anything":
        return draw(st.lists(JSON, max_size=4))
    wanted = to_api(draw(_FEW))
    wanted["adapter"] = draw(st.sampled_from((None, None, None, "untrained", "UNTRAINED.safetensors", "nowhere")))
    wanted["enabled"] = draw(st.sampled_from((True, None)))
    wanted["people"] = [_reachable(draw, person) for person in wanted["people"] or [{}]]
    if len(wanted["people"]) == 1 and draw(st.booleans()):
        wanted |= wanted.pop("people")[0]  # one person's keys at the top
    if kind == "one wrong":
        _spoil(draw, wanted)
    return [True, wanted] if draw(st.booleans()) else [wanted]


def _reachable(draw: st.DrawFn, person: dict[str, Any]) -> dict[str, Any]:
    """A person who exists, with pictures that are some."""
    blocks = draw(st.sampled_from(({}, {"middle": 0.5}, {"input.4": 0.0, "output.3.1.0": 2.0})))
    person = {**person, "references": None, "identity": WHO, "blocks": blocks}
    if draw(st.integers(0, 9)) == 0:
        person |= {"references": [PHOTO], "identity": None, "face": draw(st.sampled_from(("largest", 0, "central")))}
    if isinstance(person.get("region"), str):
        person["region"] = MASK
    if person.get("pose"):
        person["pose"]["image"] = None
    return person


def _spoil(draw: st.DrawFn, wanted: dict[str, Any]) -> None:
    """Something else in the place of one value, one more key, or one key less."""
    places = [wanted]
    for person in wanted.get("people") or []:
        places += [person, *([person["pose"]] if isinstance(person.get("pose"), dict) else [])]
    place = draw(st.sampled_from(places))
    key = draw(st.sampled_from(sorted({*place, *SETTINGS, *PERSON, *POSE})) | st.text(max_size=8))
    place[key] = draw(_JUNK)


def with_photo(value: Any, photo: str) -> Any:
    """The photo in the place of its word; a copy."""
    if isinstance(value, dict):
        return {key: with_photo(one, photo) for key, one in value.items()}
    if isinstance(value, list):
        return [with_photo(one, photo) for one in value]
    return photo if value == PHOTO else value
