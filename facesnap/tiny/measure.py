"""A face pack's eyes on pictures: how much of a person an autoencoder keeps, and where the faces are."""

from __future__ import annotations

import numpy as np

from facesnap.faces.align import aligned_crop
from facesnap.faces.analyser import FaceAnalyser
from facesnap.landmarks.scheme import five_points
from facesnap.pipeline.pipeline import SCORE_STEPS
from facesnap.tiny.data import Portraits
from facesnap.world.measure import separation


def identity_kept(analyser: FaceAnalyser, portraits: Portraits, rebuilt: np.ndarray) -> dict[str, float]:
    """Compare pictures with their reconstructions (N, S, S, 3) uint8, both aligned by the true points.

    Returns:
        `cosine`: mean between a picture and its reconstruction. `rank1_original`, `rank1`: share of pictures whose
        nearest other one shows the same person, among originals and among reconstructions.
    """
    before, after = _embed(analyser, portraits, portraits.images), _embed(analyser, portraits, rebuilt)
    people = list(portraits.people)
    return {
        "cosine": float((before * after).sum(1).mean()),
        "rank1_original": separation(before, people).rank1,
        "rank1": separation(after, people).rank1,
    }


def boxes_found(analyser: FaceAnalyser, images: np.ndarray) -> list[np.ndarray | None]:
    """The box (4,) px of the largest face on each picture (N, H, W, 3) uint8 RGB, None where none is found."""
    places = [analyser.place(np.array(image), most_steps=SCORE_STEPS) for image in images]
    return [None if place is None else np.asarray(place[0], np.float64) for place in places]


def _embed(analyser: FaceAnalyser, portraits: Portraits, images: np.ndarray) -> np.ndarray:
    crops = [aligned_crop(image, five_points(points)) for image, points in zip(images, portraits.points, strict=True)]
    found = analyser.embed(crops)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
