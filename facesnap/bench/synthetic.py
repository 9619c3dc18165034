"""Recombination on heads with known truth: how far from the truth, against copying the driver's landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facesnap.bench.make_heads import load
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Observation, fit
from facesnap.landmarks.pose import rotation
from facesnap.landmarks.recombination import recombine
from facesnap.landmarks.scheme import outer_eye_distance

SIZE = (512, 512)
_PIXELS = 110.0  # outer-eye distance in the pictures
_LARGEST = {"yaw": 45.0, "pitch": 15.0, "roll": 20.0}


def similarity_error(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of (72, 2) `points` to `truth` after the best similarity, in outer-eye distances."""
    p, t = (x @ (1, 1j) for x in (points - points.mean(0), truth - truth.mean(0)))
    turn = np.vdot(p, t) / np.vdot(p, p)
    return float(np.abs(turn * p - t).mean()) / outer_eye_distance(truth)


def run(basis: Basis, *, noise: Sequence[float] = (0.01, 0.02, 0.03), trials: int = 120, seed: int = 0) -> dict:
    """Errors in percent of the outer-eye distance: one and four references, own and another's driver."""
    heads = load()
    result: dict = {
        "trials": trials,
        "outside_span_percent": round(100 * outside_span(basis, heads), 3),
        "noise": {},
    }
    for sigma in noise:
        rng = np.random.default_rng(seed)
        rows = [_trial(basis, heads, sigma, rng) for _ in range(trials)]
        means = {name: round(100 * float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
        means["ratio_cross_1_ref"] = round(means["cross_recombined_1_ref"] / means["cross_copied"], 3)
        result["noise"][f"{sigma:g}"] = means
    return result


def outside_span(basis: Basis, heads: np.ndarray) -> float:
    """Root mean square, per coordinate in basis units, of what no fit in the basis can reach of `heads`."""
    neutral = heads[:, 0] - heads[:, 0].mean(1, keepdims=True)  # (N, 72, 3)
    turns = np.stack([np.cross(np.eye(3)[i], basis.mean) for i in range(3)])
    shifts = np.broadcast_to(np.eye(3)[:, None, :], (3, *basis.mean.shape))
    free = np.concatenate([basis.identity, turns, shifts, basis.mean[None]]).reshape(-1, neutral[0].size)
    flat = (neutral - basis.mean).reshape(len(heads), -1)
    left = flat - np.linalg.lstsq(free.T, flat.T, rcond=None)[0].T @ free
    return float(np.sqrt((left**2).mean()))


def _picture(
    head: np.ndarray, sigma: float, rng: np.random.Generator
) -> tuple[Observation, np.ndarray, float, np.ndarray]:
    """Observation of a head in a random pose by a detector with `sigma` per coordinate, and that pose."""
    turn = rotation(*(rng.uniform(-limit, limit) for limit in _LARGEST.values()))
    scale, place = _PIXELS * rng.uniform(0.8, 1.25), np.array(SIZE) / 2 + rng.uniform(-40, 40, 2)
    clean = scale * head @ turn[:2].T + place
    noisy = clean + sigma * outer_eye_distance(scale * head) * rng.normal(size=clean.shape)
    return Observation(noisy, SIZE, sigma, outline=False), turn, scale, place


def _trial(basis: Basis, heads: np.ndarray, sigma: float, rng: np.random.Generator) -> dict[str, float]:
    person, other = rng.choice(len(heads), 2, replace=False)
    expression = int(rng.integers(heads.shape[1]))
    pictures = [_picture(heads[person, int(rng.integers(heads.shape[1]))], sigma, rng)[0] for _ in range(4)]
    sources = {"1_ref": fit(basis, pictures[0]), "4_refs": fit(basis, pictures)}
    row: dict[str, float] = {}
    for kind, bearer in (("same", person), ("cross", other)):
        driver, turn, scale, place = _picture(heads[bearer, expression], sigma, rng)
        truth = scale * heads[person, expression] @ turn[:2].T + place
        row[f"{kind}_copied"] = similarity_error(driver.points, truth)
        driven = fit(basis, driver)
        for name, source in sources.items():
            points = recombine(basis, source, driven, size=SIZE) * SIZE
            row[f"{kind}_recombined_{name}"] = similarity_error(points, truth)
    return row
