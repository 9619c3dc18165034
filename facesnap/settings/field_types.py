"""Types of a setting's values, each with its form in JSON, in the UI and in an infotext."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from facesnap.errors import LandmarkError, SettingsError
from facesnap.settings.expressions import AMOUNTS, format_expression, parse_expression
from facesnap.settings.words import EXPRESSIONS, FACES

Json = dict[str, Any]
BLOCK = re.compile(r"(input|middle|output)(\.\d{1,3}){0,3}", re.ASCII)
MOST_BLOCKS = 100
_SHOWN, _BEGINNING = 60, 12  # a longer wrong value may be a photo: messages show its beginning alone


class FieldType(ABC):
    """The values of a setting. `read` gives a value in its one form or raises; the forms below are derived from it."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The values in words, for help and documentation."""

    @abstractmethod
    def read(self, value: Any, name: str) -> Any:
        """The value in its one form.

        Raises:
            SettingsError: it is not of this kind, or out of its range.
        """

    @abstractmethod
    def schema(self) -> Json:
        """JSON schema of what `read` takes, without null."""

    def json(self, value: Any) -> Any:
        """The value as JSON has it (pictures as they are); `read` turns it into `value` again."""
        return value

    def text(self, value: Any) -> str:
        """The same as text, for infotexts and text boxes."""
        return str(value)

    def parse_text(self, text: str, name: str) -> Any:
        """The inverse of `text`."""
        return self.read(text, name)


