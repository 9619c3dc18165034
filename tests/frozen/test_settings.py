"""Keys, settings, texts, options and routes are what they were: see `facts` and `cases`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.frozen import cases, doors, facts
from tests.frozen.store import differences, load, masked


@pytest.mark.parametrize("name", [name for name in facts.FACTS if name not in ("infotexts", "texts", "environment")])
def test_facts_are_as_they_were(name: str) -> None:
    found = differences(doors.plain(facts.FACTS[name]()), load(name))
    assert not found, "\n".join(found[:20])


def test_order_of_the_controls() -> None:
    """A flat list is read by place: nothing may be put between."""
    now, before = ([one["txt2img"] for one in found] for found in (doors.controls(3), load("controls")))
    assert now == before


@pytest.mark.skipif(os.name == "nt", reason="the frozen paths are of POSIX systems")
def test_folders_and_variables_are_as_they_were() -> None:
    assert facts.environment() == load("environment")


@pytest.mark.parametrize("number", range(len(cases.WRITTEN)))
def test_the_same_infotext_is_written_and_every_old_one_restores_the_same(number: int) -> None:
    before = load("infotexts")[number]
    case, most = before["case"], before["case"].get("most_people", 3)
    assert case == doors.plain(cases.WRITTEN[number])
    written = doors.write_infotext(case["args"], most, case.get("adapter", ()), case.get("seen", ()))
    assert masked(written) == masked(before["text"])
    for text in (before["text"], written):
        found = facts.restored(text, most)
        assert not differences(found, {key: before[key] for key in found})


@pytest.mark.parametrize("before", load("texts"), ids=lambda one: one["name"])
def test_other_texts_restore_what_they_did(before: dict[str, Any]) -> None:
    if "known" in before:
        assert not differences(doors.read_infotext(before["text"], 3, before["known"]), before["restored"])
    else:
        found = facts.restored(before["text"])
        assert not differences(found, {key: before[key] for key in found})


def test_the_cases_name_every_key() -> None:
    """What is not asked for is not frozen: every key of the API stands in a payload with another value than its own."""
    schema, plain = load("schema")["properties"], doors.settings_of([cases.ANN])
    asked = doors.settings_of([cases.EVERYTHING])
    person, bare = asked["people"][0], plain["people"][0]
    plain = {key: value for key, value in plain.items() if key in schema or key == "people"}  # newer keys are no matter
    same = [key for key in plain if key not in ("enabled", "people") and asked[key] == plain[key]]
    known = set(schema["people"]["anyOf"][0]["items"]["properties"]["pose"]["anyOf"][0]["properties"])
    same += [key for key in bare if key not in ("identity", "pose") and person[key] == bare[key]]
    same += [f"pose.{key}" for key in known if person["pose"][key] == bare["pose"][key]]
    assert not same and set(schema) == {*plain, *bare}
    saved = cases.SAVED_OPTIONS[1]
    assert [one["key"] for one in load("options")["lines"] if one["default"] == saved.get(one["key"])] == []


def test_the_note_of_a_picture_without_facesnap() -> None:
    assert doors.skipped_note(ValueError("No face: none,\nat all.")) == 'FaceSnap skipped: "No face: none, at all."'
