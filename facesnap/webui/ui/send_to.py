""" "Send to img2img" and "Send to inpaint" take the pictures over too.

Values travel with the WebUI's own `paste_field_names`. Pictures are copied in the browser, from control to control:
an uploaded file cannot be handed to the server and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from facesnap.webui.ui.events import in_browser

BUTTONS = ("txt2img_send_to_img2img", "txt2img_send_to_inpaint")  # below the gallery of txt2img
# What holds the picture that img2img starts from: img2img, Sketch, Inpaint, Inpaint sketch, Inpaint upload. The same
# list is in javascript/facesnap_canvas_page.js.
INITS = ("img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch", "img_inpaint_base")
INIT_IN_FORGE = "logical_image_background"  # the class of what holds the picture of Forge's own canvas
LAST = "footer"  # what both hosts make last, when both tabs are there


class SendTo:
    """Waits for both tabs and the buttons of one page, then connects them."""

    def __init__(self) -> None:
        self._pictures: dict[str, list[Any]] = {}
        self._buttons: dict[str, Any] = {}
        self.inits: dict[str, Any] = {}  # of INITS, the controls with the pictures that img2img starts from
        self._awaited = ""  # the one of INITS whose control comes next

    def add_tab(self, tab: str, pictures: list[Any]) -> None:
        """The picture controls of a tab, in the controls' order. A tab that is made again replaces the former."""
        self._pictures[tab] = pictures

    def after_component(
        self, component: Any, elem_id: str | None = None, elem_classes: Sequence[str] | str | None = None, **_: Any
    ) -> None:
        """For `script_callbacks.on_after_component`."""
        if elem_id in BUTTONS:
            self._buttons[str(elem_id)] = component
        elif elem_id in INITS and isinstance(component, gr.Image):
            self.inits[str(elem_id)] = component
        elif elem_id in INITS:  # in Forge a canvas: HTML, followed by the controls with its layers
            self._awaited = str(elem_id)
        elif self._awaited and INIT_IN_FORGE in (elem_classes or ()):
            self.inits[self._awaited], self._awaited = component, ""
        elif elem_id == LAST and {"txt2img", "img2img"} <= self._pictures.keys():
            sources, targets = self._pictures["txt2img"], self._pictures["img2img"]
            script = f"(...values) => values.slice(0, {len(sources)})"  # Gradio adds the targets' own values
            for button in self._buttons.values():
                in_browser(button.click, script, sources, targets)
            self._pictures, self._buttons, self.inits, self._awaited = {}, {}, {}, ""
