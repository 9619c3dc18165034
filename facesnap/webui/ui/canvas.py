"""The pose canvas in the page: a place to draw in, and the event that gives it its scene.

The drawing itself is javascript/facesnap_canvas_*.js, in the browser. It writes into the controls "Pose values",
"Expression" and "Pose source", and follows them when something else changes them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from facesnap.errors import FaceSnapError
from facesnap.faces.identity import Identity
from facesnap.pipeline.shape import Shapes
from facesnap.settings.model import PEOPLE, Person
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.controls import Control, controls
from facesnap.webui.ui.events import SCRIPT
from facesnap.webui.ui.scene import Scene, scene
from facesnap.webui.ui.send_to import INITS

logger = logging.getLogger(__name__)

# (part, name) of the controls that say who is drawn; the others reach the browser without the server.
_WHO = {("person", "references"), ("person", "identity"), ("person", "face"), ("pose", "image")}


def build(
    tab: str,
    components: Mapping[str, Any],
    identity_of: Callable[..., Identity],
    shapes: Callable[..., Shapes],
    inits: Mapping[str, Any] | None = None,
    adapter: Any = None,
    most_people: int = PEOPLE,
) -> None:
    """Make the canvas inside the current Gradio context.

    Args:
        components: elem_id -> component of the accordion's controls, see `Control.elem_id`.
        identity_of, shapes: as in `facesnap.webui.ui.scene.scene`; asked at each event, with the adapter's title as
            `adapter` where there is a component for it.
        inits: of `facesnap.webui.ui.send_to.INITS`, the components of the pictures that img2img starts from.
        adapter: the component with the adapter's title.
    """
    own_id = f"facesnap_{tab}_canvas"
    gr.HTML(f'<div id="{own_id}" class="facesnap-canvas" data-tab="{tab}"></div>')
    answer = gr.Textbox(label=f"Scene of the pose canvas ({tab})", visible=False, elem_id=f"{own_id}_scene")
    load = gr.Button(f"Load the pose canvas ({tab})", visible=False, elem_id=f"{own_id}_scene_load")
    for hidden in (answer, load):
        hidden.do_not_save_to_config = True  # of the WebUI's ui-config.json
    order = who_is_drawn(most_people)
    pictures = [] if inits is None else [inits.get(name, answer) for name in INITS]  # in the place of none anything

    def respond(*values: Any) -> str:
        first, rest = values[: len(order)], list(values[len(order) :])
        chosen = {} if adapter is None else {"adapter": rest.pop(0)}
        found = [value for value, control in zip(rest, pictures, strict=True) if control is not answer]
        init = next((one for one in found if one is not None and not (isinstance(one, str) and not one)), None)
        who, how = partial(identity_of, **chosen), partial(shapes, **chosen)
        return json.dumps(reply(first, who, how, init, most_people=most_people), separators=(",", ":"))

    inputs = [components[control.elem_id(tab)] for control in order]
    inputs += [] if adapter is None else [adapter]
    inputs += pictures
    only_one = f"(...values) => facesnap.sceneInputs(values.slice(0, {len(inputs)}))"  # Gradio adds the output's value
    load.click(
        respond, inputs=inputs, outputs=[answer], queue=False, show_progress="hidden", api_name=False,
        **({SCRIPT: only_one} if pictures else {}),
    )  # fmt: skip


def who_is_drawn(most_people: int = PEOPLE) -> list[Control]:
    """The controls that the scene is made from."""
    return [one for one in controls(most_people) if (one.part, one.name) in _WHO]


def reply(
    values: Sequence[Any],
    identity_of: Callable[[Person, int], Identity],
    shapes: Callable[[], Shapes],
    init: Any = None,
    *,
    most_people: int = PEOPLE,
) -> Scene:
    """The scene of the values of `who_is_drawn(most_people)`, or {"error": why there is none}; "serial" is another for
    each answer. Never raises.

    Args:
        init: the picture that img2img starts from, or with its mask as Gradio 3 gives what was drawn on.
    """
    init = init.get("image") if isinstance(init, dict) else init
    serial = {"serial": str(time.time_ns())}
    try:
        people, refused = _people(values, most_people)
        found = scene(people, identity_of, shapes(), init)
        found["people"] = sorted(found["people"] + refused, key=lambda one: one["number"])
        return {**found, **serial}
    except FaceSnapError as error:
        return {"error": str(error), **serial}
    except Exception as error:  # the page would wait for ever
        logger.exception("the pose canvas has no scene")
        return {"error": f"{type(error).__name__}: {error}", **serial}


def _people(values: Sequence[Any], most_people: int) -> tuple[list[tuple[int, Person]], list[Scene]]:
    """All people who are named, with the number of their controls; and those whose controls cannot be read."""
    given = {(c.person, c.part, c.name): value for c, value in zip(who_is_drawn(most_people), values, strict=True)}
    people, refused = [], []
    for number in range(1, most_people + 1):
        flat = [given.get((c.person, c.part, c.name)) if c.person == number else None for c in controls(most_people)]
        try:
            people += [(number, person) for person in parse(flat, most_people).people]
        except FaceSnapError as error:
            refused.append({"number": number, "error": str(error)})
    return people, refused
