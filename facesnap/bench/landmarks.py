"""`facesnap bench landmarks`: speed and error of the Landmark Predictor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.bench import orl, synthetic
from facesnap.bench.make_heads import load
from facesnap.bench.timing import timed
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Observation, fit
from facesnap.landmarks.recombination import recombine
from facesnap.landmarks.render import render_five_points, render_landmarks
from facesnap.landmarks.scheme import five_points

REPEATS = 100


def run(
    *,
    pack: str | Path | None = None,
    orl_folder: str | Path | None = None,
    basis: str | Path | None = None,
    trials: int = 120,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that `--json` prints.

    Args:
        pack: face-analysis pack folder, and
        orl_folder: folder with s1/1.pgm ... s40/10.pgm; without both of them "orl" is None.
        basis: another basis file.
        trials: random trials for each noise level of the synthetic part.

    Returns:
        fit_ms, recombine_ms, fit_and_recombine_ms, render_ms, render_five_ms (medians of one call,
        milliseconds), synthetic and orl (see their modules).
    """
    loaded = Basis.load(basis)
    result: dict[str, Any] = {
        **timings(loaded, seed),
        "synthetic": synthetic.run(loaded, trials=trials, seed=seed),
    }
    people = None if pack is None or orl_folder is None else orl.detect_all(Path(orl_folder), Path(pack))
    result["orl"] = None if people is None else orl.run(loaded, people, seed=seed)
    return result


def timings(basis: Basis, seed: int = 0) -> dict[str, float]:
    """Medians over REPEATS calls on different faces; run with OMP_NUM_THREADS=1 for one core."""
    rng = np.random.default_rng(seed)
    heads, size = load(), (1024, 1024)
    noise = 0.01
    clean = heads[:, 0, :, :2].repeat(-(-REPEATS // len(heads)), 0)[:REPEATS] * 220 + 512  # (REPEATS, 72, 2)
    seen = [Observation(points + 220 * noise * rng.normal(size=points.shape), size, noise) for points in clean]
    fits = [fit(basis, one) for one in seen]
    drivers = fits[1:] + fits[:1]
    pairs = list(zip(fits, drivers, strict=True))
    points = [recombine(basis, a, b, size=size) for a, b in pairs]
    fit_ms = _median_ms([partial(fit, basis, one) for one in seen])
    recombine_ms = _median_ms([partial(recombine, basis, a, b, size=size) for a, b in pairs])
    return {
        "fit_ms": fit_ms,
        "recombine_ms": recombine_ms,
        "fit_and_recombine_ms": round(fit_ms + recombine_ms, 3),
        "render_ms": _median_ms([partial(render_landmarks, p, size) for p in points[:20]]),
        "render_five_ms": _median_ms([partial(render_five_points, five_points(p), size) for p in points[:20]]),
    }


def _median_ms(calls: list[Callable[[], Any]]) -> float:
    return round(1e3 * float(np.median([timed(call) for call in calls])), 3)
