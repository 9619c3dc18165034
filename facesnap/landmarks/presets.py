"""The mix of expression presets that comes nearest to an expression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_ROUNDS, _LEAST_AMOUNT = 300, 0.05


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
