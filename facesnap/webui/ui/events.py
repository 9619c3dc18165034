"""Gradio 3 and 4 alike: events that run in the browser, and uploads that are uploads."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Sequence
from os import environ
from pathlib import Path
from typing import Any

import gradio as gr

from facesnap.errors import FaceSnapError, PictureError

GRADIO_4 = int(gr.__version__.split(".")[0]) >= 4
SCRIPT = "js" if GRADIO_4 else "_js"  # keyword of the events for JavaScript


def in_browser(trigger: Any, script: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Run JavaScript at an event, without the server. trigger: such as `button.click`."""
    trigger(fn=None, inputs=list(inputs), outputs=list(outputs), show_progress="hidden", **{SCRIPT: script})


def on_server(
    trigger: Any, fn: Any, inputs: Sequence[Any], outputs: Sequence[Any], progress: bool = False, first: str = ""
) -> None:
    """Run Python at an event. It is no endpoint of Gradio's API.

    Args:
        progress: show that it takes a moment. first: JavaScript that gets the inputs' values and gives those for `fn`.
    """
    script = {SCRIPT: first} if first else {}
    trigger(
        fn=fn, inputs=list(inputs), outputs=list(outputs), show_progress="full" if progress else "hidden",
        api_name=False, **script,
    )  # fmt: skip


def warn(error: FaceSnapError) -> None:
    """A message that pops up; the places where it stays are the status lines."""
    gr.Warning(html.escape(error.what, quote=False))


def only_uploads(component: Any) -> Any:
    """Refuse files that were not uploaded: Gradio 3 reads whatever path a client names.

    Args:
        component: a gr.File. Gradio 4 checks by itself.
    """
    if GRADIO_4:
        return component
    inner = component.preprocess

    def preprocess(value: Any) -> Any:
        for file in value if isinstance(value, list) else [value]:
            if isinstance(file, dict) and file.get("is_file"):
                _require_upload(Path(str(file.get("name"))))
        return inner(value)

    component.preprocess = preprocess
    return component


def _require_upload(path: Path) -> None:
    folder = Path(environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    if folder not in path.resolve().parents:
        raise PictureError(
            "A reference photo is not among the uploaded files.",
            expected="a file that was uploaded in this page",
            remedy="choose the photo again",
        )
