"""Colours by name, all as linear RGB in 0..1."""

from __future__ import annotations

import numpy as np

GAMMA = 2.2


def linear(code: str) -> np.ndarray:
    """A colour "rrggbb" as linear RGB, (3,) float32."""
    display = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.float32) / 255
    return display**GAMMA


def _table(**codes: str) -> dict[str, np.ndarray]:
    return {name: linear(code) for name, code in codes.items()}


SKIN_TONES = np.stack(
    [linear(c) for c in ("f6d9c6", "eec4a8", "e0ac88", "cf9670", "b57c55", "98633f", "7a4c33", "5e3a28")]
)  # (8, 3), light to dark
EYES = _table(blue="5b87b5", green="6f8a55", hazel="8a6b3c", brown="5c3a21", dark="2d1d14", grey="8494a0")
HAIR = _table(
    black="1a1613", brown="54341f", blond="cfa660", red="a04522", grey="8f8f92", white="e4e1da", blue="2f5cb4",
    pink="d8689f",
)  # fmt: skip
CLOTHES = _table(
    red="b3282d", blue="2a55a5", green="2f7a45", yellow="dcb430", white="e9e7e1", black="1f1f23", purple="6d3b94",
    orange="dd722b", grey="7d8086",
)  # fmt: skip
# (light side, dark side) of a background.
BACKGROUNDS = {
    "grey": (linear("b9bcc0"), linear("777b81")),
    "blue": (linear("a9c6e6"), linear("4a79ad")),
    "green": (linear("b9d8aa"), linear("548450")),
    "beige": (linear("ecdec5"), linear("bea27e")),
    "pink": (linear("f5d0d7"), linear("c4859a")),
    "black": (linear("3a3c42"), linear("121317")),
    "white": (linear("ffffff"), linear("dedede")),
    "orange": (linear("f6c98e"), linear("bb6e36")),
    "purple": (linear("cbb7e2"), linear("644f8e")),
}
FRAMES = {"round": linear("5e4730"), "square": linear("2b2320"), "sunglasses": linear("131316")}
LENS = linear("141418")
TEETH = linear("ece4d6")
TONGUE = linear("a8524c")
MOUTH = linear("4a1512")
SCLERA = linear("d9d3cd")
