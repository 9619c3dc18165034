"""A person: everything that stays the same in all pictures of one identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facesnap.landmarks.anny_heads import Head, random_head
from facesnap.world import palette
from facesnap.world.head import head_model
from facesnap.world.seeds import stream
from facesnap.world.splits import split_of

_EYE_COLOURS = ("dark", "brown", "hazel", "green", "blue", "grey")
_EYES_OF_DARK_SKIN = (0.38, 0.42, 0.12, 0.04, 0.02, 0.02)
_EYES_OF_LIGHT_SKIN = (0.08, 0.27, 0.15, 0.15, 0.22, 0.13)
_BROW_COLOURS = {"black": 0.4, "brown": 0.35, "blond": 0.1, "red": 0.1, "grey": 0.05}


@dataclass(frozen=True)
class Brows:
    """Painted eyebrows. Lengths in mm.

    Attributes:
        thickness: half the height at the thickest place.
        arch: how far the middle lies above the mesh's brow line.
        inner_lift: how far the inner end lies above it; little makes a stern face.
        tail: thickness of the outer end as a share of the thickest.
        density: 0..1.
        colour: a name of palette.HAIR.
    """

    thickness: float
    arch: float
    inner_lift: float
    tail: float
    density: float
    colour: str


@dataclass(frozen=True)
class SyntheticPerson:
    """An identity: shape, skin, eyes, lips and brows. Colours are linear RGB in 0..1.

    Attributes:
        seed: the person's number; people with different numbers are different people.
        head: sliders of anny's head.
        tone: place on palette.SKIN_TONES, 0 light .. 7 dark.
        skin, eye, lips: colours; `lips` multiplies the skin.
        eye_colour: a name of palette.EYES.
        blush, freckles: strength in 0..1.
    """

    seed: int
    head: Head
    tone: float
    skin: tuple[float, float, float]
    eye_colour: str
    eye: tuple[float, float, float]
    lips: tuple[float, float, float]
    brows: Brows
    blush: float
    freckles: float

    @staticmethod
    def sample(seed: int) -> SyntheticPerson:
        """The person of a seed; SettingsError where the seed belongs to no split."""
        split_of(seed)
        rng = stream("person", seed)
        head = random_head(head_model().sliders, rng)
        african, asian, caucasian = (head.phenotypes[k] for k in ("african", "asian", "caucasian"))
        tone = float(np.clip(5.6 * african + 2.0 * asian + 0.9 * caucasian + rng.normal(0, 0.9), 0, 7))
        low = min(int(tone), len(palette.SKIN_TONES) - 2)
        share = tone - low
        between = palette.SKIN_TONES[low] * (1 - share) + palette.SKIN_TONES[low + 1] * share
        skin = between * (1 + rng.normal(0, 0.03, 3))
        odds = _EYES_OF_DARK_SKIN if tone > 3 else _EYES_OF_LIGHT_SKIN
        eye_colour = str(rng.choice(_EYE_COLOURS, p=odds))
        eye = palette.EYES[eye_colour] * (1 + 0.1 * rng.normal(size=3))
        lips = [rng.uniform(0.9, 1.0), 0.63 + rng.normal(0, 0.07), 0.64 + rng.normal(0, 0.06)]
        hues = ("black", "brown") if tone > 4 else tuple(_BROW_COLOURS)
        odds_of_hues = np.array([_BROW_COLOURS[h] for h in hues])
        brows = Brows(
            thickness=rng.uniform(1.6, 3.9),
            arch=rng.uniform(-0.4, 1.8),
            inner_lift=rng.uniform(1.6, 3.6),
            tail=rng.uniform(0.2, 0.6),
            density=rng.uniform(0.5, 1.0),
            colour=str(rng.choice(hues, p=odds_of_hues / odds_of_hues.sum())),
        )
        return SyntheticPerson(
            seed=seed,
            head=head,
            tone=tone,
            skin=_triple(skin),
            eye_colour=eye_colour,
            eye=_triple(eye),
            lips=_triple(np.clip(lips, 0.42, 1.0)),
            brows=brows,
            blush=float(rng.uniform(0, 0.22)),
            freckles=float(max(0.0, rng.normal(-0.2, 0.5))) if tone < 3 else 0.0,
        )

    @property
    def masculine(self) -> float:
        """The gender slider, 0 feminine .. 1 masculine."""
        return self.head.phenotypes["gender"]

    def traits(self) -> dict[str, Any]:
        """Named traits as plain data: colours are linear RGB, `tone` is 0 light .. 7 dark."""
        return {
            "tone": round(self.tone, 3),
            "skin": [round(value, 4) for value in self.skin],
            "eye_colour": self.eye_colour,
            "brow_colour": self.brows.colour,
            "masculine": round(self.masculine, 3),
        }


def _triple(values: np.ndarray | list[float]) -> tuple[float, float, float]:
    r, g, b = np.clip(np.asarray(values, dtype=np.float64), 0, 1).tolist()
    return r, g, b
