"""Actions of the accordion's buttons and lists on the server. Gradio events call these, never the API's routes.

A FaceSnapError becomes text in the page; nothing else is caught, so that a fault of ours is seen as one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from facesnap.errors import CheckpointError, FaceSnapError, SettingsError
from facesnap.faces.known import BASE_TITLES
from facesnap.hosts.webui import ChosenModel
from facesnap.settings import infotext
from facesnap.settings.model import Person, Settings
from facesnap.settings.words import PRESETS, TITLE_MARK
from facesnap.webui import process
from facesnap.webui.generation.controls import controls, from_flat, to_flat
from facesnap.webui.generation.photos import decoded
from facesnap.webui.ui import consent, html, lists
from facesnap.webui.ui.events import warn
from facesnap.webui.ui.preview import look_at
from facesnap.weights.adapters import ListedAdapter

# (part, name) of the controls that say who a person is and what a preview shows, in the order of the events' inputs.
SHOWN = (("person", "references"), ("person", "identity"), ("person", "face"), ("pose", "source"), ("pose", "image"))


def person_of(number: int, values: Sequence[Any], most_people: int) -> Person:
    """A person of the accordion from the values of its SHOWN controls; empty where no person is named.

    Raises:
        SettingsError: a value that its control cannot have.
    """
    flat = to_flat(Settings(), most_people)
    for index, control in enumerate(controls(most_people)):
        if control.person == number and (control.part, control.name) in SHOWN:
            flat[index] = values[SHOWN.index((control.part, control.name))]
    people = from_flat(flat, most_people).people
    return people[0] if people else Person()


def show_preview(number: int, most_people: int) -> Callable[..., str]:
    """(adapter, SHOWN values) -> the preview as HTML."""

    def act(adapter: str, *values: Any) -> str:
        try:
            person = person_of(number, values, most_people)
            person.require(number)
            identity = lists.identities().load(person.identity) if person.identity else None
            needed = person.references or person.pose.image is not None
            analyser = lists.viewer(adapter) if needed else None
            return html.preview(look_at(person, number, analyser, identity), number)
        except FaceSnapError as error:
            warn(error)
            return html.problem(error)

    return act


def save_identity(number: int, most_people: int) -> Callable[..., list[Any]]:
    """(name, adapter, SHOWN values) -> status, name box, photos, then the identity lists of all people."""

    def act(name: str, adapter: str, *values: Any) -> list[Any]:
        unchanged = [gr.update() for _ in range(2 + most_people)]
        try:
            person = person_of(number, values, most_people)
            if person.identity:
                raise SettingsError(
                    f"Person {number} is the saved identity '{person.identity}' already.",
                    expected="reference photos",
                    remedy="choose no identity and add photos of the person",
                )
            settings = from_flat([True, adapter], most_people)
            person.require(number)
            model = process.current_host().chosen_model()
            known = process.loader().identity(settings.adapter, model, decoded(person, number), number)
            entry = lists.identities().save(dataclasses.replace(known.identity, name=name or ""))
        except FaceSnapError as error:
            warn(error)
            return [html.problem(error), *unchanged]
        photos = f"{entry.references} photo{'s' * (entry.references > 1)}"
        saved = f"Saved '{entry.name}' from {photos}. Person {number} is this identity now, without photos."
        choices = lists.identity_choices()
        boxes = [
            gr.update(choices=choices, value=entry.name) if n == number else gr.update(choices=choices)
            for n in range(1, most_people + 1)
        ]
        said = html.status([saved]) + html.status([f"{doubt}." for doubt in known.doubts], html.WARNING)
        return [said, gr.update(value=""), gr.update(value=None), *boxes]

    return act


def delete_identity(most_people: int) -> Callable[..., list[Any]]:
    """(name, the identities chosen for all people) -> status, the identity lists. name None: not confirmed."""

    def act(name: str | None, *chosen: str) -> list[Any]:
        unchanged = [gr.update() for _ in range(1 + most_people)]
        if name is None:
            return unchanged
        try:
            if name in ("", lists.NO_IDENTITY):
                raise SettingsError(
                    "No saved identity is chosen here.",
                    expected="the identity that is to be deleted",
                    remedy="choose it in the list of identities first",
                )
            lists.identities().delete(name)
        except FaceSnapError as error:
            warn(error)
            return [html.problem(error), *unchanged[1:]]
        choices = lists.identity_choices()
        boxes = [
            gr.update(choices=choices, value=lists.NO_IDENTITY) if one == name else gr.update(choices=choices)
            for one in chosen
        ]
        return [html.status([f"Deleted '{name}'."]), *boxes]

    return act


def fill_in(preset: str, names: Sequence[str]) -> list[Any]:
    """Values of a preset for the fields of these names."""
    return [gr.update(value=PRESETS[preset][name]) for name in names]


def choose_adapter(title: str, fields: Sequence[str]) -> list[Any]:
    """An adapter's title or name -> the status line, then what it suggests for the fields of these names."""
    entry = _entry_of(title, lists.adapters())
    if entry is None:
        return ["", *(gr.update() for _ in fields)]
    suggested = entry.defaults
    return [_about(entry), *(gr.update(value=suggested[f]) if f in suggested else gr.update() for f in fields)]