@dataclass(frozen=True)
class Switch(FieldType):
    """True or false; numbers and words are neither."""

    allowed = "true, false"

    def read(self, value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false")
        return value

    def schema(self) -> Json:
        return {"type": "boolean"}

    def text(self, value: bool) -> str:
        return "true" if value else "false"

    def parse_text(self, text: str, name: str) -> bool:
        return self.read({"true": True, "false": False}.get(text.strip().lower(), text), name)


@dataclass(frozen=True)
class Number(FieldType):
    """A finite number from low to high; step is the slider's."""

    low: float
    high: float
    step: float = 0.05

    @property
    def allowed(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def read(self, value: Any, name: str) -> float:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not self.low <= value <= self.high:  # NaN and infinity fail the comparison
            raise wrong(name, value, f"a number from {self.allowed}")
        return float(value) + 0.0  # no -0.0

    def schema(self) -> Json:
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def text(self, value: float) -> str:
        return repr(value).removesuffix(".0")  # repr: what is read back is the same number

    def parse_text(self, text: str, name: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise wrong(name, text, f"a number from {self.allowed}") from None
        return self.read(value, name)


@dataclass(frozen=True)
class Choice(FieldType):
    """One of a few words; case does not matter."""

    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(self.options)

    def read(self, value: Any, name: str) -> str:
        found = [o for o in self.options if isinstance(value, str) and o.lower() == value.strip().lower()]
        if not found:
            raise wrong(name, value, " or ".join(self.options))
        return found[0]

    def schema(self) -> Json:
        return {"type": "string", "enum": list(self.options)}


@dataclass(frozen=True)
class Text(FieldType):
    """One line of text; `nothing` are words that mean the empty text."""

    nothing: tuple[str, ...] = ()
    longest: int = 200

    allowed = "text"

    def read(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) > self.longest or not value.isprintable():
            raise wrong(name, value, f"one line of text of at most {self.longest} characters")
        text = value.strip()
        return "" if text.lower() in self.nothing else text

    def schema(self) -> Json:
        return {"type": "string", "maxLength": self.longest}


@dataclass(frozen=True)
class FaceChoice(FieldType):
    """Which face of a picture: a word, or an index from the largest (0) down."""

    words: tuple[str, ...] = FACES
    most: int = 99

    @property
    def allowed(self) -> str:
        return f"{', '.join(self.words)}, 0, 1, ..."

    def read(self, value: Any, name: str) -> str:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            word = str(value).strip().lower()
            if word in self.words:
                return word
            if re.fullmatch(r"\d{1,2}", word, re.ASCII):
                return str(int(word))
        raise wrong(name, value, f"{', '.join(self.words)} or a whole number from 0 (the largest) to {self.most}")

    def schema(self) -> Json:
        return {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": self.most},
                {"type": "string", "pattern": rf"^({'|'.join(self.words)}|\d{{1,2}})$"},
            ]
        }


@dataclass(frozen=True)
class PictureType(FieldType):
    """One picture: base64 or a data URL as text, a Pillow image or an array, or a path. Decoded elsewhere."""

    allowed = "base64 or data URL"

    def read(self, value: Any, name: str) -> Any:
        if not _is_picture(value):
            raise wrong(name, value, "one picture, as base64 or a data URL")
        return value

    def schema(self) -> Json:
        return {"type": "string", "minLength": 1, "contentMediaType": "image/*", "contentEncoding": "base64"}


@dataclass(frozen=True)
class PicturesType(FieldType):
    """Some pictures, in a list or one alone; empty places of the UI are passed over."""

    most: int = 16

    allowed = "list of base64 or data URLs"

    def read(self, value: Any, name: str) -> tuple[Any, ...]:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(items) > self.most:
            raise wrong(name, f"{len(items)} pictures", f"at most {self.most} pictures")
        # A gallery gives (picture, caption) pairs.
        items = [i[0] if isinstance(i, (list, tuple)) and len(i) == 2 and i[1] is None else i for i in items]
        items = [item for item in items if item is not None]
        for n, item in enumerate(items):
            if not _is_picture(item):
                raise wrong(f"{name}[{n}]", item, "a picture, as base64 or a data URL")
        return tuple(items)

    def schema(self) -> Json:
        one = PictureType().schema()
        return {"anyOf": [one, {"type": "array", "items": one, "maxItems": self.most}]}

    def json(self, value: tuple[Any, ...]) -> list[Any]:
        return list(value)


@dataclass(frozen=True)
class Box:
    """A part of the picture: left, top, width and height as fractions 0..1 of it."""

    x: float
    y: float
    w: float
    h: float


_FRACTION = Number(0.0, 1.0)
_SIDES = ("x", "y", "w", "h")


@dataclass(frozen=True)
class RegionType(FieldType):
    """Where a person is: a box by fractions, as {x, y, w, h} or "x y w h", or a mask picture."""

    allowed = "{x, y, w, h} in 0..1, or a mask picture"

    def read(self, value: Any, name: str) -> Any:
        if isinstance(value, Box):
            value = dataclasses.asdict(value)
        if not isinstance(value, Mapping):
            return PictureType().read(value, name)
        require_keys(value, _SIDES, name)
        missing = [side for side in _SIDES if value.get(side) is None]
        if missing:
            raise wrong(f"{name}.{missing[0]}", None, "x, y, w and h, each a number from 0 to 1")
        box = Box(**{side: _FRACTION.read(value[side], f"{name}.{side}") for side in _SIDES})
        if not (box.w > 0 and box.h > 0 and box.x + box.w <= 1.000001 and box.y + box.h <= 1.000001):
            raise wrong(name, dict(value), "a box with an area that ends inside the picture (x + w and y + h up to 1)")
        return box

    def schema(self) -> Json:
        sides = {side: _FRACTION.schema() for side in _SIDES}
        box = {"type": "object", "properties": sides, "required": list(_SIDES), "additionalProperties": False}
        return {"anyOf": [box, PictureType().schema()]}

    def json(self, value: Any) -> Any:
        return dataclasses.asdict(value) if isinstance(value, Box) else value

    def text(self, value: Any) -> str:
        return " ".join(map(_FRACTION.text, dataclasses.astuple(value))) if isinstance(value, Box) else "masked"

    def parse_text(self, text: str, name: str) -> Any:
        parts = text.replace(",", " ").split()
        if len(parts) != 4:
            raise wrong(name, text, 'four fractions of the picture: left, top, width, height, such as "0 0 0.5 1"')
        return self.read({side: _FRACTION.parse_text(p, name) for side, p in zip(_SIDES, parts, strict=True)}, name)


@dataclass(frozen=True)
class Blocks(FieldType):
    """Factors 0..10 by block or site: {"middle": 0.5}, as text "middle=0.5 output.3=0.8"."""

    factor = Number(0.0, 10.0)
    allowed = 'object such as {"middle": 0.5}, each 0 to 10'

    def read(self, value: Any, name: str) -> dict[str, float]:
        if isinstance(value, str):
            return self.parse_text(value, name)
        if not isinstance(value, Mapping) or len(value) > MOST_BLOCKS:
            raise wrong(name, value, f'an object such as {{"middle": 0.5}} with at most {MOST_BLOCKS} entries')
        for key in value:
            if not isinstance(key, str) or not BLOCK.fullmatch(key):
                example = "input, middle or output, then numbers, such as input.4 or output.3.1.0"
                raise wrong(f"a key of {name}", key, example)
        return {key: self.factor.read(value[key], f"{name}.{key}") for key in sorted(value)}

    def schema(self) -> Json:
        names = {"pattern": rf"^{BLOCK.pattern}$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": self.factor.schema()}

    def text(self, value: Mapping[str, float]) -> str:
        return " ".join(f"{key}={self.factor.text(factor)}" for key, factor in sorted(value.items()))

    def parse_text(self, text: str, name: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in text.replace(",", " ").split():
            key, _, factor = part.partition("=")
            if key in found or not BLOCK.fullmatch(key):
                raise wrong(name, text, 'blocks such as "middle=0.5 output.3=0.8", each once')
            found[key] = self.factor.parse_text(factor, f"{name}.{key}")
        return self.read(found, name)


NEUTRAL = {"neutral": 1.0}  # an empty mix; no mix at all is the pose source's own expression


@dataclass(frozen=True)
class ExpressionMix(FieldType):
    """A mix of expressions with amounts 0..1.5: {"smile": 0.8}, as text "smile:0.8+wink_left"."""

    amount = Number(*AMOUNTS)
    allowed = f"object of {', '.join(EXPRESSIONS)}, each {amount.allowed}"

    def read(self, value: Any, name: str) -> dict[str, float]:
        if isinstance(value, str):
            return self.parse_text(value, name)
        if not isinstance(value, Mapping):
            raise wrong(name, value, 'an object such as {"smile": 0.8}')
        require_keys(value, EXPRESSIONS, name)
        return {key: self.amount.read(value[key], f"{name}.{key}") for key in sorted(value)} or dict(NEUTRAL)

    def schema(self) -> Json:
        amounts = {key: self.amount.schema() for key in EXPRESSIONS}
        return {"type": "object", "properties": amounts, "additionalProperties": False}

    def text(self, value: Mapping[str, float]) -> str:
        return format_expression(value)

    def parse_text(self, text: str, name: str) -> dict[str, float]:
        if len(text) > 1000:
            raise wrong(name, text, 'a mix such as "smile:0.8+wink_left"')
        try:
            return self.read(parse_expression(text), name)
        except LandmarkError as error:
            raise wrong(name, text, error.expected) from error


def _is_picture(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    # A file object of the UI, which is neither plain data nor a picture, has no pixels to offer.
    return isinstance(value, PurePath) or hasattr(value, "getbands") or len(getattr(value, "shape", ())) in (2, 3)


def require_keys(value: Mapping[Any, Any], allowed: Sequence[str], name: str) -> None:
    """Raise a SettingsError that names the first key that is not allowed."""
    for key in value:
        if key not in allowed:
            where = f" in {name}" if name else ""
            raise SettingsError(
                f"The key {_show(key)}{where} is unknown.",
                expected=f"one of {', '.join(allowed)}",
                remedy="correct or leave out the key; /facesnap/v1/schema lists them all",
            )


def wrong(name: str, value: Any, expected: str) -> SettingsError:
    """The error for a value that cannot be taken; long values are cut, pictures never shown."""
    return SettingsError(f"{name} is {_show(value)}.", expected=expected, remedy=f"correct {name}")


def _show(value: Any) -> str:
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, int)) and math.isnan(value):
        return "not a number (NaN)"
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number beyond all ranges"
    if value is None or isinstance(value, (bool, numbers.Real)):
        return str(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_BEGINNING]!r}... ({len(value)} characters)"
    if isinstance(value, (Mapping, list, tuple)):
        return f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value)}"
    return f"a {type(value).__name__}"
