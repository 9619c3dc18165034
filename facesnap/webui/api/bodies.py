"""Bodies of the routes: declared with the same fields as a generation's settings, and read in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from facesnap.errors import SettingsError
from facesnap.settings.field_types import FaceChoice, Json, PicturesType, PictureType, Switch, Text, require_keys, wrong
from facesnap.settings.fields import setting, table

# ruff: noqa: RUF009 (`setting` is dataclasses.field with a declaration)

_FACE = "Which face of a picture with several: largest, leftmost, central, or a number from 0 (the largest)."
_WHO = "Photos of the person, or a saved identity."
_NONE = ("none",)


def _adapter() -> Any:
    return setting(
        Text(("automatic", "none")), "", "Adapter",
        "Its face-analysis pack looks at the picture. Empty: of the adapter that fits the checkpoint that is loaded.",
    )  # fmt: skip


@dataclass(frozen=True)
class AnalyseBody:
    """Of `analyse`."""

    image: Any = setting(PictureType(), None, "Picture", "The picture.")
    face: str = setting(FaceChoice(), "largest", "Face choice", _FACE)
    draw: bool = setting(Switch(), False, "Draw", "Also the picture with boxes, points and numbers, as base64 PNG.")
    adapter: str = _adapter()


@dataclass(frozen=True)
class LandmarksBody(AnalyseBody):
    """Of `landmarks`."""

    draw: bool = setting(Switch(), False, "Draw", "Also the landmark picture, as base64 PNG.")


@dataclass(frozen=True)
class SimilarityBody:
    """Of `similarity`: one picture and one person."""

    image: Any = setting(PictureType(), None, "Picture", "The picture whose faces are compared.")
    references: tuple[Any, ...] = setting(PicturesType(), (), "Reference photos", _WHO)
    identity: str = setting(Text(_NONE), "", "Identity", _WHO)
    face: str = setting(FaceChoice(), "largest", "Face choice", "Which face of the reference photos.")
    adapter: str = _adapter()

    def __post_init__(self) -> None:
        if bool(self.references) == bool(self.identity):
            raise SettingsError(
                "Both references and identity are given." if self.identity else "Neither references nor identity.",
                expected="one of the two",
                remedy="say with whom the picture is to be compared",
            )


@dataclass(frozen=True)
class IdentityBody:
    """Of a new identity."""

    name: str = setting(Text(), "", "Name", "What people call it: one line of at most 80 characters.")
    references: Any = setting(PicturesType(), (), "Reference photos", "One or several photos of the person.")
    face: str = setting(FaceChoice(), "largest", "Face choice", _FACE)
    adapter: str = setting(
        Text(("automatic", "none")), "", "Adapter",
        "The one that the identity is for: recogniser and encoder are its own. Empty: the one that fits the "
        "checkpoint that is loaded.",
    )  # fmt: skip
    replace: bool = setting(Switch(), False, "Replace", "Whether an identity of this name gives way.")

    def __post_init__(self) -> None:
        if not self.references:
            raise wrong("references", None, "one or several photos of the person")


Body = TypeVar("Body")


def read(cls: type[Body], given: Mapping[str, Any]) -> Body:
    """A declared body from a JSON object.

    Raises:
        SettingsError: an unknown key, a wrong type, a value out of range, or no picture where one is needed.
    """
    fields = table(cls)
    require_keys(given, list(fields), "")
    values = {name: field.kind.read(given[name], name) for name, field in fields.items() if given.get(name) is not None}
    if "image" in fields and "image" not in values:
        raise wrong("image", None, "one picture, as base64 or a data URL")
    return cls(**values)


def documented(cls: type) -> Json:
    """`openapi_extra` of a route that takes this body."""
    properties = {name: field.schema() for name, field in table(cls).items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
