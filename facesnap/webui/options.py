"""FaceSnap's section of the settings page, as data; the host's `shared` is handed in to register it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facesnap.settings.field_types import Choice, FieldType, Number, Switch, Text
from facesnap.settings.model import MOST_PEOPLE, PEOPLE
from facesnap.webui import log

SECTION = ("facesnap", "FaceSnap")
MOST_PEOPLE_KEY, LOG_KEY = "facesnap_people", "facesnap_log"


@dataclass(frozen=True)
class Option:
    """One line of the settings page.

    Attributes:
        key: in config.json. kind: what it may be (None: several lines of text). reload: it needs a reload of the UI.
        whole: whole numbers only.
    """

    key: str
    kind: FieldType | None
    default: Any
    label: str
    info: str
    reload: bool = False
    whole: bool = False


OPTIONS = (
    Option(MOST_PEOPLE_KEY, Number(1, MOST_PEOPLE, 1), PEOPLE, "People",
           "How many people the accordion has room for.", reload=True, whole=True),
    Option("facesnap_on_error", Choice(("stop", "skip")), "stop", "If FaceSnap cannot act",
           "stop: no picture, and a message. skip: a picture without FaceSnap, noted in its infotext."),
    Option("facesnap_pack", Text(), "buffalo_l", "Face-analysis pack",
           "Name or folder. Weights of insightface's own packs are for non-commercial research only; AuraFace may be "
           "used commercially. An adapter works with the recogniser that it was made for."),
    Option("facesnap_provider", Choice(("cpu", "cuda")), "cpu", "Analyse faces on",
           "The CPU takes a fraction of a second and no VRAM."),
    Option("facesnap_offload", Switch(), False, "Free the GPU after each pass",
           "FaceSnap's networks leave the GPU when a pass is over; always so with --medvram and --lowvram."),
    Option("facesnap_adetailer", Switch(), True, "Keep the identity in ADetailer's face pass",
           "The person whose region or landmarks cover the face that is painted again."),
    Option("facesnap_score", Switch(), True, "Measure the similarity of results",
           "Written to the infotext; takes a face analysis for every picture."),
    Option("facesnap_folders", None, "", "Further folders of adapters and packs", "One folder a line."),
    Option("facesnap_api_paths", Switch(), False, "API: allow file paths as pictures",
           "Only inside the folders below."),
    Option("facesnap_api_folders", None, "", "API: folders that paths may lie in", "One folder a line."),
    Option("facesnap_api_urls", Switch(), False, "API: allow addresses as pictures",
           "Only where the WebUI itself allows requests; local addresses as the WebUI allows them."),
    Option(LOG_KEY, Choice(("debug", "info", "warning", "error")), "info", "Log level",
           "Photos are never logged."),
)  # fmt: skip


def register(shared: Any) -> None:
    """Add the section to the options of the host's `modules.shared`, and follow its log level; for
    `script_callbacks.on_ui_settings`."""
    import gradio

    for option in OPTIONS:
        component, arguments = _control(option.kind, gradio)
        info = shared.OptionInfo(option.default, option.label, component, arguments, section=SECTION).info(option.info)
        if option.reload:
            info = info.needs_reload_ui()
        shared.opts.add_option(option.key, info)
    shared.opts.onchange(LOG_KEY, lambda: log.setup(values(shared.opts)[LOG_KEY]))


def _control(kind: FieldType | None, gradio: Any) -> tuple[Any, dict[str, Any]]:
    if isinstance(kind, Switch):
        return gradio.Checkbox, {}
    if isinstance(kind, Number):
        return gradio.Slider, {"minimum": kind.low, "maximum": kind.high, "step": kind.step}
    if isinstance(kind, Choice):
        return gradio.Radio, {"choices": list(kind.options)}
    return gradio.Textbox, {"lines": 3} if kind is None else {}


def values(data: Mapping[str, Any] | Any) -> dict[str, Any]:
    """All options by key, checked, of the host's `opts` or a mapping; what it lacks has its default.

    Raises:
        SettingsError: config.json or override_settings hold something that the option cannot be.
    """
    found = {}
    for option in OPTIONS:
        given = data.get(option.key) if isinstance(data, Mapping) else getattr(data, option.key, None)
        if given is None:
            found[option.key] = option.default
        elif option.kind is None:
            found[option.key] = str(given)
        else:
            value = option.kind.read(given, f"the setting '{option.label}'")
            found[option.key] = round(value) if option.whole else value
    return found
