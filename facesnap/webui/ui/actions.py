"""Actions of the accordion's buttons and lists on the server. Gradio events call these, never the API's routes.

A FaceSnapError becomes text in the page; nothing else is caught, so that a fault of ours is seen as one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from facesnap.attach import read_topology
from facesnap.errors import CheckpointError, FaceSnapError, SettingsError
from facesnap.settings import infotext
from facesnap.settings.model import Person, Settings
from facesnap.settings.words import PRESETS, TITLE_MARK
from facesnap.webui import process
from facesnap.webui.generation.controls import controls, from_flat, to_flat
from facesnap.webui.generation.photos import decoded
from facesnap.webui.ui import consent, html, lists
from facesnap.webui.ui.events import warn
from facesnap.webui.ui.preview import look_at

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
            topology = read_topology(process.current_host().live_unet())
            known = process.loader().identity(settings.adapter, topology, decoded(person, number), number)
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
    name = (title or "").partition(TITLE_MARK)[0]
    entry = next((one for one in lists.adapters() if one.name == name), None)
    if entry is None:
        return ["", *(gr.update() for _ in fields)]
    lines = [entry.hint, entry.note, *(str(need) for need in entry.needs)]
    lines = [f"{entry.family_title}: " + " · ".join(line for line in lines if line)]
    if entry.licence:
        lines.append(f"Licence of the weights: {entry.licence}")
    text = html.status(lines, html.INFO if entry.fits else html.WARNING)
    suggested = entry.defaults
    return [text, *(gr.update(value=suggested[f]) if f in suggested else gr.update() for f in fields)]


def refresh_adapters() -> list[Any]:
    """The status line and the adapters' list, looked for anew."""
    found = lists.adapters()
    return [found_adapters(), gr.update(choices=lists.adapter_choices(found))]


def found_adapters() -> str:
    """The number of adapters, and the remedy where none can be used."""
    found = lists.adapters()
    usable = [one for one in found if one.fits]
    if usable:
        return html.status([f"{len(usable)} of {len(found)} adapters fit the loaded model."])
    folder = process.folders().own
    if not found:
        return html.status([f"There is no adapter yet. Put one into {folder}; see Models below."], html.WARNING)
    return html.status([f"None of the {len(found)} adapters fits the loaded model."], html.WARNING)


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
