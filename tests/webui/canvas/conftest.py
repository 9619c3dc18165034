"""A page with the pose canvas and two people, and what the server draws for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import Identity
from facesnap.pipeline.cache import ContentCache
from facesnap.pipeline.shape import Shapes
from facesnap.settings.model import Pose
from tests.webui.canvas.page import served
from tests.webui.canvas.user import Canvas


@pytest.fixture(scope="module")
def shapes(face_pack: Path) -> Shapes:
    return Shapes(FaceAnalyser(face_pack), ContentCache(64 << 20))


@pytest.fixture(scope="module")
def known(shapes: Shapes, astronaut: np.ndarray) -> dict[str, Identity]:
    """Zoe, who looks like the astronaut, and Max, like her in a mirror."""
    people = {}
    for name, photo in (("Zoe", astronaut), ("Max", np.ascontiguousarray(astronaut[:, ::-1]))):
        face = shapes.analyser.face(photo)
        people[name] = Identity.from_faces([face], name=name, landmarks=shapes.landmarks([face]))
    return people


@pytest.fixture(scope="module")
def address(shapes: Shapes, known: dict[str, Identity], astronaut: np.ndarray) -> Iterator[str]:
    with served(shapes, known, astronaut) as found:
        yield found


@pytest.fixture(scope="module")
def page_of_two(browser: Any, address: str) -> Canvas:
    return Canvas(browser, address, ("Zoe", "Max"))


@pytest.fixture
def user(page_of_two: Canvas) -> Iterator[Canvas]:
    """A page with two people, as in their reference photos, and nothing to undo."""
    page_of_two.fresh()
    yield page_of_two
    assert page_of_two.errors == []


@pytest.fixture
def predicted(shapes: Shapes, known: dict[str, Identity]) -> Callable[..., np.ndarray]:
    """What the server draws for a pose as `understood` gives it, in pixels."""

    def points(pose: dict[str, Any], size: tuple[int, int] = (512, 512), name: str = "Zoe") -> np.ndarray:
        found = shapes.shape(known[name], Pose(**pose), size)
        return found.landmarks.points * size

    return points
