"""Poses on the canvas, in a real Chromium, in a page of the Gradio that is installed: what users do to a face."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facesnap.errors import PackError
from facesnap.faces.identity import Identity
from facesnap.landmarks.render import render_landmarks
from facesnap.pipeline.shape import Shapes
from facesnap.settings.model import POSE_NUMBERS
from facesnap.webui.ui import canvas
from tests.webui.canvas.page import identities
from tests.webui.canvas.user import MODEL, PHONE, Canvas


def test_the_reference_appears_as_the_server_has_it(user: Canvas, predicted: Callable[..., np.ndarray]) -> None:
    assert user.source() == "reference" and user.pose() == {}
    assert np.abs(user.points() - predicted({"source": "reference"})).max() < 0.1


def test_dragging_the_face_moves_it_and_the_controls_follow(user: Canvas, predicted: Callable[..., np.ndarray]) -> None:
    before, start = user.points(), user.place('[data-number="1"] .facesnap-canvas-area')
    start = (start[0], start[1] + 25)  # beside the nose knob
    user.drag(start, (start[0] + 60, start[1] + 90))
    assert set(user.pose()) == set(POSE_NUMBERS) and user.source() == "canvas"
    moved = user.points().mean(0) - before.mean(0)
    assert moved == pytest.approx(np.array([60, 90]) / user.scale(), abs=3)
    pose, _ = user.understood()
    assert pose["source"] == "canvas" and {name: pose[name] for name in POSE_NUMBERS} == user.pose()
    assert np.abs(user.points() - predicted(pose)).max() < 0.1  # whatever was done, the server draws the same


def test_handles_size_turn_and_tilt(user: Canvas, predicted: Callable[..., np.ndarray]) -> None:
    user.type_pose("x=0.5 y=0.5 size=0.4")
    centre = user.place(".facesnap-canvas-ring .facesnap-canvas-mark")
    user.drag(corner := user.place(".facesnap-canvas-corner .facesnap-canvas-mark"), [1.5 * a - 0.5 * c for a, c in
             zip(corner, centre, strict=True)])  # fmt: skip
    assert user.pose()["size"] == pytest.approx(0.6, abs=0.01)
    nose = user.place(".facesnap-canvas-nose .facesnap-canvas-mark")
    user.drag(nose, (nose[0] + 40, nose[1] - 30))
    turned = user.pose()
    assert turned["yaw"] > 8 and turned["pitch"] > 6 and turned["roll"] == 0  # to the right, and up
    knob = user.place(".facesnap-canvas-knob .facesnap-canvas-mark")
    user.drag(knob, (centre[0] + (centre[1] - knob[1]), centre[1]))  # from twelve to three o'clock
    tilted = user.pose()
    assert tilted["roll"] == pytest.approx(90, abs=1) and tilted["yaw"] == turned["yaw"]
    ring = user.page.evaluate("facesnap.canvases.txt2img.drawing.handles.ring.mark.getBoundingClientRect().width / 2")
    away = [centre[axis] + ring * np.cos(np.pi / 8) * (-1) ** axis for axis in (0, 1)]
    away[1] = centre[1] + ring * np.sin(np.pi / 8)
    user.drag(tuple(away), (away[0] - 30, away[1] + 60))  # the ring itself
    assert user.pose()["roll"] > 95
    pose, _ = user.understood()
    assert np.abs(user.points() - predicted(pose)).max() < 0.1


def test_the_wheel_sizes_a_face_and_scrolls_the_page_elsewhere(user: Canvas) -> None:
    user.type_pose("x=0.3 y=0.5 size=0.4")
    user.page.mouse.move(*user.place(".facesnap-canvas-nose .facesnap-canvas-mark"))
    user.page.mouse.wheel(0, -300)
    user.until(f"{MODEL}.current.state.numbers.size > 0.5")
    box = user.stage.bounding_box()
    size, top = user.pose()["size"], user.page.evaluate("window.scrollY")
    user.page.set_viewport_size({"width": 1280, "height": 600})
    user.stage.scroll_into_view_if_needed()
    box, top = user.stage.bounding_box(), user.page.evaluate("window.scrollY")
    user.page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 40)
    user.page.mouse.wheel(0, 200 if top == 0 else -200)
    user.until("(top) => window.scrollY !== top", top)
    assert user.pose()["size"] == size


def test_keys_do_all_that_the_mouse_does(user: Canvas) -> None:
    keyboard = user.page.keyboard
    user.type_pose("x=0.3 y=0.5 size=0.3")
    user.type_pose("x=0.7 y=0.5 size=0.3", 2)
    user.stage.locator('[data-number="1"]').focus()
    pressed = {
        "ArrowRight": ("x", 0.31), "ArrowUp": ("y", 0.49), "Shift+ArrowRight": ("yaw", 2),
        "Shift+ArrowUp": ("pitch", 2), "]": ("roll", 2), "+": ("size", 0.309), "ArrowLeft": ("x", 0.3),
        "ArrowDown": ("y", 0.5), "Shift+ArrowLeft": ("yaw", 0), "Shift+ArrowDown": ("pitch", 0), "[": ("roll", 0),
        "-": ("size", 0.3),
    }  # fmt: skip
    for key, (name, value) in pressed.items():
        keyboard.press(key)
        assert user.pose()[name] == pytest.approx(value, abs=1e-4), key
    assert user.pose(2) == {"x": 0.7, "y": 0.5, "size": 0.3}
    for _ in pressed:
        keyboard.press("Control+z")
    assert user.pose() == {"x": 0.3, "y": 0.5, "size": 0.3}
    keyboard.press("Control+y")
    assert user.pose()["x"] == 0.31
    keyboard.press("Tab")
    assert user.page.evaluate("document.activeElement.dataset.number") == "2"
    assert user.page.evaluate(f"{MODEL}.selected") == 2
    ring = user.stage.locator(".facesnap-canvas-ring .facesnap-canvas-mark")
    opacity = "(one) => Number(getComputedStyle(one).strokeOpacity)"
    assert ring.evaluate(opacity) > 0.8  # the focus can be seen
    user.button("Mirror").focus()
    assert ring.evaluate(opacity) < 0.5
    user.stage.locator('[data-number="2"]').focus()
    keyboard.down("ArrowLeft")
    keyboard.down("ArrowLeft")
    keyboard.up("ArrowLeft")  # held down: one step of undo
    assert user.pose(2)["x"] == pytest.approx(0.68)
    keyboard.press("Control+z")
    assert user.pose(2) == {"x": 0.7, "y": 0.5, "size": 0.3}
    label = user.stage.locator('[data-number="2"]').get_attribute("aria-label")
    assert "Max" in label and "70 percent from the left" in label and "yaw 0" in label
    keyboard.press("Home")
    user.settled()
    assert "Max: yaw 0, pitch 0, roll 0" in user.root.locator(".facesnap-canvas-spoken").inner_text()


def test_fingers_move_and_pinch(browser: Any, address: str) -> None:
    phone = Canvas(browser, address, **PHONE)
    phone.type_pose("x=0.5 y=0.6 size=0.4")
    phone.stage.scroll_into_view_if_needed()
    session = phone.page.context.new_cdp_session(phone.page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    x, y = phone.place('[data-number="1"] .facesnap-canvas-area')
    before, y = phone.stage.bounding_box(), y + 40  # beside the nose knob's reach
    touch("touchStart", (x, y))
    for step in range(1, 5):
        touch("touchMove", (x - 8 * step, y - 10 * step))
    touch("touchEnd")
    moved = phone.pose()
    assert moved["x"] == pytest.approx(0.5 - 32 / phone.scale() / 512, abs=0.01)
    assert moved["y"] == pytest.approx(0.6 - 40 / phone.scale() / 512, abs=0.01)
    assert phone.stage.bounding_box()["y"] == pytest.approx(before["y"], abs=2)  # the page stayed
    x, y = phone.place('[data-number="1"] .facesnap-canvas-area')
    y += 40
    touch("touchStart", (x, y))
    touch("touchStart", (x, y), (x, y + 40))
    for step in range(1, 5):
        touch("touchMove", (x, y), (x - 15 * step, y + 40))
    touch("touchEnd")
    pinched = phone.pose()
    assert pinched["size"] == pytest.approx(0.4 * np.hypot(60, 40) / 40, rel=0.03)
    assert pinched["roll"] == pytest.approx(np.degrees(np.arctan2(60, 40)), abs=2)
    width = phone.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]  # nothing sticks out of a phone
    assert phone.errors == []
    phone.page.context.close()


def test_every_edit_can_be_undone_and_done_again(user: Canvas) -> None:
    states = [(user.source(), user.pose(), user.source(2), user.pose(2))]

    def did() -> None:
        states.append((user.source(), user.pose(), user.source(2), user.pose(2)))

    user.type_pose("yaw=30 x=0.3 y=0.5 size=0.4 roll=10")
    user.field(1, "pose_expression").fill("wink_left:0.5")
    user.settled()
    states[0] = (user.source(), user.pose(), user.source(2), user.pose(2))
    user.button("Mirror").click()
    did()
    assert user.pose() == {"yaw": -30, "pitch": 0, "roll": -10, "x": 0.7, "y": 0.5, "size": 0.4}
    assert user.field(1, "pose_expression").input_value() == "wink_right:0.5"
    user.button("Front").click()
    did()
    assert (user.pose()["yaw"], user.pose()["roll"]) == (0, 0)
    user.button("2 Max").click()
    user.root.get_by_role("slider", name="Smile").fill("0.6")
    did()
    assert user.source(2) == "canvas" and "smile:0.6" in user.field(2, "pose_expression").input_value()
    user.root.get_by_role("spinbutton", name="Pitch").fill("12")
    user.root.get_by_role("spinbutton", name="Pitch").press("Tab")
    did()
    assert user.pose(2)["pitch"] == 12
    user.button("Reset").click()
    did()
    assert user.source(2) == "reference" and user.pose(2) == {} and user.source(1) == "canvas"
    user.button("Reset all").click()
    did()
    assert user.source() == "reference" and user.pose() == {}
    assert user.field(1, "pose_expression").input_value() == ""
    for state in states[-2::-1]:
        user.button("Undo").click()
        assert (user.source(), user.pose(), user.source(2), user.pose(2)) == state
    assert user.button("Undo").is_disabled()
    for state in states[1:]:
        user.button("Redo").click()
        assert (user.source(), user.pose(), user.source(2), user.pose(2)) == state
    assert user.button("Redo").is_disabled()


def test_a_pasted_text_is_followed_and_a_wrong_one_is_named(user: Canvas, predicted: Callable[..., np.ndarray]) -> None:
    user.type_pose("yaw=-25 x=0.25 size=0.3")
    user.field(1, "pose_expression").fill("open mouth:0.7 + frown")
    pose, _ = user.understood()
    assert pose["expression"] == {"frown": 1.0, "open_mouth": 0.7}
    assert np.abs(user.points() - predicted(pose)).max() < 0.1
    shown = user.points()
    status = user.root.locator(".facesnap-canvas-status")
    for text, words in (("yaw=400", "yaw"), ("tilt=3", "tilt=3")):
        user.field(1, "pose_values").fill(text)
        user.until("(words) => document.querySelector('.facesnap-canvas-status').textContent.includes(words)", words)
        assert np.array_equal(user.points(), shown) and status.get_attribute("data-kind") == "error"
    user.field(1, "pose_values").fill("yaw=10")
    user.until("document.querySelector('.facesnap-canvas-status').textContent === ''")
    assert not np.array_equal(user.points(), shown)


def test_everybody_follows_their_own_controls(user: Canvas) -> None:
    user.type_pose("yaw=7,roll=.5", 2)
    user.type_pose("x=0.3")
    user.stage.locator('[data-number="1"]').focus()
    user.page.keyboard.press("ArrowRight")
    assert user.pose()["x"] == 0.31
    assert user.field(2, "pose_values").input_value() == "yaw=7,roll=.5"  # as it was typed
    user.field(2, "identity").fill("")
    user.until(f"{MODEL}.people.length === 1")
    user.field(2, "pose_values").fill("yaw=20 x=0.6")
    user.field(2, "identity").fill("Max")
    user.until(f"{MODEL}.people.length === 2 && {MODEL}.person(2).state.numbers.yaw === 20")


def test_the_size_of_the_picture_is_followed(user: Canvas, predicted: Callable[..., np.ndarray]) -> None:
    user.choose(1, "canvas")
    width = user.page.locator("#txt2img_width input[type=number]")
    width.fill("1024")
    width.press("Tab")
    user.until(f"{MODEL}.size[0] === 1024")
    user.page.locator("#txt2img_swap").click()  # changes the fields without an event
    user.until(f"{MODEL}.size[0] === 512 && {MODEL}.size[1] === 1024")
    user.until("facesnap.canvases.txt2img.frame === null")
    box = user.stage.bounding_box()
    assert box["height"] > 1.5 * box["width"]
    assert np.abs(user.points() - predicted({"source": "canvas"}, (512, 1024))).max() < 0.1


def test_the_networks_picture_is_the_servers(user: Canvas, predicted: Callable[..., np.ndarray]) -> None:
    user.type_pose("yaw=20 x=0.27 y=0.5 size=0.42")
    user.type_pose("yaw=-30 roll=15 x=0.73 y=0.5 size=0.4", 2)
    user.root.get_by_label("Network's picture").check()
    poses = user.understood()
    # One pixel of the screen for one of the picture.
    style = user.page.add_style_tag(
        content="svg.facesnap-canvas-stage { position: fixed; inset: 0; width: 512px; margin: 0; z-index: 9999; }"
    )
    user.until("document.querySelector('.facesnap-canvas-stage').getBoundingClientRect().height === 512")
    found = np.asarray(Image.open(io.BytesIO(user.stage.screenshot())).convert("RGB")).astype(int)
    style.evaluate("(style) => style.remove()")
    points = [predicted(pose, name=name) / 512 for pose, name in zip(poses, ("Zoe", "Max"), strict=True)]
    expected = render_landmarks(points, (512, 512)).astype(int)
    assert found.shape == expected.shape and expected.max() == 255
    # Dots are drawn anti-aliased by two rasterisers: edges may differ, no dot may lie a pixel off.
    assert np.abs(found - expected).mean() < 0.35
    shifted = np.abs(np.roll(found, 1, axis=1) - expected).mean()
    assert shifted > 3 * np.abs(found - expected).mean()


def test_the_server_always_answers(shapes: Shapes, known: dict[str, Identity]) -> None:
    def no_pack() -> Shapes:
        raise PackError("No pack.", expected="one", remedy="get one")

    def broken(*_: Any) -> Identity:
        raise ZeroDivisionError("somewhere")

    unnamed = [None] * len(canvas.who_is_drawn())
    named = list(unnamed)
    named[[c.name for c in canvas.who_is_drawn()].index("identity")] = "Zoe"
    wrong = list(named)
    wrong[[c.name for c in canvas.who_is_drawn()].index("face")] = "the nice one"
    assert canvas.reply(unnamed, identities(shapes, known), lambda: shapes)["people"] == []
    assert "No pack." in canvas.reply(named, identities(shapes, known), no_pack)["error"]
    assert "ZeroDivisionError" in canvas.reply(named, broken, lambda: shapes)["error"]
    (refused,) = canvas.reply(wrong, identities(shapes, known), lambda: shapes)["people"]
    assert "the nice one" in refused["error"] and refused["number"] == 1
    first, second = (canvas.reply(named, identities(shapes, known), lambda: shapes) for _ in range(2))
    assert first["serial"] != second["serial"] and first["people"] == second["people"] != []
    assert json.loads(json.dumps(first)) == first
