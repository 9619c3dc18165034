"""Captions: every attribute that a prompt should control in words, and nothing about the identity."""

from __future__ import annotations

from facesnap.world.expressions import EXPRESSIONS
from facesnap.world.look import HAIR, LIGHTS, STYLES, Look

GLASSES = {"round": "round glasses", "square": "square glasses", "sunglasses": "sunglasses"}
BEARDS = {"stubble": "stubble", "moustache": "a moustache", "goatee": "a goatee", "full": "a full beard"}
DIRECTIONS = {"front": "facing the camera", "left": "turned to the left", "right": "turned to the right"}
COLOURLESS = ("sketch",)  # styles that show no colours, so that their captions name none


def caption(look: Look, *, expression: bool = True, pose: bool = True) -> str:
    """Say in words what a prompt controls; the expression and the direction of the head may be left out."""
    coloured = look.style not in COLOURLESS
    wears = [_worded(HAIR[look.hair][1], look.hair_colour if coloured else "")]
    if look.glasses != "none":
        wears.append(GLASSES[look.glasses])
    if look.beard != "none":
        wears.append(BEARDS[look.beard])
    dress = _worded(f"a {{}} {look.garment}", look.clothing_colour if coloured else "")
    worn = wears[0] if len(wears) == 1 else f"{', '.join(wears[:-1])} and {wears[-1]}"
    parts = [f"{STYLES[look.style][1]} with {worn}", f"wearing {dress}"]
    if coloured:
        parts.append(f"{look.background} background")
    parts.append(LIGHTS[look.light][1])
    if expression:
        parts.append(EXPRESSIONS[look.view.expression][1])
    if pose:
        parts.append(DIRECTIONS[look.view.direction])
    return ", ".join(parts)


def _worded(template: str, colour: str) -> str:
    """The template with the colour, or without any, and the article that fits the word after it."""
    words = template.format(colour).split()
    if words[0] == "a" and words[1][0] in "aeio":
        words[0] = "an"
    return " ".join(words)
