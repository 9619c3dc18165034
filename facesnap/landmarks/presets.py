"""Expression presets by name and strength: "smile:0.8+wink_left:1"."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np

from facesnap.errors import LandmarkError

Expression = str | Mapping[str, float]
STRENGTH_RANGE = (0.0, 1.5)
_ROUNDS, _LEAST_AMOUNT = 300, 0.05
_TERM = re.compile(r"\s*(?P<name>[a-z][a-z0-9_]*)\s*(?::\s*(?P<strength>\d+(?:\.\d*)?|\.\d+)\s*)?", re.ASCII)


def parse_expression(expression: Expression, known: Collection[str]) -> dict[str, float]:
    """Names and strengths of a mix of presets.

    Args:
        expression: terms `name` or `name:strength` joined by "+", or the mapping itself. A bare name has
            strength 1. Strengths run from 0 to 1.5. A space or hyphen inside a name counts as "_". Empty text
            is neutral.
        known: the basis' presets.

    Raises:
        LandmarkError: an unknown name, a name given twice, a strength out of range, or text of another form.
    """
    if isinstance(expression, str):
        mix = _parse_text(expression, known)
    else:
        mix = {str(name): float(strength) for name, strength in expression.items()}
    low, high = STRENGTH_RANGE
    for name, strength in mix.items():
        if name not in known:
            raise _bad(f"The expression {name!r} is unknown.", known)
        if not low <= strength <= high:
            raise _bad(f"The strength of {name!r} is {strength:g}, not {low:g} to {high:g}.", known)
    return mix


def format_expression(mix: Mapping[str, float]) -> str:
    """The text that parses to `mix`, strengths to six decimals."""
    return "+".join(f"{name}:{strength:.6f}".rstrip("0").rstrip(".") for name, strength in mix.items())


def nearest_mix(offset: np.ndarray, presets: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mix of presets, each 0..1 in steps of 0.01, whose offset is nearest to `offset` (72, 3).

    Coordinate descent on |sum m_p P_p - offset|^2: the problem is convex, and has as many unknowns as presets. Amounts
    below 0.05 are left out.
    """
    names = [name for name, preset in presets.items() if preset.any()]
    modes = np.stack([presets[name].ravel() for name in names])  # (P, 216)
    gram, target = modes @ modes.T, modes @ offset.ravel()
    mix = np.zeros(len(names))
    for _ in range(_ROUNDS):
        for n in range(len(names)):
            mix[n] = np.clip(mix[n] + (target[n] - gram[n] @ mix) / gram[n, n], 0, 1)
    return {name: round(float(m), 2) for name, m in zip(names, mix, strict=True) if m >= _LEAST_AMOUNT}


def _parse_text(text: str, known: Collection[str]) -> dict[str, float]:
    mix: dict[str, float] = {}
    if not text.strip():
        return mix
    for term in text.split("+"):
        match = _TERM.fullmatch(re.sub(r"(?<=[a-z])[ -](?=[a-z])", "_", term.strip()))
        if match is None:
            raise _bad(f"The expression term {term!r} cannot be read.", known)
        name = match["name"]
        if name in mix:
            raise _bad(f"The expression {name!r} is given twice.", known)
        mix[name] = 1.0 if match["strength"] is None else float(match["strength"])
    return mix


def _bad(what: str, known: Collection[str]) -> LandmarkError:
    return LandmarkError(
        what,
        expected='terms like "smile:0.8+wink_left:1" of ' + ", ".join(sorted(known)) + ", each 0 to 1.5.",
        remedy="Correct the expression.",
    )