def refresh_adapters(checkpoint: str, title: str) -> list[Any]:
    """The status line and the adapters' list, looked for anew.

    Args:
        checkpoint: the one at the top of the page, "" where the page does not say. title: the adapter that is chosen.
    """
    model = process.current_host().chosen_model(checkpoint)
    found = lists.adapters(model)
    entry = _entry_of(title, found)
    value = gr.update(choices=lists.adapter_choices(found), **({} if entry is None else {"value": entry.title}))
    return [found_adapters(model, found) if entry is None or entry.fits else _about(entry), value]


def _entry_of(title: str, found: Sequence[ListedAdapter]) -> ListedAdapter | None:
    name = (title or "").partition(TITLE_MARK)[0]
    return next((one for one in found if one.name == name), None)


def _about(entry: ListedAdapter) -> str:
    """The status line of one adapter: what it suggests and needs, and whether it fits."""
    lines = [entry.hint, entry.explanation, *(str(need) for need in entry.needs)]
    lines = [f"{entry.family_title}: " + " · ".join(line for line in lines if line)]
    if not entry.fits:
        lines.insert(0, f"{entry.title}: choose another adapter, or another checkpoint.")
    if entry.licence:
        lines.append(f"Licence of the weights: {entry.licence}")
    return html.status(lines, html.INFO if entry.fits else html.WARNING)


def found_adapters(model: ChosenModel | None = None, found: Sequence[ListedAdapter] | None = None) -> str:
    """How many adapters fit the checkpoint, and the remedy where none can be used."""
    model = process.current_host().chosen_model() if model is None else model
    found = lists.adapters(model) if found is None else found
    if not found:
        folder = process.folders().own
        return html.status([f"There is no adapter yet. Put one into {folder}; see Models below."], html.WARNING)
    usable = sum(one.fits for one in found)
    if model.base is None:
        why = f"the kind of {model.name} is not known before it is loaded" if model.name else "no checkpoint is chosen"
        return html.status([f"{usable} of {len(found)} adapters can be used; {why}."])
    if model.base not in BASE_TITLES:
        told = f"{model.name} is {model.base}: FaceSnap works on the UNets of SD1.5 and SDXL. Choose one of those."
        return html.status([told], html.WARNING)
    name = f"{model.name} ({BASE_TITLES[model.base]})"
    if usable:
        return html.status([f"{usable} of {len(found)} adapters fit {name}."])
    return html.status([f"None of the {len(found)} adapters fits {name}; see Models below."], html.WARNING)


def understood() -> Any:
    """The consent notice is not shown again; the update that hides it."""
    try:
        consent.remember(process.folders().own)
    except OSError as error:
        warn(
            CheckpointError(
                f"The folder {process.folders().own} cannot be written to ({error.strerror}).",
                expected="a folder that can be written to",
                remedy="choose another with --facesnap-dir",
            )
        )
    return gr.update(visible=False)


def pasted(params: Mapping[str, Any], most_people: int) -> str:
    """The status line after an infotext was pasted: what of it is not on this machine."""
    read = infotext.read(params, most_people, lists.identities().digests())
    return html.status([f"{line}." for line in (*read.missing, *read.problems)], html.WARNING)
