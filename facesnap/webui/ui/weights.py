"""The accordion's "Models": where weights lie, and fetching public ones after their licence was accepted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr
from modules.ui_components import FormRow

from facesnap.errors import FaceSnapError
from facesnap.faces.known import Item
from facesnap.webui import process
from facesnap.webui.ui import html
from facesnap.webui.ui.events import on_server
from facesnap.weights.catalogue import CATALOGUE
from facesnap.weights.fetch import is_there
from facesnap.weights.jobs import DONE, FAILED, RUNNING, Downloads, DownloadState

MARK = ": "  # between an item's name and its title
STEP = 1.0  # s between two looks at a download


@lru_cache(maxsize=1)
def downloads() -> Downloads:
    """Of this process: both tabs start and watch the same."""
    return Downloads()


def build(tab: str) -> None:
    """Make the section inside the current Gradio context. tab: "txt2img" or "img2img"."""
    css = ["facesnap-html"]
    with gr.Accordion("Models", open=False, elem_id=f"facesnap_{tab}_models"):
        folder = f"Adapters, packs and encoders lie in {process.folders().own}; other extensions' folders are used too."
        gr.HTML(html.status([folder]), elem_id=f"facesnap_{tab}_folder", elem_classes=css)
        choice = gr.Dropdown(
            choices=list(map(_title, CATALOGUE)), value=None, label="FaceSnap download",
            elem_id=f"facesnap_{tab}_download", tooltip="Public weights that FaceSnap can use, from their publishers.",
        )  # fmt: skip
        licence = gr.HTML("", elem_id=f"facesnap_{tab}_licence", elem_classes=css)
        with FormRow(elem_classes=["facesnap-row"]):
            accept = gr.Checkbox(
                False, label="I have read this licence and accept it", elem_id=f"facesnap_{tab}_accept",
                tooltip="Nothing is fetched without it.",
            )  # fmt: skip
            start = gr.Button("Download", elem_id=f"facesnap_{tab}_start")
        progress = gr.HTML("", elem_id=f"facesnap_{tab}_progress", elem_classes=css)
    for one in (choice, accept, start):
        one.do_not_save_to_config = True  # no licence is accepted beforehand
    on_server(choice.change, show, [choice], [licence, accept])
    on_server(start.click, fetch, [choice, accept], [progress])


def show(title: str | None) -> list[Any]:
    """Description of an item, and the consent taken back: it was for another licence."""
    item = next((item for item in CATALOGUE if item.name == _name(title)), None)
    return ["" if item is None else _details(item), gr.update(value=False)]


def fetch(title: str | None, accept: bool) -> Iterator[str]:
    """Start a download and report its progress until it ends. It goes on after the page is closed."""
    name = _name(title)
    if not name:
        yield html.status(["Choose what to download."], html.WARNING)
        return
    try:
        state = downloads().start(name, process.folders(), bool(accept))
        while state.state == RUNNING:
            yield _state(state)
            state = downloads().wait(name, STEP)
        yield _state(state)
    except FaceSnapError as error:
        yield html.problem(error)


def _state(state: DownloadState) -> str:
    if state.state == DONE:
        return html.status([f"{state.name} is there: {state.path}. Refresh the list of adapters to use it."])
    kind = html.ERROR if state.state == FAILED else html.INFO
    return html.status([f"{state.name}: {state}"], kind)


def _title(item: Item) -> str:
    there = " · there already" if is_there(item, process.folders()) else ""
    return f"{item.name}{MARK}{item.title} ({item.megabytes:,.0f} MB){there}"


def _name(title: str | None) -> str:
    return (title or "").partition(MARK)[0]  # Gradio 3 knows no titles apart from values


def _details(item: Item) -> str:
    page = f'<a href="{escape(item.page)}" target="_blank" rel="noreferrer">{escape(item.page)}</a>'
    return (
        f'<div class="facesnap-note facesnap-{html.WARNING}"><p>{escape(item.purpose)}</p>'
        f"<p><b>Licence:</b> {escape(item.licence)}</p><p>{page}</p></div>"
    )
