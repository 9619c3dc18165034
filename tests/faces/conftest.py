from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesnap.faces import Face, FaceAnalyser


@pytest.fixture(scope="session")
def analyser(face_pack: Path) -> FaceAnalyser:
    return FaceAnalyser(face_pack)


@pytest.fixture(scope="session")
def astronaut_face(analyser: FaceAnalyser, astronaut: np.ndarray) -> Face:
    return analyser.face(astronaut)
