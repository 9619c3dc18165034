"""The accordion's controls, one for each column of the settings."""

from __future__ import annotations

from typing import Any

import gradio as gr

from facesnap.webui.fields import Choice, Number
from facesnap.webui.settings import Column, columns


def build(tab: str) -> list[Any]:
    """Make the controls inside the current Gradio context.

    Args:
        tab: "txt2img" or "img2img".

    Returns:
        The components in the order of the flat list.
    """
    with gr.Accordion("FaceSnap", open=False, elem_id=f"facesnap_{tab}"):
        return [_component(column, tab) for column in columns()]


def _component(column: Column, tab: str) -> Any:
    kind, common = column.field.kind, {"label": column.label, "elem_id": column.elem_id(tab)}
    if column.control == "checkbox":
        return gr.Checkbox(value=column.default, **common)
    if column.control == "slider":
        assert isinstance(kind, Number)
        return gr.Slider(kind.low, kind.high, value=column.default, step=kind.step, **common)
    if column.control == "radio":
        assert isinstance(kind, Choice)
        return gr.Radio(list(kind.options), value=column.default, **common)
    if column.control in ("image", "images"):
        return gr.Image(value=None, type="pil", **common)
    return gr.Textbox(value=column.default or "", **common)
