"""X/Y/Z axes, through a grid with the host's own rules: shallow copies of p, text values, confirm before all cells."""

from __future__ import annotations

import copy
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given

from facesnap.errors import SettingsError
from facesnap.settings.model import Settings
from facesnap.settings.words import PRESETS
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.xyz import AXES, NOTES, PREFIX, apply_notes, find_grid, register
from tests.webui.strategies import SETTINGS_OBJECTS

BASE = parse([{"people": [{"references": "x"}, {"identity": "Ann", "pose": {"source": "none"}}]}])


class AxisOption:
    """As the host declares it."""

    def __init__(self, label: str, type: type, apply: Any, format_value: Any = None, confirm: Any = None,
                 cost: float = 0.0, choices: Any = None, prepare: Any = None) -> None:  # fmt: skip
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture
def grid() -> ModuleType:
    module = ModuleType("xyz_grid")
    module.AxisOption = AxisOption
    module.axis_options = [AxisOption("Nothing", str, None), AxisOption("Seed", int, None)]
    register(module, lambda: ["own", "other"], lambda: ["Zoe", "Ann"])
    return module


def _axis(grid: ModuleType, name: str) -> AxisOption:
    return next(option for option in grid.axis_options if option.label == AXES[name].label)


def test_cells_are_independent_and_the_settings_of_each_are_what_its_axes_say(grid: ModuleType) -> None:
    p = SimpleNamespace()
    strength, yaw, speed = (_axis(grid, name) for name in ("strength", "yaw", "speed"))
    seen = []
    for x in (0.2, 1.5):
        for y in (-30.0, 30.0):
            cell = copy.copy(p)
            strength.apply(cell, x, [0.2, 1.5])
            yaw.apply(cell, y, [-30, 30])
            speed.apply(cell, "Fast", ["Fast"])
            found = apply_notes(BASE, cell)
            assert found.speed == "fast" and all(one.strength == x and one.pose.yaw == y for one in found.people)
            assert [one.pose.source for one in found.people] == ["reference", "canvas"]
            seen.append(found)
    assert len({str(one) for one in seen}) == 4 and not hasattr(p, NOTES)
    assert apply_notes(BASE, p) == BASE


def test_registering_twice_leaves_one_of_each(grid: ModuleType) -> None:
    register(grid, list, list)
    labels = [option.label for option in grid.axis_options]
    assert labels[:2] == ["Nothing", "Seed"] and len(labels) == len(set(labels)) == 2 + len(AXES)
    assert {"Adapter", "Strength", "Structure strength", "Start", "End", "Speed", "Yaw", "Pitch", "Roll", "Expression",
            "Identity"} <= {label.removeprefix(PREFIX) for label in labels}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("strength", [0.0, 10.0], 10.5),
        ("yaw", [-90.0, 90.0], 91.0),
        ("speed", ["exact", "Balanced"], "slow"),
        ("expression", ["smile", "smile:0.5+wink_left"], "grin"),
        ("adapter", ["own", "Automatic"], "missing"),
        ("identity", ["Zoe"], "Bob"),
        ("preset", list(PRESETS), "Sharp"),
        ("end", [0.5], -0.1),
    ],
)
def test_values_are_checked_before_any_cell_is_made(grid: ModuleType, name: str, good: list, bad: Any) -> None:
    axis = _axis(grid, name)
    axis.confirm(None, good)
    with pytest.raises(SettingsError) as refused:
        axis.confirm(None, [*good, bad])
    assert AXES[name].label in refused.value.what


def test_an_adapter_may_be_called_otherwise_than_in_the_list(grid: ModuleType) -> None:
    """By its hash, as a copy of it, or with its family."""
    register(grid, lambda: ["own"], list, lambda name: name == "folder/copy")
    axis = _axis(grid, "adapter")
    axis.confirm(None, ["own", "folder/copy"])
    with pytest.raises(SettingsError, match="there is no 'nowhere'"):
        axis.confirm(None, ["nowhere"])


def test_choices_are_offered(grid: ModuleType) -> None:
    assert _axis(grid, "adapter").choices() == ["own", "other"] and _axis(grid, "identity").choices() == ["Zoe", "Ann"]
    assert _axis(grid, "speed").choices() == ["exact", "balanced", "fast"] and _axis(grid, "yaw").choices is None
    assert _axis(grid, "yaw").type is float and _axis(grid, "speed").type is str


def test_the_order_of_the_axes_does_not_matter() -> None:
    start, end, preset = ("start", 0.95), ("end", 0.99), ("preset", "Creative")
    for notes in ((start, end, preset), (preset, end, start), (end, preset, start)):
        found = apply_notes(BASE, SimpleNamespace(**{NOTES: notes}))
        assert (found.preset, found.people[0].start, found.people[0].end) == ("Creative", 0.95, 0.99)
    with pytest.raises(SettingsError, match="person 1"):
        apply_notes(parse([{"references": "x", "end": 0.5}]), SimpleNamespace(**{NOTES: (("start", 0.6),)}))


def test_an_identity_takes_the_place_of_the_first_persons_photos() -> None:
    found = apply_notes(BASE, SimpleNamespace(**{NOTES: (("identity", "Zoe"),)}))
    assert (found.people[0].identity, found.people[0].references) == ("Zoe", ()) and found.people[1] == BASE.people[1]
    assert apply_notes(Settings(enabled=True), SimpleNamespace(**{NOTES: (("identity", "Zoe"),)})).people


@given(SETTINGS_OBJECTS)
def test_an_axis_at_the_value_that_is_there_changes_nothing(settings: Settings) -> None:
    for name in ("speed", "hires"):
        if name in AXES:
            assert AXES[name].apply(settings, getattr(settings, name)) == settings
    for person in settings.people[:1]:
        one = Settings(enabled=True, people=(person,))
        for name in ("strength", "structure", "start", "end"):
            assert AXES[name].apply(one, getattr(person, name)) == one


def test_the_grid_is_found_among_the_hosts_scripts() -> None:
    module = ModuleType("xyz_grid.py")
    data = [SimpleNamespace(path="/webui/scripts/loopback.py", module=ModuleType("l")),
            SimpleNamespace(path="/webui/scripts/xyz_grid.py", module=module)]  # fmt: skip
    assert find_grid(data) is module and find_grid(data[:1]) is None
