"""Every declared setting through every door: what one writer writes, each of its readers gives back."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facesnap.errors import SettingsError
from facesnap.hosts.diffusers import Sampling
from facesnap.pipeline.portrait import Portrait
from facesnap.pipeline.portrait import infotext as portrait_infotext
from facesnap.settings import arguments
from facesnap.settings.api import from_api, to_api
from facesnap.settings.field_types import (
    Blocks,
    Box,
    Choice,
    ExpressionMix,
    FaceChoice,
    Number,
    PicturesType,
    PictureType,
    RegionType,
    Switch,
    Text,
)
from facesnap.settings.fields import Field
from facesnap.settings.infotext import fields, line, parse_parameters, read
from facesnap.settings.model import PERSON, POSE, SETTINGS, Person, Pose, Settings
from facesnap.settings.words import PRESETS, SUGGESTED
from facesnap.webui.generation.args import defaults, parse
from facesnap.webui.generation.controls import controls, from_flat, to_flat
from facesnap.webui.generation.paste import paste_values
from facesnap.webui.generation.xyz import AXES

TABLES = {"settings": SETTINGS, "person": PERSON, "pose": POSE}
FIELDS = [(part, field) for part, table in TABLES.items() for field in table.values() if field.name != "enabled"]
IDS = [f"{part}.{field.name}" for part, field in FIELDS]
EXAMPLES: dict[type, Sequence[Any]] = {
    Switch: (True, False),
    Text: ("Zoe, older",),
    FaceChoice: ("leftmost", "first", "3"),
    PictureType: ("AAAA",),
    PicturesType: (("AAAA", "BBBB"),),
    RegionType: (Box(0.0, 0.25, 0.5, 0.75),),
    Blocks: ({"middle": 0.5, "output.3": 2.0},),
    ExpressionMix: ({"smile": 1.2, "wink_left": 0.5},),
}
OWN = dataclasses.replace(Person(identity="Zoe"), pose=Pose("canvas"))  # under a name, with landmarks that act


def _examples(field: Field) -> Iterator[Any]:
    kind = field.kind
    if isinstance(kind, Number):
        yield from (kind.low, kind.high, (kind.low + kind.high) / 4)
    elif isinstance(kind, Choice):
        yield from kind.options
    else:
        yield from EXAMPLES[type(kind)]
    if field.suggested:
        yield None


def _all(part: str, field: Field) -> Iterator[tuple[Settings, Any]]:
    """Settings with one value other than the default, one by one."""
    for value in _examples(field):
        try:
            yield _with(part, field.name, value), value
        except SettingsError as error:
            assert "not after" in error.expected  # half of a window


def _with(part: str, name: str, value: Any) -> Settings:
    person = OWN
    if part == "person":
        person = dataclasses.replace(person, **{name: value})
    elif part == "pose":
        person = dataclasses.replace(person, pose=dataclasses.replace(person.pose, **{name: value}))
    own = {name: value} if part == "settings" else {}
    return Settings(**{"enabled": True, **own}, people=(person,))


def _value(settings: Settings, part: str, name: str) -> Any:
    person = settings.people[0]
    return getattr({"settings": settings, "person": person, "pose": person.pose}[part], name)


@pytest.mark.parametrize(("part", "field"), FIELDS, ids=IDS)
def test_the_api_and_the_flat_list(part: str, field: Field) -> None:
    for settings, value in _all(part, field):
        sent = json.loads(json.dumps(to_api(settings)))
        assert from_api(sent) == settings
        if field.name not in ("on_error", "strict"):  # they have no control
            flat = json.loads(json.dumps(to_flat(settings)))
            assert from_flat(flat) == settings and _value(from_flat(flat), part, field.name) == value


@pytest.mark.parametrize(("part", "field"), [(p, f) for p, f in FIELDS if f.infotext], ids=str)
def test_infotexts_of_the_webui_and_of_the_command_line(part: str, field: Field) -> None:
    for settings, value in _all(part, field):
        text = line({"Steps": 20, **fields(settings, version="1")})
        assert f"FaceSnap {field.infotext}: " in text or value in (field.initial, "")
        pasted = read(parse_parameters(text))
        assert _value(pasted.settings, part, field.name) == value and not pasted.problems
        shown = parse(paste_values(pasted, controls()))
        assert _value(shown, part, field.name) == (field.initial if value is None and field.suggested else value)
        if field.name not in ("adapter", "identity"):  # files on the command line
            made = _pasted_from_a_portrait(settings)
            expected = {"strength": 0.7, "structure": 0.6}.get(field.name) if value is None else value
            assert _value(made, part, field.name) == (expected if field.suggested else value)


def _pasted_from_a_portrait(settings: Settings) -> Settings:
    """As the command line writes: the adapter is known, and has landmarks."""
    adapter = SimpleNamespace(
        spec=SimpleNamespace(name="own", strength=0.7), digest="a" * 64, ffrnet=object(),
        ffrnet_spec=SimpleNamespace(strength=0.6),
    )  # fmt: skip
    who = SimpleNamespace(name="Zoe", digest="b" * 64, references=1)
    people = [(who, settings.people[0])]
    text = portrait_infotext(Sampling("a person"), "base", adapter, people, settings, Portrait(None, 1))
    pasted = read(parse_parameters(text))
    assert not pasted.problems
    return pasted.settings


OPTIONED = [(part, field) for part, field in FIELDS if field.option and field.option not in ("--identity",)]


@pytest.mark.parametrize(("part", "field"), OPTIONED, ids=str)
def test_the_command_lines_options(part: str, field: Field) -> None:
    for settings, value in _all(part, field):
        argv = _typed(field, value, settings, part)
        found = arguments.settings(_parser().parse_args(argv))
        if isinstance(field.kind, (PictureType, PicturesType)):
            value = _paths(value)
        assert _value(found, part, field.name) == value, argv
    plain = arguments.settings(_parser().parse_args([]))
    assert plain == Settings(enabled=True, people=(Person(),))


def _paths(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else tuple(map(Path, value))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    for table in TABLES.values():
        arguments.add(parser, table, [name for name, field in table.items() if field.option])
    return parser


def _typed(field: Field, value: Any, settings: Settings, part: str) -> list[str]:
    if isinstance(field.kind, Switch):
        return [field.option] if value else []
    if isinstance(field.kind, PicturesType):
        return [field.option, *value]
    if isinstance(field.kind, Blocks):
        return [word for key, factor in value.items() for word in (field.option, f"{key}={factor}")]
    pair = [name for name, other in TABLES[part].items() if other.option == field.option]
    if len(pair) == 2:
        both = [value if name == field.name else _value(settings, part, name) for name in pair]
        separator = "," if field.option == "--position" else "-"
        return [f"{field.option}={separator.join(str(0.5 if one is None else one) for one in both)}"]
    return [f"{field.option}={SUGGESTED if value is None else field.kind.text(value)}"]


def test_a_preset_on_the_command_line_gives_its_values_and_options_go_first() -> None:
    for name, values in PRESETS.items():
        found = arguments.settings(_parser().parse_args(["--preset", name, "--structure", "0.33"]))
        assert found.preset == name and found.speed == values["speed"]
        assert found.people[0].strength == values["strength"] and found.people[0].structure == 0.33
        assert found.people[0].structure_end == values["structure_end"]


WRONG = [(part, field) for part, field in FIELDS if isinstance(field.kind, Number)]


@pytest.mark.parametrize(("part", "field"), WRONG, ids=str)
def test_a_value_out_of_range_is_refused_in_every_door_in_the_same_words(part: str, field: Field) -> None:
    value = field.kind.high + 1
    words = f"{value:g}. Expected: a number from {field.kind.allowed}"
    key = {"person": field.name, "pose": f"pose.{field.name}"}[part]
    with pytest.raises(SettingsError) as refused:
        from_api({"pose": {field.name: value}} if part == "pose" else {field.name: value})
    assert f"{key} is {words.partition('.')[0]}" in str(refused.value).replace(".0.", ".") and _says(refused, field)
    with pytest.raises(SettingsError) as refused:
        _with(part, field.name, value)
    assert refused.value.what.startswith(field.name) and _says(refused, field)
    argv = _typed(field, value, _with(part, field.name, None if field.optional else field.default), part)
    with pytest.raises(SettingsError) as refused:
        arguments.settings(_parser().parse_args(argv))
    assert refused.value.what.startswith(field.option) and _says(refused, field)
    problems = read(
        {"FaceSnap version": "1", "FaceSnap identity": "Z", f"FaceSnap {field.infotext}": str(value)}
    ).problems
    assert f"FaceSnap {field.infotext} is" in problems[0] and field.kind.allowed in problems[0]
    if field.name in AXES:
        with pytest.raises(SettingsError) as refused:
            AXES[field.name].read(value)
        assert refused.value.what.startswith(AXES[field.name].label) and _says(refused, field)
    if part == "person":
        flat = [value if one.name == field.name and one.person == 1 else one.default for one in controls()]
        with pytest.raises(SettingsError) as refused:
            from_flat(flat)
        assert refused.value.what.startswith(f"'{field.label}'") and _says(refused, field)


def _says(refused: Any, field: Field) -> bool:
    return refused.value.expected == f"a number from {field.kind.allowed}"


def test_a_window_that_starts_after_its_end_is_refused_in_every_door() -> None:
    wrong = {"start": 0.9, "end": 0.1}
    flat = defaults()
    for place, control in enumerate(controls()):
        if control.person == 1 and control.name in {**wrong, "identity": ""}:
            flat[place] = wrong.get(control.name, "Zoe")
    for door, says in {
        lambda: Person(**wrong): "start is 0.9, end 0.1",
        lambda: from_api(wrong): "start is 0.9, end 0.1",
        lambda: from_flat(flat): "'Start' is 0.9, 'End' 0.1",
        lambda: arguments.settings(_parser().parse_args(["--window", "0.9-0.1"])): "--window is 0.9-0.1",
        lambda: AXES["start"].apply(Settings(people=(Person(end=0.1),)), 0.9): "[FaceSnap] Start, person 1 is 0.9",
    }.items():
        with pytest.raises(SettingsError) as refused:
            door()
        assert says in refused.value.what and refused.value.expected == "start not after end"
    pasted = read({"FaceSnap version": "1", "FaceSnap identity": "Z", "FaceSnap start": "0.9", "FaceSnap end": "0.1"})
    assert "FaceSnap start is 0.9, FaceSnap end 0.1" in pasted.problems[0]
    assert (pasted.settings.people[0].start, pasted.settings.people[0].end) == (0.0, 1.0)


def test_an_empty_window_is_taken_and_noted() -> None:
    person = from_api({"identity": "Zoe", "start": 0.5, "end": 0.5, "structure_start": 1, "structure_end": 1}).people[0]
    assert [text.partition(",")[0] for text in person.empty_windows()] == [
        "the window of the ID tokens is empty (0.5 to 0.5)", "the window of the landmarks is empty (1 to 1)"
    ]  # fmt: skip
    assert len(person.empty_windows(structure=False)) == 1
    assert dataclasses.replace(person, strength=0.0, structure=0.0).empty_windows() == []
    assert Person().empty_windows() == []


def test_the_gain_of_an_expression_travels_in_the_pose_values() -> None:
    place = next(n for n, one in enumerate(controls()) if one.name == "values")
    identity = next(n for n, one in enumerate(controls()) if one.name == "identity")
    flat = defaults()
    flat[place], flat[identity] = "yaw=20 gain=1.2", "Zoe"
    pose = from_flat(flat).people[0].pose
    assert (pose.yaw, pose.expression_gain) == (20.0, 1.2)
    assert to_flat(from_flat(flat))[place] == "yaw=20 gain=1.2"


def test_null_is_the_adapters_suggestion_and_an_absent_key_the_presets_value() -> None:
    assert from_api({"identity": "Zoe"}).people[0].strength == 0.8
    assert from_api({"identity": "Zoe", "preset": "Creative"}).people[0].structure == 0.5
    assert from_api({"identity": "Zoe", "strength": None, "structure": None}).people[0] == dataclasses.replace(
        from_api({"identity": "Zoe"}).people[0], strength=None, structure=None
    )
    assert from_api({"identity": "Zoe", "s_struct": None}).people[0].s_struct == 1.0


def test_texts_of_older_command_lines_are_read() -> None:
    """Written by the release before: the LoRA under other keys, the mode of PuLID under each person's."""
    text = (
        "FaceSnap adapter: faceid [0123456789], FaceSnap identity: astronaut [0123456789], FaceSnap structure: 0, "
        "FaceSnap 2 identity: Zoe [0123456789], FaceSnap version: 0.1.0, FaceSnap LoRA: 0.4, "
        "FaceSnap LoRA region: masked, FaceSnap expression gain: 0.5, FaceSnap 2 PuLID mode: style"
    )
    pasted = read(parse_parameters("a person\n" + text))
    first, second = pasted.settings.people
    assert (first.lora, first.lora_in_region, first.pose.expression_gain) == (0.4, True, 0.5)
    assert (second.lora, second.lora_in_region, pasted.settings.pulid_mode) == (1.0, False, "style")
    assert not pasted.problems and not pasted.missing
