"""A picture's text restores the settings, in the WebUI's own grammar, and holds no photo."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facesnap.errors import NoFaceError
from facesnap.settings import infotext
from facesnap.settings.api import with_preset
from facesnap.settings.field_types import Box
from facesnap.settings.infotext import (
    SKIPPED,
    VERSION,
    Named,
    PersonFacts,
    line,
    parse_parameters,
    read,
    skipped,
)
from facesnap.settings.model import Person, Settings
from facesnap.settings.words import PRESETS
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.controls import controls
from facesnap.webui.generation.paste import paste_values, pasters
from tests.webui.strategies import NAME, SETTINGS_OBJECTS

DIGEST = "0123456789abcdef" * 4
KEY = re.compile(r"\w[\w \-/]+")
fields = partial(infotext.fields, version="1.2")
HOST = {"Steps": 20, "Sampler": "Euler a", "Size": "512x768"}


def _through(settings: Settings, *more: Any) -> dict[str, str]:
    """What the WebUI's parser gives back of a whole text."""
    return parse_parameters("a prompt: with, traps\nNegative prompt: x\n" + line({**HOST, **fields(settings, *more)}))


def _travelling(settings: Settings) -> Settings:
    """Without what no text carries: photos, masks, pose pictures, and how errors are met."""
    people = tuple(
        dataclasses.replace(
            person,
            references=(),
            region=person.region if isinstance(person.region, Box) else None,
            pose=dataclasses.replace(person.pose, image=None),
        )
        for person in settings.people
    )
    return dataclasses.replace(settings, enabled=True, on_error=None, strict=False, people=people)


@given(SETTINGS_OBJECTS)
def test_a_text_restores_the_settings(settings: Settings) -> None:
    settings = dataclasses.replace(settings, enabled=True)
    pasted = read(_through(settings))
    assert pasted.settings == _travelling(settings)
    assert not pasted.problems
    for n, person in enumerate(settings.people, 1):
        lost = [not person.identity, isinstance(person.region, str), person.pose.image is not None]
        assert sum(
            f"person {n}:" in one or ("FaceSnap" + f" {n}" * (n > 1) + ":") in one for one in pasted.missing
        ) == sum(lost)


@given(SETTINGS_OBJECTS, st.text(min_size=1))
def test_every_key_is_one_the_webui_can_read(settings: Settings, odd: str) -> None:
    written = fields(dataclasses.replace(settings, enabled=True), Named("name", DIGEST))
    assert all(KEY.fullmatch(key) and value and "\n" not in value for key, value in written.items())
    assert skipped(ValueError(odd)).keys() == {SKIPPED}


def test_defaults_are_omitted() -> None:
    plain = parse([{"identity": "Zoe"}])
    assert fields(plain).keys() == {"FaceSnap identity", VERSION}
    for preset in PRESETS:
        keys = {"FaceSnap identity", VERSION} | ({"FaceSnap preset"} if preset != "Balanced" else set())
        assert fields(with_preset(plain, preset)).keys() == keys
    assert fields(Settings(people=plain.people)) == {}  # off


def test_what_is_written_by_example() -> None:
    settings = parse(
        [{"people": [{"references": ["SECRETPHOTO"], "strength": 0.5, "region": {"x": 0, "y": 0, "w": 0.5, "h": 1}},
                     {"identity": "Zoe, older", "blocks": {"middle": 0.5}, "region": "SECRETMASK",
                      "pose": {"source": "canvas", "yaw": 20, "expression": {"smile": 0.8}}}]}]
    )  # fmt: skip
    seen = [PersonFacts(DIGEST, 1, 0.61234), PersonFacts("f" * 64)]
    assert line(fields(settings, Named("own", "a" * 64), seen)) == (
        "FaceSnap adapter: own [aaaaaaaaaa], FaceSnap photos: 1 [0123456789], FaceSnap region: 0 0 0.5 1, "
        "FaceSnap similarity: 0.612, FaceSnap strength: 0.5, "
        'FaceSnap 2 identity: "Zoe, older [ffffffffff]", FaceSnap 2 region: mask, FaceSnap 2 blocks: middle=0.5, '
        'FaceSnap 2 pose: canvas, FaceSnap 2 yaw: 20, FaceSnap 2 expression: "smile:0.8", '
        f"FaceSnap version: {fields(settings)[VERSION]}"
    )


@given(NAME | st.sampled_from(["512x768", '"quoted"', "a [beef]", "x []", 'odd "name', "a: b, c"]), st.booleans())
def test_names_survive_the_webuis_grammar(name: str, hashed: bool) -> None:
    settings = Settings(enabled=True, adapter=name, people=(Person(identity=name),))
    seen = [PersonFacts(DIGEST)] if hashed else []
    found = _through(settings, Named(name, DIGEST) if hashed else None, seen)
    assert not re.fullmatch(r"\d+x\d+", found["FaceSnap adapter"])  # the WebUI takes such a value apart
    pasted = read(found)
    assert pasted.settings == settings
    assert Named.read(found["FaceSnap identity"]).digest == (DIGEST[:10] if hashed else "")


