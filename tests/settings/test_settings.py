"""One declaration: what comes from the UI and the API is what the table says, or an error that names it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from facesnap.attach.control import Speed
from facesnap.errors import PictureError, SettingsError
from facesnap.families.pulid import MODES
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.recombination import GAIN_RANGE, RANGES
from facesnap.settings import words
from facesnap.settings.api import schema, to_api, with_preset
from facesnap.settings.field_types import Box, Number
from facesnap.settings.model import PERSON, POSE, SETTINGS, Person, Pose, Settings
from facesnap.settings.words import PRESETS
from facesnap.webui.documentation import markdown
from facesnap.webui.generation.args import defaults, parse
from facesnap.webui.generation.controls import controls, to_flat
from facesnap.webui.generation.pictures import decode
from tests.webui.strategies import JSON, SETTINGS_OBJECTS

FIELDS = {**{k: ("", f) for k, f in SETTINGS.items()}, **{k: ("", f) for k, f in PERSON.items()}}
FIELDS |= {f"pose.{k}": ("pose", f) for k, f in POSE.items()}


@given(SETTINGS_OBJECTS)
def test_the_api_object_gives_the_same_settings(wanted: Settings) -> None:
    sent = json.loads(json.dumps(to_api(wanted)))
    assert parse([sent]) == wanted
    assert parse([True, sent, *defaults()[2:]]) == wanted  # the WebUI fills short lists with the UI's values


@given(SETTINGS_OBJECTS, st.integers(3, 5))
def test_the_flat_list_gives_the_same_settings(wanted: Settings, most: int) -> None:
    wanted = dataclasses.replace(wanted, on_error=None, strict=False)  # these have no control
    flat = to_flat(wanted, most)
    assert len(flat) == len(controls(most))
    assert parse(flat, most) == wanted


@settings(max_examples=600)
@given(st.lists(JSON, max_size=5) | JSON)
@example([{"strength": 10**400}])
@example([{"blocks": {"middle": True}}])
@example([{"pose": {"expression": "smile:nan"}}])
@example([True, {}, {}])
def test_anything_else_is_refused_in_our_own_words(args: Any) -> None:
    try:
        found = parse(args)
    except SettingsError as error:
        assert error.what and error.expected and error.remedy and len(str(error)) < 3000
    else:
        assert parse([to_api(found)]) == found


@settings(max_examples=300)
@given(st.data())
def test_one_wrong_value_among_right_ones_is_named(data: st.DataObject) -> None:
    """Replace one value of a valid object by junk: it is taken as that field says, or the message names the field."""
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    junk = data.draw(JSON)
    where, field = FIELDS[name]
    sent = {"pose": {field.name: junk}} if where else {field.name: junk}
    try:
        parse([sent])
    except SettingsError as error:
        assert name in error.what


@settings(max_examples=300)
@given(JSON)
def test_the_schema_refuses_what_the_parser_refuses(value: Any) -> None:
    """And the reverse, but for what a JSON schema cannot say: contradictions between keys, and text in boxes."""
    if not isinstance(value, Mapping):
        value = {"strength": value}
    try:
        parse([value])
        taken = True
    except SettingsError as error:
        taken = error.expected in ("start not after end", "structure_start not after structure_end")
    if _fits(value, schema()):
        assert taken


def _fits(value: Any, rule: Mapping[str, Any]) -> bool:
    """The few words of JSON schema that ours uses."""
    if "anyOf" in rule and not any(_fits(value, part) for part in rule["anyOf"]):
        return False
    if "not" in rule and _fits(value, rule["not"]):
        return False
    if "type" in rule and not _is(value, rule["type"]):
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if isinstance(value, str):
        if len(value) > rule.get("maxLength", len(value)) or len(value) < rule.get("minLength", 0):
            return False
        return re.search(rule.get("pattern", ""), value) is not None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return rule.get("minimum", -math.inf) <= value <= rule.get("maximum", math.inf)
    if isinstance(value, list):
        inside = all(_fits(one, rule.get("items", {})) for one in value)
        return inside and len(value) <= rule.get("maxItems", len(value))
    if isinstance(value, dict):
        return _object_fits(value, rule)
    return True


def _object_fits(value: dict[str, Any], rule: Mapping[str, Any]) -> bool:
    properties, other = rule.get("properties", {}), rule.get("additionalProperties", True)
    if any(key not in value for key in rule.get("required", ())):
        return False
    if any(not _fits(key, rule.get("propertyNames", {})) for key in value):
        return False
    for key, one in value.items():
        if key not in properties and (other is False or not _fits(one, other if other is not True else {})):
            return False
        if key in properties and not _fits(one, properties[key]):
            return False
    return True


def _is(value: Any, kind: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "number": number,
        "integer": number and isinstance(value, int),
        "string": isinstance(value, str),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }[kind]


@pytest.mark.parametrize("name", [n for n, (_, f) in FIELDS.items() if isinstance(f.kind, Number)])
def test_every_number_takes_its_range_and_nothing_beside_it(name: str) -> None:
    where, field = FIELDS[name]
    low, high = field.kind.low, field.kind.high
    wrap = (lambda v: {"pose": {field.name: v}}) if where else (lambda v: {field.name: v, **_wide(field.name)})
    for value in (low, high, int(high), np.float32((low + high) / 2), None):
        person = parse([wrap(value)]).people[0]
        got = getattr(person.pose if where else person, field.name)
        absent = None if field.optional else field.initial
        assert got == (absent if value is None else pytest.approx(float(value)))
    for value in (low - 1e-6, high + 1e-6, math.nan, math.inf, True, str(high), [high], {}, 10**400):
        with pytest.raises(SettingsError) as refused:
            parse([wrap(value)])
        assert name in refused.value.what and f"{low:g} to {high:g}" in refused.value.expected


def _wide(name: str) -> dict[str, float]:
    """The other end of a window, out of the way."""
    ends = {"start": "end", "structure_start": "structure_end"}
    starts = {end: start for start, end in ends.items()}
    return {ends[name]: 1.0} if name in ends else {starts[name]: 0.0} if name in starts else {}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([{"strenght": 1}], ["'strenght'", "strength"]),
        ([{"people": [{}, {"stength": 1}]}], ["'stength'", "people[1]"]),
        ([{"pose": {"sauce": "none"}}], ["'sauce'", "pose", "source"]),
        ([{"pose": {"source": "photo"}}], ["pose.source", "'photo'", "canvas"]),
        ([{"people": [{"strength": 11}]}], ["people[0].strength", "11", "0 to 10"]),
        ([{"people": [{}], "strength": 1}], ["'strength'", "'people'"]),
        ([{"people": [{}] * 4}], ["4 people", "at most 3"]),
        ([{"start": 0.8, "end": 0.5}], ["start", "0.8", "0.5"]),
        ([{}, {}], ["more than one"]),
        ([{}, "", "Fast", "fast", "both", {}], ["more than one"]),
        (["on", {}], ["args", "[true, S]"]),
        ([True, "", {}], ["'Preset'", "an object"]),
        ([{"references": ["x"] * 17}], ["references", "17 pictures", "at most 16"]),
        ([{"references": ["x", 5]}], ["references[1]", "5"]),
        ([{"references": "x", "identity": "a\nb"}], ["identity", "one line"]),
        ([{"region": {"x": 0.5, "y": 0, "w": 0.6, "h": 1}}], ["region", "inside the picture"]),
        ([{"region": {"x": 0.5, "y": 0, "w": 0.5}}], ["region.h"]),
        ([{"blocks": {"left": 1}}], ["blocks", "'left'", "input"]),
        ([{"pose": {"expression": {"grin": 1}}}], ["'grin'", "smile"]),
        ([{"pose": {"expression": {"smile": 1.6}}}], ["pose.expression.smile", "0 to 1.5"]),
        ([True, "x", "Sharp"], ["'Preset'", "'Sharp'", "Balanced"]),
        ([True, 5], ["'Adapter'", "5"]),
        ({}, ["args"]),
        (["on"], ["'FaceSnap'", "true or false"]),
    ],
)
def test_messages_name_the_key_and_what_is_allowed(args: Any, words: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(args)
    for word in words:
        assert word in str(refused.value)


def test_a_photo_in_the_wrong_place_is_not_repeated() -> None:
    photo = "0123456789ab" + "SECRET" * 5000
    for sent in (
        {"identity": photo},
        {"pose": photo},
        {"face": photo},
        {"blocks": photo},
        {photo: 1},
        {"speed": photo},
    ):
        with pytest.raises(SettingsError) as refused:
            parse([sent])
        assert "SECRET" not in str(refused.value) and len(str(refused.value)) < 1000


def test_enabled_follows_from_being_asked() -> None:
    assert parse([{"references": "x"}]).enabled and not parse([{"references": "x", "enabled": False}]).enabled
    assert not parse([False, {"references": "x"}]).enabled and parse([True]).enabled
    assert parse([]) == parse([False]) == parse(defaults()) == Settings()


def test_whoever_is_missing_is_named() -> None:
    for args, said in (
        ([True], "Person 1 has neither"),
        ([{"people": [{"identity": "Zoe"}, {}]}], "Person 2 has neither"),
        ([{"references": "x", "identity": "Zoe"}], "'Zoe'"),
    ):
        with pytest.raises(SettingsError, match=said):
            parse(args).require_people()
    parse([{"references": "x"}]).require_people()
    Settings().require_people()


def test_a_preset_fills_in_what_is_not_given() -> None:
    for name, chosen in PRESETS.items():
        found = parse([{"preset": name.lower(), "references": "x", "structure": 0.33}])
        assert found.preset == name and found.speed == chosen["speed"]
        assert found.people[0].strength == chosen["strength"] and found.people[0].structure == 0.33
        again = with_preset(parse([{"references": "x", "structure": 0.33}]), name)
        assert again == dataclasses.replace(
            found, people=(dataclasses.replace(found.people[0], structure=chosen["structure"]),)
        )
    balanced = {name: value for name, value in PRESETS["Balanced"].items() if name != "speed"}
    assert parse([{"references": "x"}]).people == (Person(references=("x",), **balanced),)  # the default is a preset


def test_every_control_has_its_own_label_id_and_help() -> None:
    order = controls(8)
    assert len({c.label for c in order}) == len({c.elem_id("txt2img") for c in order}) == len(order)
    assert {c.elem_id("img2img") for c in order}.isdisjoint(c.elem_id("txt2img") for c in order)
    assert all(c.field.help.endswith(".") and c.field.label for c in order)
    assert controls(2) == order[: len(controls(2))]  # ids and places do not move when people are added


def test_the_table_says_what_the_rest_of_facesnap_says() -> None:
    assert tuple(speed.value for speed in Speed) == words.SPEEDS
    assert tuple(MODES) == words.PULID_MODES
    assert tuple(Basis.load().presets) == words.EXPRESSIONS
    filled = {"speed", *(name for name, field in PERSON.items() if field.preset)}
    assert all(set(values) == filled for values in PRESETS.values())
    for name, (low, high) in {**RANGES, "expression_gain": GAIN_RANGE}.items():
        assert (POSE[name].kind.low, POSE[name].kind.high) == (low, high)


def test_the_ui_hands_over_pictures_as_they_are() -> None:
    pil, array = Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)
    order = controls(1)
    values: list[Any] = [c.default for c in order]
    where = {c.name if c.part != "pose" else f"pose {c.name}": n for n, c in enumerate(order)}
    values[where["enabled"]] = True
    values[where["references"]] = [(pil, None), None, array]
    values[where["region_mask"]], values[where["pose image"]] = array, pil
    values[where["pose source"]], values[where["pose values"]] = "picture", "yaw=20, size=0.4"
    person = parse(values, 1).people[0]
    assert person.references[0] is pil and person.references[1] is array and person.region is array
    assert person.pose == Pose("picture", pil, yaw=20.0, size=0.4)
    values[where["region"]] = "0, 0, .5, 1"
    with pytest.raises(SettingsError, match="region mask"):
        parse(values, 1)
    values[where["region_mask"]] = None
    assert parse(values, 1).people[0].region == Box(0, 0, 0.5, 1)
    values[where["references"]] = [open]  # a file object of the UI has no pixels
    with pytest.raises(SettingsError, match="Reference photos"):
        parse(values, 1)


def test_neither_gradio_nor_pydantic_nor_the_webui_is_imported() -> None:
    import subprocess
    import sys

    names = ("webui.generation.args", "webui.generation.controls", "settings.api")
    code = "import sys\n" + "".join(f"import facesnap.{name}\n" for name in names)
    code += "sys.exit(str({'gradio', 'pydantic', 'modules', 'insightface'} & set(sys.modules) or '') or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_import_the_errors_and_the_standard_library_alone() -> None:
    rooms = {"facesnap", "facesnap.errors", "facesnap.remedies", "facesnap.version", "facesnap.settings"}
    code = f"""
