"""Expressions and poses of the world: a named preset at some strength, small movements of everything else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from facesnap.landmarks.anny_heads import random_actions
from facesnap.landmarks.build_basis import PRESETS, both_sides
from facesnap.world.seeds import pick

# Frequency of the named expressions, and how a caption says them (they are the landmark predictor's presets).
EXPRESSIONS: dict[str, tuple[float, str]] = {
    "neutral": (0.29, "neutral face"),
    "smile": (0.29, "smiling"),
    "laugh": (0.13, "laughing"),
    "open_mouth": (0.07, "open mouth"),
    "surprise": (0.06, "surprised"),
    "sadness": (0.04, "sad"),
    "frown": (0.05, "frowning"),
    "eyes_closed": (0.03, "eyes closed"),
    "wink_left": (0.02, "winking"),
    "wink_right": (0.02, "winking"),
}
# A resting face: brows relaxed, the corners of the mouth just up. Without it anny's mean head looks stern.
RESTING = {"browInnerUp": 0.6, **both_sides(browOuterUp=0.12, mouthSmile=0.1)}
_STRAY = 0.12  # size of the random movements beside the preset
# Movements that must not stray: the lids would meet, or a mouth would hang open for no reason.
_STILL = ("eyeBlink", "jawOpen", "mouthClose", "mouthFunnel", "browDown", "mouthFrown", "cheekPuff")
_GRIM = ("frown", "sadness")  # they say where brows and mouth go, and look like masks at full strength
STRONG_YAW = 18.0  # degrees from which a caption calls a head turned


@dataclass(frozen=True)
class CameraView:
    """Everything about a picture that a landmark picture can ask for: expression, pose, framing.

    Attributes:
        expression: name of a preset.
        actions: facial action -> amount (the model's full action is 1).
        yaw, pitch, roll: degrees, signs as in facesnap.landmarks.pose.
        gaze: (right, down) of the iris in mm.
        zoom: size of the head, 1 is usual.
        shift: (right, down) of the head in fractions of the picture.
        shoulders: yaw of the body in degrees.
    """

    expression: str = "neutral"
    actions: dict[str, float] = field(default_factory=lambda: dict(RESTING))
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    shoulders: float = 0.0

    @staticmethod
    def sample(rng: np.random.RandomState) -> CameraView:
        """A random view: two thirds face the camera within about 15 degrees, one third turn up to 38."""
        name = pick(rng, EXPRESSIONS)
        strength = rng.uniform(0.45, 0.8) if name in _GRIM else rng.uniform(0.6, 1.0)
        actions = express(name, float(strength), rng)
        yaw = rng.normal(0, 9) if rng.uniform() < 2 / 3 else rng.uniform(-38, 38)
        yaw = float(np.clip(yaw, -38, 38))
        return CameraView(
            expression=name,
            actions=actions,
            yaw=yaw,
            pitch=float(np.clip(rng.normal(0, 5.5), -14, 14)),
            roll=float(np.clip(rng.normal(0, 4.5), -12, 12)),
            gaze=(float(rng.normal(0, 0.9)), float(rng.normal(0, 0.4))),
            zoom=float(rng.uniform(0.94, 1.05)),
            shift=(float(rng.normal(0, 0.012)), float(rng.normal(0, 0.008))),
            shoulders=float(0.35 * yaw + rng.normal(0, 6)),
        )

    @property
    def direction(self) -> str:
        """ "front", "left" or "right": where the face points in the picture."""
        if abs(self.yaw) < STRONG_YAW:
            return "front"
        return "right" if self.yaw > 0 else "left"


def express(name: str, strength: float, rng: np.random.RandomState | None = None) -> dict[str, float]:
    """Facial actions of a preset at a strength in 0..1, on the resting face; `rng` adds small stray movements."""
    actions = {} if name in _GRIM else dict(RESTING)
    for action, amount in PRESETS[name].items():
        actions[action] = max(actions.get(action, 0.0), amount * strength)
    if rng is not None:
        for action, amount in random_actions(rng).items():
            if not action.startswith(_STILL):
                actions[action] = actions.get(action, 0.0) + _STRAY * amount
        if name in ("neutral", "smile"):
            blink = rng.uniform(0, 0.1)
            for action in ("eyeBlinkLeft", "eyeBlinkRight"):
                actions[action] = actions.get(action, 0.0) + blink
    return actions