def test_a_text_without_facesnap_unticks_and_leaves_the_rest() -> None:
    order = controls(2)
    for params in ({}, HOST, {"FaceSnap strength": "1"}, {**_through(parse([{"identity": "x"}])), SKIPPED: "no face"}):
        pasted = read(params)
        assert pasted.settings == Settings()
        assert paste_values(pasted, order) == [False, *[None] * (len(order) - 1)]


def test_pasting_fills_every_control_but_the_pictures() -> None:
    settings = parse([{"identity": "Zoe", "strength": 1.5, "pose": {"yaw": 10}}])
    order = controls(2)
    values = paste_values(read(_through(settings), 2), order)
    shown = {c.elem_id("x"): value for c, value in zip(order, values, strict=True)}
    assert shown["facesnap_x_enabled"] is True and shown["facesnap_x_p1_strength"] == 1.5
    assert shown["facesnap_x_p1_pose_values"] == "yaw=10" and shown["facesnap_x_p2_identity"] == "None"
    assert {k for k, v in shown.items() if v is None} == {
        f"facesnap_x_p{n}_{name}" for n in (1, 2) for name in ("references", "region_mask", "pose_image")
    }
    assert parse(values, 2) == settings


def test_pasters_are_the_same_in_both_tabs_and_fill_each_control() -> None:
    """Sending to another tab pairs controls by the equality of their names, which are our functions."""
    here, there = pasters(2), pasters(2, lambda: {"Zoe": DIGEST})
    assert here == there and len(set(here) | set(there)) == len(controls(2))
    params = _through(parse([{"identity": "Zoe", "strength": 1.5}]), None, [PersonFacts(DIGEST)])
    assert [one(params) for one in there] == paste_values(read(params, 2), controls(2))
    assert [one({}) for one in here] == [False, *[None] * (len(here) - 1)]


def test_a_missing_identity_is_named_and_the_rest_restored() -> None:
    settings = parse([{"identity": "Zoe", "strength": 0.5}])
    params = _through(settings, None, [PersonFacts(DIGEST)])
    other = "9" * 64
    for known, name, words in (
        ({}, "Zoe", "Zoe [0123456789] is not on this machine"),
        ({"Zoe": other}, "Zoe", "other content"),
        ({"Zoe": DIGEST}, "Zoe", ""),
        ({"Zoë": DIGEST, "Zoe": other}, "Zoë", ""),  # renamed here
    ):
        pasted = read(params, identities=known)
        assert pasted.settings.people == (dataclasses.replace(settings.people[0], identity=name),)
        assert words in "".join(pasted.missing) and bool(pasted.missing) == bool(words)


def test_more_people_than_the_page_has_room_for_are_named() -> None:
    settings = parse([{"people": [{"identity": name} for name in "abc"]}])
    pasted = read(_through(settings), most_people=2)
    assert [person.identity for person in pasted.settings.people] == ["a", "b"]
    assert "person 3" in pasted.missing[0]


_FULL = {"identity": "a", "strength": 1, "start": 0.5, "end": 0.6, "blocks": {"middle": 1}, "s_struct": 2, "face": 1,
         "region": {"x": 0, "y": 0, "w": 1, "h": 1},
         "pose": {"yaw": 1, "source": "none", "expression": {"smile": 1}}}  # fmt: skip
_KEYS = sorted(_through(parse([{"preset": "fast", "people": [_FULL, {"references": "x"}, _FULL]}])))
_VALUES = st.text(max_size=30) | st.sampled_from(["nan", "1e999", "-1", "0 0 0 0", "smile:9", "middle=1", "fast"])


@given(st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=20), _VALUES))
def test_nothing_in_a_text_makes_pasting_fail(params: dict[str, str]) -> None:
    pasted = read({**params, VERSION: "1"})
    assert pasted.settings.enabled
    assert parse(paste_values(pasted, controls()))  # what is pasted can be generated from


def test_bad_values_are_named_and_left_at_their_defaults() -> None:
    params = {VERSION: "9", "FaceSnap identity": "Zoe", "FaceSnap strength": "11", "FaceSnap yaw": "20"}
    pasted = read({**params, "FaceSnap start": "0.9", "FaceSnap end": "0.2"})
    assert pasted.settings == parse([{"identity": "Zoe", "pose": {"yaw": 20.0}}])
    assert "FaceSnap strength" in pasted.problems[0] and "0 to 10" in pasted.problems[0] and len(pasted.problems) == 2


def test_the_note_of_a_picture_without_facesnap_is_one_line() -> None:
    error = NoFaceError("No face\nin it.", expected="a face", remedy="another photo")
    text = line({**HOST, **skipped(error)})
    assert "\n" not in text and parse_parameters(text)[SKIPPED] == " ".join(str(error).split())
    assert json.loads(json.dumps(parse_parameters(text)))["Steps"] == "20"


@pytest.mark.parametrize("text", ["", "just a prompt", 'Steps: "unclosed, Size: 1x1', 'a: "\\q"', "::,,"])
def test_texts_of_other_makers_are_read_without_error(text: str) -> None:
    assert read(parse_parameters(text)).settings == Settings()
