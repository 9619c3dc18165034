"""Pictures that the canvas draws from: references, a pose picture, and the init image of each img2img tab."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facesnap.faces.identity import Identity
from facesnap.pipeline.shape import Shapes
from facesnap.settings.model import POSE_NUMBERS, Pose
from facesnap.webui.ui.send_to import INITS
from tests.webui.browser import JAVASCRIPT
from tests.webui.canvas.page import opened
from tests.webui.canvas.user import MODEL, SCREEN, Canvas
from tests.webui.standin.img2img import TABS


def test_a_pose_picture_can_be_copied(
    user: Canvas, astronaut: np.ndarray, tmp_path: Path, shapes: Shapes, known: dict[str, Identity]
) -> None:
    assert user.button("Pose picture").is_disabled()
    file = tmp_path / "pose.png"
    turned = Image.fromarray(np.ascontiguousarray(astronaut[:320, ::-1])).rotate(15)
    turned.save(file)
    user.page.locator("#facesnap_txt2img_p1_pose_image input[type=file]").set_input_files(file)
    user.until(f"{MODEL}.current.drivers.picture !== undefined")
    own = user.points()
    user.button("Pose picture").click()
    assert user.source() == "canvas" and set(user.pose()) == set(POSE_NUMBERS)
    driven = shapes.shape(known["Zoe"], Pose("picture", np.asarray(turned)), (512, 512))
    difference = np.abs(user.points() - driven.landmarks.points * 512).max()
    assert difference < 6 < np.abs(user.points() - own).max()  # the expression is the nearest mix of presets


def test_photos_are_read_when_they_change_and_errors_are_shown(
    browser: Any, address: str, astronaut: np.ndarray, tmp_path: Path
) -> None:
    page = opened(browser, address, **SCREEN)
    page.get_by_text("FaceSnap", exact=True).first.click()
    assert "Add a reference photo" in page.locator("#facesnap_txt2img_canvas").inner_text()
    photos = page.locator("#facesnap_txt2img_p1_references input[type=file]")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    photos.set_input_files(tmp_path / "black.png")
    page.wait_for_function(
        "document.querySelector('.facesnap-canvas-status').textContent.includes('No face was found')"
    )
    page.locator("#facesnap_txt2img_p1_references").get_by_role("button").first.click()  # take it away
    Image.fromarray(astronaut).save(tmp_path / "face.png")
    photos.set_input_files(tmp_path / "face.png")
    page.wait_for_function(f"{MODEL}.people.length === 1 && {MODEL}.people[0].shape")
    assert page.locator(".facesnap-canvas-status").first.inner_text() == ""
    page.context.close()


def test_img2img_shows_the_init_image_and_its_pose(browser: Any, address: str, tmp_path: Path, astronaut) -> None:
    page = opened(browser, address, **SCREEN)
    page.get_by_text("img2img", exact=True).first.click()
    page.locator("#facesnap_img2img").get_by_text("FaceSnap", exact=True).first.click()
    page.locator("#facesnap_img2img_p1_identity textarea, #facesnap_img2img_p1_identity input").first.fill("Zoe")
    Image.fromarray(np.ascontiguousarray(astronaut[:, ::-1])).save(tmp_path / "init.png")
    page.locator("#img2img_image input[type=file]").first.set_input_files(tmp_path / "init.png")
    page.wait_for_function("""() => {
        const canvas = facesnap.canvases.img2img;
        return canvas && canvas.model.current && canvas.model.current.drivers.init !== undefined;
    }""")
    root = page.locator("#facesnap_img2img_canvas")
    root.get_by_role("combobox", name="Backdrop").select_option("init")
    page.wait_for_function("document.querySelector('#facesnap_img2img_canvas image').getAttribute('href')")
    page.locator('#facesnap_img2img_p1_pose_source input[value="init"]').check()
    page.wait_for_function("facesnap.canvases.img2img.model.current.state.source === 'init'")
    resolved = page.evaluate("(({model}) => model.resolved(model.current).numbers)(facesnap.canvases.img2img)")
    reference = page.evaluate("facesnap.canvases.img2img.model.current.drivers.reference.angles")
    assert resolved["yaw"] == pytest.approx(-reference[0], abs=4) and resolved["x"] > 0.5  # hers in a mirror
    page.context.close()


@pytest.mark.parametrize("title, elem_id", [(title, elem_id) for title, elem_id, _ in TABS[1:]])
def test_each_tab_of_img2img_has_its_own_init_image(
    browser: Any, address: str, tmp_path: Path, astronaut: np.ndarray, title: str, elem_id: str
) -> None:
    """Not that of the tab beside it, nor a mask; a tab without a picture has none."""
    page = opened(browser, address, **SCREEN)
    page.get_by_text("img2img", exact=True).first.click()
    page.locator("#facesnap_img2img").get_by_text("FaceSnap", exact=True).first.click()
    page.locator("#facesnap_img2img_p1_identity textarea, #facesnap_img2img_p1_identity input").first.fill("Zoe")
    Image.fromarray(astronaut).save(tmp_path / "first.png")
    Image.fromarray(np.ascontiguousarray(astronaut[:, ::-1])).save(tmp_path / "own.png")
    page.locator("#img2img_image input[type=file]").first.set_input_files(tmp_path / "first.png")
    model = "facesnap.canvases.img2img.model"
    ready = f"!facesnap.canvases.img2img.waiting && {model}.current"
    page.wait_for_function(f"{ready} && {model}.current.drivers.init")
    first = page.evaluate(f"{model}.current.drivers.init.translation")
    tabs = page.locator("#mode_img2img > .tab-nav")
    tabs.get_by_text(title, exact=True).click()
    page.wait_for_function(f"{ready} && !{model}.current.drivers.init")  # it has none yet
    page.locator(f"#{elem_id} input[type=file]").first.set_input_files(tmp_path / "own.png")
    page.wait_for_function(f"{ready} && {model}.current.drivers.init")
    own = page.evaluate(f"{model}.current.drivers.init.translation")
    assert own[0] == pytest.approx(512 - first[0], abs=8) and abs(own[0] - first[0]) > 40  # in a mirror
    page.locator("#facesnap_img2img_canvas").get_by_role("combobox", name="Backdrop").select_option("init")
    page.wait_for_function("document.querySelector('#facesnap_img2img_canvas image').getAttribute('href')")
    tabs.get_by_text("Batch", exact=True).click()
    page.wait_for_function(f"{ready} && !{model}.current.drivers.init")
    tabs.get_by_text("img2img", exact=True).click()
    page.wait_for_function(f"{ready} && {model}.current.drivers.init")
    assert page.evaluate(f"{model}.current.drivers.init.translation") == first
    page.context.close()


def test_the_page_and_its_script_name_the_same_pictures() -> None:
    script = (JAVASCRIPT / "facesnap_canvas_page.js").read_text(encoding="utf-8")
    assert tuple(re.findall(r'"(\w+)"', script.partition("const INITS = [")[2].partition("]")[0])) == INITS
    assert {elem_id for _, elem_id, _ in TABS} == {*INITS}
