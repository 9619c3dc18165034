"""What a user does with the pose canvas, and what they read off it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.webui.canvas.page import opened

MODEL = "facesnap.canvases.txt2img.model"
SCREEN = {"viewport": {"width": 1280, "height": 1500}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


class Canvas:
    """A page with some people on the canvas of txt2img, as its user sees it."""

    def __init__(self, browser: Any, address: str, names: tuple[str, ...] = ("Zoe",), **context: Any) -> None:
        self.page = opened(browser, address, **(context or SCREEN))
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.get_by_text("FaceSnap", exact=True).first.click()
        for number, name in enumerate(names, 1):
            self.field(number, "identity").fill(name)
        self.until(f"{MODEL}.people.length === {len(names)} && !facesnap.canvases.txt2img.waiting")
        self.root = self.page.locator("#facesnap_txt2img_canvas")
        self.stage = self.root.locator(".facesnap-canvas-stage")
        self.stage.scroll_into_view_if_needed()

    def field(self, number: int, name: str) -> Any:
        within = f"#facesnap_txt2img_p{number}_{name}"
        return self.page.locator(f"{within} textarea, {within} input").first

    def until(self, condition: str, argument: Any = None) -> None:
        self.page.wait_for_function(condition, arg=argument, timeout=30_000)

    def fresh(self) -> None:
        """Everybody as in the photo, on a picture of 512 x 512, and no history."""
        for name in ("width", "height"):
            self.page.locator(f"#txt2img_{name} input[type=number]").fill("512")
        self.root.get_by_label("Network's picture").uncheck()
        self.page.evaluate(f"""() => {{
            const model = {MODEL};
            model.reset(model.people.map((one) => one.number));
            Object.assign(model, {{past: [], future: []}});
            model.select(1);
        }}""")
        self.until(f"{MODEL}.size.join() === '512,512'")
        self.settled()

    def choose(self, number: int, source: str) -> None:
        self.page.locator(f'#facesnap_txt2img_p{number}_pose_source input[value="{source}"]').check()

    def source(self, number: int = 1) -> str:
        self.settled()
        return self.page.locator(f"#facesnap_txt2img_p{number}_pose_source input:checked").get_attribute("value")

    def type_pose(self, text: str, number: int = 1) -> None:
        """Into the text box, as pasting an infotext does, with the canvas as the source."""
        self.choose(number, "canvas")
        self.field(number, "pose_values").fill(text)
        self.settled()

    def settled(self) -> None:
        """Until the controls and the canvas say the same, and it is drawn."""
        self.until("""() => {
            const {model, page, writing, frame, input} = facesnap.canvases.txt2img;
            return writing === null && frame === null && !input.busy && !model.before && model.people.every((one) =>
                page.seen.get(one.number) === JSON.stringify(page.said(one.number)));
        }""")

    def pose(self, number: int = 1) -> dict[str, float]:
        """The numbers in the text box."""
        self.settled()
        text = self.field(number, "pose_values").input_value()
        return {part.partition("=")[0]: float(part.partition("=")[2]) for part in text.split()}

    def points(self, number: int = 1) -> np.ndarray:
        """(72, 2), as drawn: the dots' path, in pixels of the picture."""
        path = self.stage.locator(f'[data-number="{number}"] .facesnap-canvas-dots').get_attribute("d")
        return np.array([[float(n) for n in dot.removesuffix("h0").split()] for dot in path.split("M")[1:]])

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element, on the screen."""
        self.settled()
        self.stage.scroll_into_view_if_needed()
        box = self.stage.locator(selector).first.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def scale(self) -> float:
        """Pixels of the screen for one of the picture."""
        return self.page.evaluate("1 / facesnap.canvases.txt2img.drawing.unit")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        mouse.move(*end)
        mouse.up()

    def button(self, name: str) -> Any:
        return self.root.get_by_role("button", name=name, exact=True)

    def understood(self) -> list[dict[str, Any]]:
        """The poses that the server makes of the controls."""
        self.settled()
        said = self.page.locator("#txt2img_said textarea")
        before = said.input_value()
        self.page.locator("#txt2img_generate").click()
        self.until("(old) => document.querySelector('#txt2img_said textarea').value !== old", before)
        return json.loads(said.input_value())["poses"]
