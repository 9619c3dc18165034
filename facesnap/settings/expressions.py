"""Expressions by name and amount: "smile:0.8+wink_left:1"."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal

from facesnap.errors import LandmarkError
from facesnap.settings.words import EXPRESSIONS

Expression = str | Mapping[str, float]
AMOUNTS = (0.0, 1.5)
_TERM = re.compile(r"\s*(?P<name>[a-z][a-z0-9_]*)\s*(?::\s*(?P<amount>\d+(?:\.\d*)?|\.\d+)\s*)?", re.ASCII)


def parse_expression(expression: Expression, known: Collection[str] = EXPRESSIONS) -> dict[str, float]:
    """Names and amounts of a mix of presets.

    Args:
        expression: terms `name` or `name:amount` joined by "+", or the mapping itself. A bare name has amount 1.
            Amounts run from 0 to 1.5. A space or hyphen inside a name counts as "_". Empty text is neutral.
        known: the names that there are.

    Raises:
        LandmarkError: an unknown name, a name given twice, an amount out of range, or text of another form.
    """
    if isinstance(expression, str):
        mix = _parse_text(expression, known) if expression.strip() else {}
    else:
        mix = {str(name): float(amount) for name, amount in expression.items()}
    low, high = AMOUNTS
    for name, amount in mix.items():
        if name not in known:
            raise _bad(f"The expression {name!r} is unknown.", known)
        if not low <= amount <= high:
            raise _bad(f"The strength of {name!r} is {amount:g}, not {low:g} to {high:g}.", known)
    return mix


def format_expression(mix: Mapping[str, float]) -> str:
    """The text that parses to `mix`, names in alphabetical order; amounts read back as the same numbers."""
    amounts = {name: format(Decimal(repr(mix[name])), "f") for name in sorted(mix)}  # without an exponent
    return "+".join(f"{name}:{amount.removesuffix('.0')}" for name, amount in amounts.items())


def _parse_text(text: str, known: Collection[str]) -> dict[str, float]:
    mix: dict[str, float] = {}
    for term in text.split("+"):
        match = _TERM.fullmatch(re.sub(r"(?<=[a-z])[ -](?=[a-z])", "_", term.strip()))
        if match is None:
            raise _bad(f"The expression term {term!r} cannot be read.", known)
        name = match["name"]
        if name in mix:
            raise _bad(f"The expression {name!r} is given twice.", known)
        mix[name] = 1.0 if match["amount"] is None else float(match["amount"])
    return mix


def _bad(what: str, known: Collection[str]) -> LandmarkError:
    return LandmarkError(
        what,
        expected='terms like "smile:0.8+wink_left:1" of ' + ", ".join(sorted(known)) + ", each 0 to 1.5.",
        remedy="Correct the expression.",
    )
