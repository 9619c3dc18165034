"""The browser draws what the Landmark Predictor returns: a real person's scene, any pose, within a pixel."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.errors import FaceSnapError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import Identity
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.recombination import nearest_mix
from facesnap.landmarks.scheme import POINT_COUNT
from facesnap.pipeline.cache import ContentCache
from facesnap.pipeline.shape import Shapes
from facesnap.settings.field_types import ExpressionMix
from facesnap.settings.model import POSE, Person, Pose
from facesnap.settings.words import EXPRESSIONS, FRAMINGS
from facesnap.webui.generation.controls import BOX_NUMBERS, PoseValues
from facesnap.webui.generation.people import pose_for
from facesnap.webui.ui.scene import lines, scene
from tests.webui.browser import JAVASCRIPT
from tests.webui.strategies import values

SIZES = ((1024, 1024), (1024, 640), (512, 768))
LIMITS = {"x": (-1, 2), "y": (-1, 2)}  # wider ones leave the picture far behind
DRAWN = """([scene, cases]) => cases.map(({state, size}) => {
    const person = scene.people[0];
    const resolved = facesnap.pose.resolve(scene, person, state, size);
    return resolved && facesnap.pose.points(scene, person, resolved, size);
})"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Any:
    found = browser.new_page()
    for name in ("facesnap_pose.js", "facesnap_pose_text.js"):
        found.add_script_tag(path=JAVASCRIPT / name)
    return found


@pytest.fixture(scope="module")
def shapes(face_pack: Path) -> Shapes:
    return Shapes(FaceAnalyser(face_pack), ContentCache(64 << 20))


@pytest.fixture(scope="module")
def identity(shapes: Shapes, astronaut: np.ndarray) -> Identity:
    face = shapes.analyser.face(astronaut)
    return Identity.from_faces([face], name="Eileen", landmarks=shapes.landmarks([face]))


@pytest.fixture(scope="module")
def driver(astronaut: np.ndarray) -> np.ndarray:
    """Another pose: mirrored, turned by a quarter of a right angle, of other proportions."""
    from PIL import Image

    turned = Image.fromarray(np.ascontiguousarray(astronaut[:320, ::-1])).rotate(20)
    return np.asarray(turned)


@pytest.fixture(scope="module")
def drawn(shapes: Shapes, identity: Identity, driver: np.ndarray) -> dict[str, Any]:
    """The scene as the browser gets it: through JSON."""
    person = Person(identity="Eileen", pose=Pose(image=driver))
    init = np.ascontiguousarray(driver[:, 60:])
    return json.loads(json.dumps(scene([(1, person)], lambda *_: identity, shapes, init)))