import pathlib, sys
before = set(sys.modules)
for file in pathlib.Path({str(Path(words.__file__).parent)!r}).glob("*.py"):
    __import__(f"facesnap.settings.{{file.stem}}")
own = {{name for name in sys.modules if name.startswith("facesnap")}}
print({{name for name in own if not name.startswith("facesnap.settings.")}} - {rooms!r} or "")
others = {{name.partition(".")[0] for name in set(sys.modules) - before - own}}
print(others - set(sys.stdlib_module_names) or "")
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []


def test_the_documentation_is_what_the_declaration_says() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == markdown(), "run `python -m facesnap.webui.documentation > docs/settings.md`"
    for _, field in FIELDS.values():
        assert f"| `{field.name}` |" in page and field.help in page


def test_uploaded_photos_are_bytes_and_a_path_is_no_photo(astronaut, tmp_path) -> None:
    """The file control gives bytes, which JSON cannot hold; text in its place is base64, also where it names a file."""
    file = tmp_path / "photo.png"
    Image.fromarray(astronaut).save(file)
    place = next(n for n, column in enumerate(controls()) if column.name == "references")
    flat = defaults()
    flat[place] = [file.read_bytes()]
    (reference,) = parse(flat).people[0].references
    assert np.array_equal(decode(reference, "the photo"), astronaut)
    flat[place] = [str(file)]
    (reference,) = parse(flat).people[0].references
    with pytest.raises(PictureError):
        decode(reference, "the photo")
    flat[place] = []
    assert parse(flat).people == ()
