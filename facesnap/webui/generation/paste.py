"""An infotext's settings into the controls: the functions of the WebUI's `infotext_fields`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from facesnap.settings.field_types import PicturesType, PictureType
from facesnap.settings.infotext import Pasted, read
from facesnap.settings.model import PEOPLE
from facesnap.settings.words import SUGGESTED
from facesnap.webui.generation.controls import Control, controls, to_flat


def paste_values(pasted: Pasted, order: Sequence[Control]) -> list[Any]:
    """One value a control; None leaves it as it is, as pictures are, and everything where FaceSnap is off."""
    if not pasted.settings.enabled:
        return [False if control.name == "enabled" else None for control in order]
    most = max(control.person for control in order)
    values = to_flat(pasted.settings, most)
    for n, control in enumerate(order):
        if isinstance(control.field.kind, (PictureType, PicturesType)):
            values[n] = None
        elif control.field.suggested and values[n] == SUGGESTED:  # a slider has no words
            values[n] = control.default
    return values


@dataclass(frozen=True)
class Paster:
    """The value that a text gives one control: the function of a pair in the WebUI's `infotext_fields`.

    Equal in both tabs, so that "Send to img2img" finds the control of the same place there: put the pasters into
    `paste_field_names` too.

    Attributes:
        index: place in `controls(people)`. identities: as in `read`, asked at each paste.
    """

    index: int
    people: int = PEOPLE
    identities: Callable[[], Mapping[str, str]] | None = field(default=None, compare=False)

    def __call__(self, params: Mapping[str, Any]) -> Any:
        known = self.identities() if self.identities else None
        return paste_values(read(params, self.people, known), controls(self.people))[self.index]


def pasters(people: int = PEOPLE, identities: Callable[[], Mapping[str, str]] | None = None) -> list[Paster]:
    """One for each control, in the order of `controls(people)`."""
    return [Paster(index, people, identities) for index in range(len(controls(people)))]
