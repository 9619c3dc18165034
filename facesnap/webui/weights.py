"""The accordion's "Models": where weights lie, and fetching public ones after their licence was accepted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr
from modules.ui_components import FormRow

from facesnap.download.jobs import DONE, FAILED, RUNNING, Downloads, Row, State, table
from facesnap.errors import FaceSnapError
from facesnap.webui import hosting, markup
from facesnap.webui.events import on_server

STEP = 1.0  # s between two looks at a download


@lru_cache(maxsize=1)
def downloads() -> Downloads:
    """Of this process: both tabs start and watch the same."""
    return Downloads()


def build(tab: str) -> None:
    """Make the section inside the current Gradio context. tab: "txt2img" or "img2img"."""
    rows = table(hosting.folders())
    css = ["facesnap-html"]
    with gr.Accordion("Models", open=False, elem_id=f"facesnap_{tab}_models"):
        folder = f"Adapters, packs and encoders lie in {hosting.folders().own}; other extensions' folders are used too."
        gr.HTML(markup.status([folder]), elem_id=f"facesnap_{tab}_folder", elem_classes=css)
        choice = gr.Dropdown(
            choices=[(_title(row), row.name) for row in rows], value=None, label="FaceSnap download",
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
        one.do_not_save_to_config = True  # nobody wants a licence accepted beforehand
    on_server(choice.change, show, [choice], [licence, accept])
    on_server(start.click, fetch, [choice, accept], [progress])


def show(name: str | None) -> list[Any]:
    """What is known of an item, and the consent taken back: it was for another licence."""
    row = next((row for row in table(hosting.folders()) if row.name == name), None)
    return ["" if row is None else _details(row), gr.update(value=False)]


def fetch(name: str | None, accept: bool) -> Iterator[str]:
    """Start a download and tell how far it is until it ends. It goes on where nobody looks any more."""
    if not name:
        yield markup.status(["Choose what to download."], markup.WARNING)
        return
    try:
        state = downloads().start(name, hosting.folders(), bool(accept))
        while state.state == RUNNING:
            yield _state(state)
            state = downloads().wait(name, STEP)
        yield _state(state)
    except FaceSnapError as error:
        yield markup.problem(error)


def _state(state: State) -> str:
    if state.state == DONE:
        return markup.status([f"{state.name} is there: {state.path}. Refresh the list of adapters to use it."])
    kind = markup.ERROR if state.state == FAILED else markup.INFO
    return markup.status([f"{state.name}: {state}"], kind)


def _title(row: Row) -> str:
    there = " · there already" if row.there else ""
    return f"{row.title} ({row.megabytes:,.0f} MB){there}"


def _details(row: Row) -> str:
    page = f'<a href="{escape(row.page)}" target="_blank" rel="noreferrer">{escape(row.page)}</a>'
    return (
        f'<div class="facesnap-note facesnap-{markup.WARNING}"><p>{escape(row.purpose)}</p>'
        f"<p><b>Licence:</b> {escape(row.licence)}</p><p>{page}</p></div>"
    )
