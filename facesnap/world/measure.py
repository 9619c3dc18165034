"""The world through a face recogniser: how well held-out people are distinguished, and how many faces are found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from facesnap.errors import NoFaceError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.world.look import GLASSES, STYLES, Look
from facesnap.world.person import SyntheticPerson
from facesnap.world.render import World
from facesnap.world.splits import SPLITS

SETS: dict[str, Callable[[Look], Look]] = {
    "as sampled": lambda look: look,
    "photos without glasses": lambda look: replace(look, style="photo", glasses="none"),
    "photos, all with glasses": lambda look: replace(look, style="photo", glasses=("round", "square")[look.seed % 2]),
}


@dataclass(frozen=True)
class Separation:
    """Measures of how embeddings distinguish people.

    Attributes:
        same, different: mean cosine of pairs of one person, of two people.
        d_prime: distance of the two means in pooled standard deviations.
        eer: error rate at the threshold where false matches and false rejections are equal.
        rank1: share of pictures whose nearest other picture shows the same person.
    """

    same: float
    different: float
    d_prime: float
    eer: float
    rank1: float


def separation(embeddings: np.ndarray, person: Sequence[int]) -> Separation:
    """Compare every pair of embeddings (N, D) of at least two people with at least two pictures each."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T
    who = np.asarray(person)
    equal = who[:, None] == who[None]
    upper = np.triu(np.ones_like(equal), 1)
    same, different = cosine[equal & upper], cosine[~equal & upper]
    spread = np.sqrt((same.var() + different.var()) / 2)
    np.fill_diagonal(cosine, -np.inf)
    return Separation(
        same=float(same.mean()),
        different=float(different.mean()),
        d_prime=float((same.mean() - different.mean()) / spread),
        eer=equal_error_rate(same, different),
        rank1=float((who[cosine.argmax(1)] == who).mean()),
    )


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Error rate where the share of `same` scores below a threshold meets that of `different` scores at or above it."""
    thresholds = np.sort(np.concatenate([same, different]))
    rejected = np.searchsorted(np.sort(same), thresholds, "left") / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds, "left") / len(different)
    best = np.argmin(np.abs(rejected - accepted))
    return float((rejected[best] + accepted[best]) / 2)


def measure(
    analyser: FaceAnalyser,
    *,
    people: int = 50,
    pictures: int = 8,
    size: int = 128,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Render held-out people and look at them through a face pack.

    Args:
        people, pictures: how many, and pictures of each.
        progress: wraps the loop over people, e.g. tqdm.

    Returns:
        By set: `found` (share of faces found), `found_by` attribute value for styles and glasses, the numbers of
        `Separation`, and those of the means of each person's two halves of pictures as `halves`.

    Raises:
        SettingsError: too few people or pictures to compare.
    """
    if people < 2 or pictures < 2:
        raise SettingsError(
            f"A measurement on {people} people with {pictures} pictures each.",
            expected="at least two of both, better 50 and 8.",
            remedy="ask for more.",
        )
    world, first = World(), SPLITS["held_out"].start
    rows: dict[str, list[tuple[int, Look, np.ndarray | None]]] = {name: [] for name in SETS}
    for seed in progress(range(first, first + people)):
        person = SyntheticPerson.sample(seed)
        for number in range(pictures):
            for name, change in SETS.items():
                look = change(Look.sample(number, person))
                image = world.render(person, look, size).image
                rows[name].append((seed, look, _embedding(analyser, image)))
    return {name: _summary(entries) for name, entries in rows.items()}


def _embedding(analyser: FaceAnalyser, image: np.ndarray) -> np.ndarray | None:
    try:
        return analyser.face(image, name="a rendered portrait").embedding
    except NoFaceError:
        return None


def _summary(rows: list[tuple[int, Look, np.ndarray | None]]) -> dict[str, Any]:
    found = [(seed, embedding) for seed, _, embedding in rows if embedding is not None]
    by: dict[str, list[bool]] = defaultdict(list)
    for _, look, embedding in rows:
        by[f"style {look.style}"].append(embedding is not None)
        by[f"glasses {look.glasses}"].append(embedding is not None)
    order = [*(f"style {s}" for s in STYLES), *(f"glasses {g}" for g in GLASSES)]
    seeds, embeddings = [seed for seed, _ in found], np.stack([e for _, e in found])
    halves, owners = _halves(embeddings, np.asarray(seeds))
    return {
        "pictures": len(rows),
        "found": len(found) / len(rows),
        "found_by": {key: {"share": float(np.mean(by[key])), "of": len(by[key])} for key in order if key in by},
        **vars(separation(embeddings, seeds)),
        "halves": vars(separation(halves, owners)),
    }


def _halves(embeddings: np.ndarray, person: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The mean embedding of each half of a person's pictures, for people with at least two."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    means, owners = [], []
    for seed in np.unique(person):
        own = unit[person == seed]
        if len(own) >= 2:
            means += [own[::2].mean(0), own[1::2].mean(0)]
            owners += [int(seed)] * 2
    return np.stack(means), owners


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = [
        "| pictures | found | same | different | d' | EER | rank-1 | means of halves: EER, rank-1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in report.items():
        halves = row["halves"]
        lines.append(
            f"| {name} | {row['found']:.1%} | {row['same']:.3f} | {row['different']:.3f} | {row['d_prime']:.2f} "
            f"| {row['eer']:.3f} | {row['rank1']:.3f} | {halves['eer']:.3f}, {halves['rank1']:.3f} |"
        )
    for name, row in report.items():
        found = ", ".join(f"{key} {cell['share']:.1%} of {cell['of']}" for key, cell in row["found_by"].items())
        lines += ["", f"Found, {name}: {found}."]
    return "\n".join(lines)
