"""The tabs of img2img with the pictures that it starts from, as the hosts make them: drawn on in Gradio 3's own image
controls, in Forge on a canvas of its own (page.js), whose layers are hidden text boxes."""

from __future__ import annotations

from typing import Any

import gradio as gr

GRADIO_4 = int(gr.__version__.split(".")[0]) >= 4
# Title, elem_id, and Gradio 3's tool; the last is a plain image in both.
TABS = (
    ("img2img", "img2img_image", "editor"), ("Sketch", "img2img_sketch", "color-sketch"),
    ("Inpaint", "img2maskimg", "sketch"), ("Inpaint sketch", "inpaint_sketch", "color-sketch"),
    ("Inpaint upload", "img_inpaint_base", ""),
)  # fmt: skip
CANVAS = '<div><input type="file" class="forge-file-upload" data-layer="{0}"><img class="forge-image"></div>'


def tabs() -> dict[str, Any]:
    """Make them inside the current Gradio context; the controls that hold the pictures, by elem_id."""
    made: dict[str, Any] = {}
    with gr.Tabs(elem_id="mode_img2img"):
        for title, elem_id, tool in TABS:
            with gr.Tab(title, elem_id=f"tab_of_{elem_id}"):
                made[elem_id] = _picture(elem_id, tool)
        with gr.Tab("Batch"):
            gr.Textbox(label="Input directory")
    return made


def _picture(elem_id: str, tool: str) -> Any:
    if not tool:
        found = gr.Image(type="pil", label="Base", elem_id=elem_id)
        gr.Image(type="pil", label="Mask", elem_id="img_inpaint_mask")
        return found
    if not GRADIO_4:
        return gr.Image(type="pil", source="upload", interactive=True, tool=tool, label="Init", elem_id=elem_id)
    gr.HTML(CANVAS.format(f"layer_{elem_id}"), elem_id=elem_id)
    for layer in ("foreground", "background"):
        box = gr.Textbox(
            visible=False, label=layer, elem_id=f"layer_{elem_id}", elem_classes=[f"logical_image_{layer}"]
        )
    return box
