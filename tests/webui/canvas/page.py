"""A page with FaceSnap's controls and the pose canvas, served by the Gradio that is installed, in a real Chromium.

The host's page script is tests/webui/standin/page.js; the extension's files are put where the WebUIs put them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import numpy as np
from playwright.sync_api import Browser, Page, Route

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import Identity
from facesnap.pipeline.shape import Shapes
from facesnap.settings.field_types import Choice, Number
from facesnap.settings.model import Person
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.controls import Control, controls
from facesnap.webui.generation.pictures import decode
from facesnap.webui.ui import canvas
from tests.webui.standin.img2img import tabs

ROOT = Path(__file__).resolve().parents[3]
TABS = ("txt2img", "img2img")


def identities(shapes: Shapes, known: dict[str, Identity]) -> Callable[[Person, int], Identity]:
    """Gives the identity of a person of the settings: a known one by name, or made from the photos."""

    def identity_of(person: Person, number: int) -> Identity:
        if person.identity:
            return known[person.identity]
        assert isinstance(shapes.analyser, FaceAnalyser)
        photos = [decode(one, f"reference {n}") for n, one in enumerate(person.references, 1)]
        faces = [shapes.analyser.face(one, name=f"reference {n}") for n, one in enumerate(photos, 1)]
        return Identity.from_faces(faces, name=f"person {number}", landmarks=shapes.landmarks(faces))

    return identity_of


@contextmanager
def served(shapes: Shapes, known: dict[str, Identity], result: np.ndarray | None = None) -> Iterator[str]:
    """The address of a page with the controls of both tabs. result: a picture in the gallery of txt2img."""
    with gr.Blocks() as page, gr.Tabs():
        for tab in TABS:
            with gr.Tab(tab):
                _host(tab, result)
                with gr.Accordion("FaceSnap", open=False, elem_id=f"facesnap_{tab}"):
                    by_id = {control.elem_id(tab): _control(control, tab) for control in controls()}
                inits = tabs() if tab == "img2img" else None
                canvas.build(tab, by_id, identities(shapes, known), lambda: shapes, inits)
                said = gr.Textbox(label="Said", elem_id=f"{tab}_said")
                gr.Button("Generate", elem_id=f"{tab}_generate").click(_said, list(by_id.values()), said)
    address = page.launch(prevent_thread_lock=True, quiet=True, show_api=False)[1]
    try:
        yield address
    finally:
        page.close()


def _said(*values: Any) -> str:
    """What the server understands when the user presses Generate, without the photos."""
    people = [dataclasses.replace(person, references=()) for person in parse(values).people]
    poses = [dataclasses.asdict(dataclasses.replace(one.pose, image=None)) for one in people]
    return json.dumps({"poses": poses, "serial": time.time_ns()})


def _host(tab: str, result: np.ndarray | None) -> None:
    """What the hosts' own tabs have that the canvas looks at."""
    gr.Textbox(label="Prompt", elem_id=f"{tab}_prompt")
    with gr.Row():
        width = gr.Slider(64, 2048, 512, step=8, label="Width", elem_id=f"{tab}_width")
        height = gr.Slider(64, 2048, 512, step=8, label="Height", elem_id=f"{tab}_height")
    swap = gr.Button("Swap", elem_id=f"{tab}_swap")
    swap.click(lambda w, h: (h, w), [width, height], [width, height])
    if result is not None and tab == "txt2img":
        gr.Gallery([result], label="Result", elem_id=f"{tab}_gallery")


def _control(control: Control, tab: str) -> Any:
    """Plain controls, one picture a person: the accordion's own need the hosts' modules."""
    kind, common = control.field.kind, {"label": control.label, "elem_id": control.elem_id(tab)}
    if control.component == "checkbox":
        return gr.Checkbox(value=control.default, **common)
    if isinstance(kind, Number):
        return gr.Slider(kind.low, kind.high, value=control.default, step=kind.step, **common)
    if isinstance(kind, Choice):
        return gr.Radio(list(kind.options), value=control.default, **common)
    if control.component in ("image", "images"):
        return gr.Image(value=None, type="pil", **common)
    return gr.Textbox(value=control.default or "", **common)


def opened(browser: Browser, address: str, **context: Any) -> Page:
    """The page with the extension's files in its head; context: viewport, has_touch and so on."""
    page = browser.new_context(**context).new_page()
    page.route(lambda url: urlsplit(url).path == "/", _with_extension)
    page.goto(address)
    page.wait_for_function(
        "window.facesnap && facesnap.canvases.txt2img && facesnap.canvases.txt2img.root.isConnected", timeout=60_000
    )
    return page


def _with_extension(route: Route) -> None:
    answer = route.fetch()
    files = [ROOT / "tests" / "webui" / "standin" / "page.js", *sorted((ROOT / "javascript").glob("*.js"))]
    scripts = "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in files)
    style = f"<style>{(ROOT / 'style.css').read_text(encoding='utf-8')}</style>"
    body = answer.text().replace("</head>", f"{scripts}{style}</head>", 1)
    route.fulfill(response=answer, body=body)
