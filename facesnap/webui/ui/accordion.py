"""The accordion in txt2img and img2img: where the controls stand, and which event calls which action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr
from modules.ui_components import FormRow, ToolButton

from facesnap.settings.field_types import PicturesType, PictureType
from facesnap.webui import process
from facesnap.webui.generation.controls import Control, controls
from facesnap.webui.generation.paste import Paster, pasters
from facesnap.webui.options import MOST_PEOPLE_KEY
from facesnap.webui.ui import actions, canvas, consent, drawn, html, lists, weights
from facesnap.webui.ui.components import component
from facesnap.webui.ui.events import in_browser, on_server
from facesnap.webui.ui.send_to import SendTo

REFRESH = "🔄"
PAGES = SendTo()  # of this process: the WebUI makes one page at a time
_Key = tuple[str, str, int]


@dataclass
class Accordion:
    """One tab's controls.

    Attributes:
        components: in the order of the flat list. infotext_fields, paste_field_names: for the script of that name.
    """

    components: list[Any]
    infotext_fields: list[tuple[Any, Any]]
    paste_field_names: list[Paster]


def build(tab: str) -> Accordion:
    """Make the accordion of a tab ("txt2img" or "img2img") inside the current Gradio context; nothing is loaded."""
    page = _Page(tab, process.options()[MOST_PEOPLE_KEY])
    with page.show("settings", "enabled"):
        page.head()
        with gr.Tabs(elem_id=f"facesnap_{tab}_people", elem_classes=["facesnap-people"]):
            for number in range(1, page.people + 1):
                with gr.TabItem(f"Person {number}", elem_id=f"facesnap_{tab}_p{number}"):
                    page.person(number)
        page.canvas()
        page.row(0, ("settings", "speed"), ("settings", "hires"))
        page.rest(0)
        weights.build(tab)
    page.connect()
    return page.accordion()


@dataclass
class _Page:
    tab: str
    people: int
    made: dict[_Key, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = controls(self.people)
        self.by: dict[_Key, Control] = {_key(one): one for one in self.order}
        self.names: dict[int, Any] = {}
        self.savers: dict[int, Any] = {}
        self.deleters: dict[int, Any] = {}
        self.status: Any = None

    def show(self, part: str, name: str, person: int = 0) -> Any:
        """Make one control here."""
        key = (part, name, person)
        choices: Sequence[Any] = ()
        if name == "adapter":
            choices = lists.adapter_choices(lists.adapters())
        elif name == "identity":
            choices = lists.identity_choices()
        self.made[key] = component(self.by[key], self.tab, choices)
        return self.made[key]

    def row(self, person: int, *names: tuple[str, str]) -> None:
        """Make some controls side by side. names: (part, name)."""
        with FormRow(elem_classes=["facesnap-row"]):
            for part, name in names:
                self.show(part, name, person)

    def rest(self, person: int) -> None:
        """The controls that have no place of their own yet, of one person or (0) of the whole generation."""
        for key in self.by:
            if key[2] == person and key not in self.made:
                self.show(*key)

    def get(self, part: str, name: str, person: int = 0) -> Any:
        return self.made[(part, name, person)]

    def id(self, name: str) -> str:
        return f"facesnap_{self.tab}_{name}"

    def html(self, name: str, value: str = "") -> Any:
        return gr.HTML(value=value, elem_id=self.id(name), elem_classes=["facesnap-html"])

    def head(self) -> None:
        """Notice, status, adapter, preset."""
        if consent.is_needed(process.folders().own):
            with gr.Group(elem_id=self.id("consent"), elem_classes=["facesnap-consent"]) as group:
                self.html("notice", consent.notice())
                agree = gr.Button("I understand", elem_id=self.id("understood"), size="sm")
            in_browser(agree.click, "() => facesnap.dismissNotice()", [], [])
            on_server(agree.click, actions.understood, [], [group])
        with FormRow(elem_classes=["facesnap-row"]):
            self.show("settings", "adapter")
            self.again = ToolButton(REFRESH, elem_id=self.id("refresh"), tooltip="Look for adapters again.")
        self.checkpoint = gr.Textbox(visible=False, label=f"FaceSnap checkpoint ({self.tab})")  # filled in the browser
        self.checkpoint.do_not_save_to_config = True
        self.show("settings", "preset")
        self.status = self.html("status", actions.found_adapters())

    def person(self, n: int) -> None:
        """Everything about one person."""
        with gr.Row(elem_classes=["facesnap-row", "facesnap-who"]):
            with gr.Column(min_width=240):
                self.show("person", "references", n)
                thumbs = self.html(f"p{n}_thumbs")
            with gr.Column(min_width=240):
                with FormRow():
                    self.show("person", "identity", n)
                    again = ToolButton(
                        REFRESH, elem_id=self.id(f"p{n}_refresh"), tooltip="Look for saved identities again."
                    )
                self.show("person", "strength", n)
                self.show("person", "structure", n)
        look = gr.Button(
            "Preview" if n == 1 else f"Preview (person {n})", elem_id=self.id(f"p{n}_preview"), size="sm",
            tooltip="Show which face was found in each photo, how good it is, and how alike the photos are.",
        )  # fmt: skip
        seen = self.html(f"p{n}_seen")
        self.pose(n)
        self.advanced(n)
        self.saving(n)
        files = self.get("person", "references", n)
        on_server(files.change, html.thumbnails, [files], [thumbs])
        adapter = self.get("settings", "adapter")
        on_server(look.click, actions.show_preview(n, self.people), [adapter, *self.shown(n)], [seen], progress=True)
        identity = self.get("person", "identity", n)
        on_server(again.click, lambda: gr.update(choices=lists.identity_choices()), [], [identity])

    def pose(self, n: int) -> None:
        source = self.show("pose", "source", n)
        picture = self.show("pose", "image", n)
        picture.visible = False  # not in its constructor: the WebUI would take it for a control that is never shown
        on_server(source.change, lambda chosen: gr.update(visible=chosen == "picture"), [source], [picture])

    def advanced(self, n: int) -> None:
        title = "Advanced" if n == 1 else f"Advanced (person {n})"
        with gr.Accordion(title, open=False, elem_id=self.id(f"p{n}_advanced")):
            self.row(n, ("person", "start"), ("person", "end"))
            self.row(n, ("person", "structure_start"), ("person", "structure_end"))
            self.row(n, ("person", "face"), ("person", "s_struct"))
            self.row(n, ("person", "lora"), ("person", "lora_in_region"))
            self.show("pose", "framing", n)
            self.row(n, ("pose", "values"), ("pose", "expression"))
            self.row(n, ("person", "blocks"), ("person", "region"))
            self.show("person", "region_mask", n)
            self.rest(n)

    def saving(self, n: int) -> None:
        whose = "" if n == 1 else f" (person {n})"
        with gr.Accordion(f"Save or delete an identity{whose}", open=False, elem_id=self.id(f"p{n}_saving")):
            with FormRow(elem_classes=["facesnap-row"]):
                self.names[n] = box = gr.Textbox(
                    label=f"FaceSnap name {n}", show_label=False, placeholder="Name of the new identity", max_lines=1,
                    elem_id=self.id(f"p{n}_name"), tooltip="Under this name the person can be chosen without photos.",
                )  # fmt: skip
                box.do_not_save_to_config = True
                self.savers[n] = gr.Button(
                    f"Save{whose}", elem_id=self.id(f"p{n}_save"),
                    tooltip="Keep the person of the photos above under this name: numbers, not the photos.",
                )  # fmt: skip
            self.deleters[n] = gr.Button(
                f"Delete the chosen identity{whose}", elem_id=self.id(f"p{n}_delete"), size="sm",
                tooltip="Remove the saved identity that is chosen above from this machine. You are asked first.",
            )  # fmt: skip

    def canvas(self) -> None:
        """The pose canvas, of all people."""
        made = {self.by[key].elem_id(self.tab): one for key, one in self.made.items()}
        inits = PAGES.inits if self.tab == "img2img" else None
        adapter = self.get("settings", "adapter")
        with gr.Accordion("Pose canvas", open=False, elem_id=self.id("posing")):
            canvas.build(self.tab, made, drawn.identity_of, drawn.shapes, inits, adapter, self.people)

    def shown(self, n: int) -> list[Any]:
        return [self.get(part, name, n) for part, name in actions.SHOWN]

    def connect(self) -> None:
        """Events between controls of several people."""
        filled = [one for one in self.order if one.field.preset]
        names, outputs = [one.name for one in filled], [self.made[_key(one)] for one in filled]
        preset, adapter = self.get("settings", "preset"), self.get("settings", "adapter")
        # `input`, not `change`: what is pasted from an infotext must not be overruled.
        on_server(preset.input, partial(actions.fill_in, names=names), [preset], outputs)
        on_server(adapter.input, partial(actions.choose_adapter, fields=names), [adapter], [self.status, *outputs])
        on_server(
            self.again.click, actions.refresh_adapters, [self.checkpoint, adapter], [self.status, adapter],
            first="(checkpoint, adapter) => [facesnap.checkpoint(), adapter]",
        )  # fmt: skip
        identities = [self.get("person", "identity", n) for n in range(1, self.people + 1)]
        for n in range(1, self.people + 1):
            box, files = self.names[n], self.get("person", "references", n)
            on_server(
                self.savers[n].click, actions.save_identity(n, self.people), [box, adapter, *self.shown(n)],
                [self.status, box, files, *identities], progress=True,
            )  # fmt: skip
            on_server(
                self.deleters[n].click, actions.delete_identity(self.people),
                [self.get("person", "identity", n), *identities], [self.status, *identities],
                first=f"(name, ...others) => [facesnap.confirmDeletion(name), ...others.slice(0, {self.people})]",
            )  # fmt: skip

    def accordion(self) -> Accordion:
        components = [self.made[_key(one)] for one in self.order]
        is_picture = [isinstance(one.field.kind, (PictureType, PicturesType)) for one in self.order]
        PAGES.add_tab(self.tab, [one for one, yes in zip(components, is_picture, strict=True) if yes])
        found = pasters(self.people, lambda: lists.identities().digests())
        pasted = partial(actions.pasted, most_people=self.people)
        return Accordion(
            components,
            [*zip(components, found, strict=True), (self.status, pasted)],
            [paster for paster, picture in zip(found, is_picture, strict=True) if not picture],
        )


def _key(control: Control) -> _Key:
    return control.part, control.name, control.person