def _poses(seed: int, count: int) -> list[Pose]:
    """Random poses, whose numbers and expressions are there or not."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        given = {n: float(rng.uniform(*LIMITS.get(n, (POSE[n].kind.low, POSE[n].kind.high))))
                 for n in BOX_NUMBERS.values() if rng.random() < 0.6}  # fmt: skip
        given["size"] = float(rng.uniform(0.02, 1)) if rng.random() < 0.6 else None  # wider ones leave 1024 px
        mix = {name: float(rng.uniform(0, 1)) for name in EXPRESSIONS if rng.random() < 0.3} or None
        source = str(rng.choice(["reference", "picture", "init", "canvas"]))
        found.append(Pose(source, expression=mix, framing=str(rng.choice(FRAMINGS)), **given))
    return found


def test_the_browser_draws_what_the_predictor_returns(
    page: Any, shapes: Shapes, identity: Identity, driver: np.ndarray, drawn: dict[str, Any],
    record_property: Any,
) -> None:  # fmt: skip
    poses = _poses(0, 600)
    cases, expected = [], []
    for n, pose in enumerate(poses):
        size = SIZES[n % len(SIZES)]
        init = np.ascontiguousarray(driver[:, 60:])
        given = pose_for(Pose(**{**vars(pose), "image": driver}), init)
        expected.append(shapes.shape(identity, given, size).landmarks.points * size)
        numbers = {**pose.numbers, "gain": pose.expression_gain}
        state = {"source": pose.source, "framing": pose.framing, "numbers": numbers, "expression": pose.expression}
        cases.append({"state": state, "size": size})
    found = np.array(page.evaluate(DRAWN, [drawn, cases]))  # (N, 72, 2)
    worst = float(np.abs(found - np.array(expected)).max())
    record_property("largest_difference_px", worst)
    print(f"largest difference at up to 1024 px, {len(poses)} poses: {worst:.4f} px")
    assert worst < 0.1
    assert np.ptp(found, axis=0).min() > 200  # and they are poses apart


def test_sources_without_a_pose_draw_nothing(page: Any, shapes: Shapes, identity: Identity) -> None:
    bare = scene([(1, Person(identity="Eileen"))], lambda *_: identity, shapes)
    states = [{"source": s, "framing": "keep framing", "numbers": {}, "expression": None} for s in ("none", "picture")]
    assert page.evaluate(DRAWN, [bare, [{"state": one, "size": [512, 512]} for one in states]]) == [None, None]


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(tuple(BOX_NUMBERS)), st.none()), st.data())
def test_numbers_travel_as_text_both_ways(
    page: Any, drawn: dict[str, Any], names: dict[str, None], data: st.DataObject
) -> None:
    numbers = {name: data.draw(values(POSE[BOX_NUMBERS[name]].kind)) for name in names}
    given = {BOX_NUMBERS[name]: number for name, number in numbers.items()}
    text = PoseValues().text(given)
    read = "([text, ranges]) => facesnap.poseText.readNumbers(text, ranges)"
    assert page.evaluate(read, [text, drawn["ranges"]]) == numbers
    written = page.evaluate("(numbers) => facesnap.poseText.writeNumbers(numbers)", numbers)
    assert PoseValues().read(written, "it") == given


@settings(max_examples=40)
@given(values(ExpressionMix()))
def test_expressions_travel_as_text_both_ways(page: Any, mix: dict[str, float]) -> None:
    text = ExpressionMix().text(mix)
    names = [name for name in EXPRESSIONS if name != "neutral"]
    read = "([text, names]) => facesnap.poseText.readExpression(text, names)"
    assert page.evaluate(read, [text, names]) == mix
    rounded = {name: round(amount, 2) for name, amount in mix.items()}
    written = page.evaluate("(mix) => facesnap.poseText.writeExpression(mix)", rounded)
    shown = {name: amount for name, amount in rounded.items() if amount and name != "neutral"}
    assert ExpressionMix().read(written, "it") == (shown or {"neutral": 1.0})


@pytest.mark.parametrize(
    "text", ["", "yaw=20", "yaw=20,x=.5", "yaw=20 yaw=3", "yaw", "yaw=", "yaw=abc", "yaw=91", "tilt=3", "size=1e-1",
             "x=nan", "yaw =20", "yaw=0x10", "y=2.0", "roll=-180"],
)  # fmt: skip
def test_the_browser_reads_numbers_where_the_server_does(page: Any, drawn: dict[str, Any], text: str) -> None:
    try:
        expected: Any = PoseValues().read(text, "it")
    except SettingsError:
        expected = None
    attempt = "([t, r]) => { try { return facesnap.poseText.readNumbers(t, r); } catch (error) { return null; } }"
    assert page.evaluate(attempt, [text, drawn["ranges"]]) == expected


@pytest.mark.parametrize(
    "text", ["smile", "smile:0.8+wink_left", " smile : .5 + open mouth", "smile+smile", "grin", "smile:1.2",
             "smile:1.6", "smile:",
             "eyes-closed:1.", "neutral", "smile 0.5", "+"],
)  # fmt: skip
def test_the_browser_reads_expressions_where_the_server_does(page: Any, drawn: dict[str, Any], text: str) -> None:
    try:
        expected: Any = ExpressionMix().read(text, "it")
    except FaceSnapError:
        expected = None
    attempt = "([t, n]) => { try { return facesnap.poseText.readExpression(t, n); } catch (error) { return null; } }"
    assert page.evaluate(attempt, [text, list(drawn["presets"])]) == expected


@settings(max_examples=40)
@given(st.floats(-89, 89), st.floats(-59, 59), st.floats(-179, 179))
def test_the_nose_knob_turns_the_head_where_it_is_drawn(page: Any, yaw: float, pitch: float, roll: float) -> None:
    turned = """({yaw, pitch, roll}) => [facesnap.pose.gaze({yaw, pitch, roll}), facesnap.pose.rotationRows(yaw, pitch,
        roll), facesnap.pose.lookingAt(facesnap.pose.gaze({yaw, pitch, roll}), roll)]"""
    gaze, rows, back = page.evaluate(turned, {"yaw": yaw, "pitch": pitch, "roll": roll})
    assert gaze == pytest.approx([-rows[0][2], -rows[1][2]], abs=1e-9)  # the face looks along -z
    assert [back["yaw"], back["pitch"]] == pytest.approx([yaw, pitch], abs=1e-4)


def test_who_cannot_be_drawn_has_a_reason_in_their_place(shapes: Shapes, identity: Identity) -> None:
    def identity_of(person: Person, number: int) -> Identity:
        if number == 2:
            raise SettingsError("Nobody is called Bob.", expected="a name", remedy="choose another")
        return identity

    blank = np.full((64, 64, 3), 127, np.uint8)
    people = [(n, Person(identity="x", pose=Pose(image=blank if n == 3 else None))) for n in (1, 2, 3)]
    first, second, third = scene(people, identity_of, shapes)["people"]
    assert "Nobody is called Bob." in second["error"] and "shape" not in second
    assert set(first["drivers"]) == {"reference"} and len(first["shape"]) == 3 * POINT_COUNT
    assert "No face was found in the driver picture" in third["drivers"]["picture"]["error"] and "shape" in third


def test_lines_go_through_every_point_once() -> None:
    through = [index for line in lines() for index in (line[:-1] if line[0] == line[-1] else line)]
    assert sorted(through) == list(range(POINT_COUNT))
    mean = Basis.load().mean
    steps = [np.linalg.norm(mean[a] - mean[b]) for line in lines() for a, b in pairwise(line)]
    assert max(steps) < 0.35  # of the outer-eye distance: no line jumps across the face


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(EXPRESSIONS[1:]), st.integers(5, 100), max_size=3))
def test_a_mix_of_presets_is_found_again(mix: dict[str, int]) -> None:
    presets = Basis.load().presets
    wanted = {name: amount / 100 for name, amount in mix.items()}
    offset = sum((amount * presets[name] for name, amount in wanted.items()), np.zeros((POINT_COUNT, 3)))
    found = nearest_mix(offset, presets)
    shown = sum((amount * presets[name] for name, amount in found.items()), np.zeros((POINT_COUNT, 3)))
    assert np.abs(shown - offset).max() < 0.02  # of the outer-eye distance
