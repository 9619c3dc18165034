"""Real pictures of 40 people: every face is found, and the embeddings tell the people apart."""

from __future__ import annotations

import numpy as np
import pytest

from facesnap.faces import FaceAnalyser
from facesnap.faces.face import choose_face


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Where as many pairs of one person fall below the threshold as pairs of two people above it."""
    thresholds = np.sort(np.concatenate([same, different]))
    rejected = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    crossing = np.argmin(np.abs(rejected - accepted))
    return float((rejected[crossing] + accepted[crossing]) / 2)


@pytest.mark.parametrize("each", [2, pytest.param(10, marks=pytest.mark.thorough)])
def test_orl(analyser: FaceAnalyser, orl: list[tuple[str, int, np.ndarray]], each: int) -> None:
    """each: pictures of a person, of ten."""
    shown = [one for one in orl if one[1] <= each]
    assert len(shown) == 40 * each
    embeddings, qualities = [], []
    for person, index, picture in shown:
        face = choose_face(analyser.faces(picture, name=f"{person}/{index}"))  # raises if none is found
        embeddings.append(face.normed_embedding)
        qualities.append(face.quality.score)
    vectors = np.stack(embeddings)
    cosines = vectors @ vectors.T
    people = np.array([person for person, _, _ in shown])
    pairs = np.triu(np.ones_like(cosines, dtype=bool), k=1)
    same = people[:, None] == people[None, :]
    rate = equal_error_rate(cosines[pairs & same], cosines[pairs & ~same])
    np.fill_diagonal(cosines, -1)
    print(f"equal error rate {rate:.4f}, rank-1 {np.mean(people[cosines.argmax(axis=1)] == people):.4f}")
    assert rate <= 0.01
    assert np.mean(people[cosines.argmax(axis=1)] == people) >= 0.99
    assert min(qualities) > 0 and max(qualities) <= 1
