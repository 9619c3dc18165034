"""Hypothesis strategies for settings and for what a client may send instead of them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from facesnap.settings.field_types import (
    Blocks,
    Box,
    Choice,
    ExpressionMix,
    FaceChoice,
    FieldType,
    Number,
    PicturesType,
    PictureType,
    RegionType,
    Switch,
    Text,
)
from facesnap.settings.model import PERSON, POSE, SETTINGS, WINDOWS, Person, Pose, Settings
from facesnap.settings.words import EXPRESSIONS, FACES

PICTURE = st.text("ABCabc0189+/=", min_size=1, max_size=12)
NAME = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12).filter(
    lambda name: name.lower() not in ("none", "automatic")
)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = (draw(st.floats(0, 0.9)) for _ in "xy")
    w, h = draw(st.floats(1e-3, 1 - x)), draw(st.floats(1e-3, 1 - y))
    return Box(x + 0.0, y + 0.0, w, h)


def values(kind: FieldType) -> st.SearchStrategy[Any]:
    """Values as `kind.read` returns them."""
    if isinstance(kind, Number):
        return st.floats(kind.low, kind.high).map(lambda value: value + 0.0)
    if isinstance(kind, Choice):
        return st.sampled_from(kind.options)
    if isinstance(kind, Blocks):
        site = st.from_regex(r"\A(input|middle|output)(\.[0-9]{1,2}){0,3}\Z")
        return st.dictionaries(site, values(kind.factor), max_size=4)
    if isinstance(kind, ExpressionMix):
        return st.dictionaries(st.sampled_from(EXPRESSIONS), values(kind.amount), min_size=1, max_size=3)
    simple: dict[type, st.SearchStrategy[Any]] = {
        Switch: st.booleans(),
        Text: st.just("") | NAME,
        FaceChoice: st.sampled_from((*FACES, "0", "7")),
        PictureType: PICTURE,
        PicturesType: st.lists(PICTURE, max_size=3).map(tuple),
        RegionType: boxes() | PICTURE,
    }
    return simple[type(kind)]


def _fields(table: dict) -> dict[str, st.SearchStrategy[Any]]:
    return {name: (st.none() | values(f.kind)) if f.optional else values(f.kind) for name, f in table.items()}


POSES = st.builds(Pose, **_fields(POSE))


@st.composite
def people(draw: st.DrawFn) -> Person:
    """Somebody: with photos, an identity or both, and windows that are none the wrong way round."""
    given = {name: draw(strategy) for name, strategy in _fields(PERSON).items()}
    for start, end in WINDOWS:
        given[start], given[end] = sorted((given[start], given[end]))
    if not given["references"] and not given["identity"]:
        given["identity"] = draw(NAME)
    return Person(**given, pose=draw(POSES))


def settings_objects(most: int) -> st.SearchStrategy[Settings]:
    """Settings with up to so many people."""
    return st.builds(Settings, **_fields(SETTINGS), people=st.lists(people(), max_size=most).map(tuple))


SETTINGS_OBJECTS = settings_objects(3)

# What JSON can hold, Python's own NaN and infinity included, biased towards values that nearly fit.
_KEYS = st.sampled_from([*SETTINGS, *PERSON, *POSE, "people", "pose", "w", "h", "middle", "smile"]) | st.text(
    max_size=6
)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 1, math.nan, math.inf, 0.5, "0.5", "", "exact", "none", "smile:2", "yaw=1"])
    | st.floats()
    | st.text(max_size=20)
)
JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=12
)
