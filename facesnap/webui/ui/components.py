"""One Gradio component for one control of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from facesnap.settings.field_types import Choice, FaceChoice, Number
from facesnap.webui.generation.controls import Control
from facesnap.webui.ui.events import only_uploads

PICTURE_HEIGHT = 240
EXAMPLES = {
    "region": "everywhere; left half: 0 0 0.5 1",
    "blocks": "all 1; such as middle=0.5 output.3=0.8",
    "values": "the pose source's own; such as yaw=20 pitch=-5",
    "expression": "the pose source's own; such as smile:0.8+wink_left",
}


def component(control: Control, tab: str, choices: Sequence[Any] = ()) -> Any:
    """Make a control's component inside the current Gradio context.

    Args:
        tab: "txt2img" or "img2img". choices: of dropdowns; their value may be another, which the generation checks.
    """
    kind, value = control.field.kind, control.default
    # `tooltip` is the hosts' own: they set the title and translate it
    common: dict[str, Any] = {
        "label": control.label, "elem_id": control.elem_id(tab), "elem_classes": ["facesnap-control"],
        "tooltip": control.field.help,
    }  # fmt: skip
    if control.name == "enabled":
        common.pop("tooltip")
        return InputAccordion(value, **common)
    if control.component == "checkbox":
        return gr.Checkbox(value=value, **common)
    if control.component == "slider":
        assert isinstance(kind, Number)
        low, high = control.field.slider or (kind.low, kind.high)
        slider = gr.Slider(minimum=low, maximum=high, value=value, step=kind.step, **common)
        slider.do_not_save_to_config = True  # ui-config.json would keep the ranges of an older version
        return slider
    if isinstance(kind, Choice) and control.component == "dropdown":
        # Its `input` event is the user's alone; a radio's in Gradio 4 is not, and pasting would be overruled
        return gr.Dropdown(choices=list(kind.options), value=value, **common)
    if isinstance(kind, Choice):
        absent = "init" if control.name == "source" and tab == "txt2img" else ""  # no picture to start from
        return gr.Radio(choices=[option for option in kind.options if option != absent], value=value, **common)
    if control.component == "dropdown":
        options = list(kind.words) if isinstance(kind, FaceChoice) else list(choices)
        return gr.Dropdown(choices=options, value=value, allow_custom_value=True, **common)
    if control.component == "images":
        files = gr.File(file_count="multiple", file_types=["image"], type="binary", height=120, **common)
        return only_uploads(files)
    if control.component == "image":
        return gr.Image(value=None, type="pil", height=PICTURE_HEIGHT, **common)
    return gr.Textbox(value=value or "", lines=1, max_lines=1, placeholder=EXAMPLES.get(control.name), **common)
