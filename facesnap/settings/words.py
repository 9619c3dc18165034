"""Words of the choices in the settings, in the order that people see them in, and the presets' values."""

from __future__ import annotations

from typing import Any

SPEEDS = ("exact", "balanced", "fast")
PASSES = ("both", "first", "second")
PULID_MODES = ("fidelity", "style")
ON_ERROR = ("stop", "skip")
FACES = ("largest", "leftmost", "central", "first")
POSE_SOURCES = ("none", "reference", "picture", "init", "canvas")
FRAMINGS = ("keep framing", "true size")
EXPRESSIONS = (
    "neutral", "smile", "laugh", "open_mouth", "surprise", "sadness", "wink_left", "wink_right", "eyes_closed", "frown",
)  # fmt: skip
TITLE_MARK = " · "  # after the name in an adapter's title; Gradio 3 knows no titles apart from values
FAMILY_MARK = " as "  # between an adapter's name and its family, where its file leaves that open
SUGGESTED = "suggested"  # text in the place of a number: the adapter's suggestion

PRESET = "Balanced"
PRESETS: dict[str, dict[str, Any]] = {
    "Faithful": {"speed": "exact", "strength": 1.0, "structure": 1.0, "start": 0.0, "end": 1.0,
                 "structure_start": 0.0, "structure_end": 1.0},
    "Balanced": {"speed": "balanced", "strength": 0.8, "structure": 0.8, "start": 0.0, "end": 1.0,
                 "structure_start": 0.0, "structure_end": 0.9},
    "Creative": {"speed": "balanced", "strength": 0.6, "structure": 0.5, "start": 0.05, "end": 0.9,
                 "structure_start": 0.0, "structure_end": 0.6},
    "Fast": {"speed": "fast", "strength": 0.8, "structure": 0.8, "start": 0.0, "end": 1.0,
             "structure_start": 0.0, "structure_end": 0.6},
}  # fmt: skip
