"""Detection of the 72 points with what a face-analysis pack folder holds.

In order of preference: insightface's 3D 68 points (1k3d68), its 106 points (2d106det), any ONNX of 68 points
that insightface itself ignores (recognised by its shapes, run by us), and with none of them the detector's
five points, to which only a pose can be fitted. Files are recognised by the shapes of their inputs and
outputs, not by name.

onnxruntime, insightface and OpenCV are imported when a detector is built, never with this module.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facesnap.errors import LandmarkError, PackError, importing
from facesnap.landmarks.dense68 import Dense68
from facesnap.landmarks.fitting import Observation
from facesnap.landmarks.scheme import (
    DERIVED_POINTS,
    POINT_COUNT,
    from_insightface_3d68,
    from_insightface_106,
)

logger = logging.getLogger(__name__)

Kind = Literal["3d68", "106", "68", "five"]
PREFERENCE: tuple[Kind, ...] = ("3d68", "106", "68")
# Standard deviation per coordinate, as a fraction of the outer-eye distance. "68": a small net differs from
# dlib's points on photographs by 0.02 to 0.05. The others are set by judgement, not measured.
SIGMA: dict[Kind, float] = {"3d68": 0.02, "106": 0.02, "68": 0.03, "five": 0.05}
_DERIVED_WEIGHT = 0.3  # lid points that were interpolated count less than detected ones
_CENTRE = 0.5  # detectors count from the centre of pixel (0, 0); the scheme from its corner


@dataclass(frozen=True, eq=False)
class Detection:
    """The landmarks of one face in one picture.

    Attributes:
        points: (72, 2) or (72, 3) float64 pixels, pixel (0, 0) covering 0..1; (5, 2) if `kind` is "five".
        kind: what found them.
        sigma: its error per coordinate, a fraction of the outer-eye distance.
        size: (width, height) of the picture.
        model: name of the ONNX file, or "detector".
    """

    points: np.ndarray
    kind: Kind
    sigma: float
    size: tuple[int, int]
    model: str

    @property
    def observation(self) -> Observation:
        """Input of the fit."""
        if self.kind == "five":
            return Observation(self.points, self.size, self.sigma)
        weights = np.ones(POINT_COUNT)
        weights[list(DERIVED_POINTS)] = _DERIVED_WEIGHT
        return Observation(self.points, self.size, self.sigma, weights, outline=self.kind != "3d68")


class LandmarkDetector:
    """Finds the 72 points of a face whose box and five points are known.

    Args:
        pack: folder of ONNX files.
        provider: onnxruntime execution provider, e.g. "CPUExecutionProvider".

    Attributes:
        kind: what the pack allows; "five" if it holds no landmark model.
        model: name of the file in use.

    Raises:
        PackError: the folder is missing.
        MissingDependencyError: onnxruntime, OpenCV or insightface is missing.
    """

    def __init__(self, pack: str | os.PathLike[str], provider: str = "CPUExecutionProvider") -> None:
        folder = Path(pack)
        if not folder.is_dir():
            raise PackError(
                f"The face-analysis pack {folder} is no folder.",
                expected="a folder of ONNX files.",
                remedy="Choose a pack folder such as models/insightface/models/buffalo_l.",
            )
        self._provider = provider
        self.kind: Kind = "five"
        self.model = "detector"
        self._find: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, float]] | None = None
        found = self._search(folder)
        for kind in PREFERENCE:
            if kind in found:
                self.kind, self.model = kind, found[kind][0].name
                self._find = self._runner(kind, *found[kind])
                break

    def detect(self, picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> Detection:
        """The landmarks of one face.

        Args:
            picture: RGB uint8 (H, W, 3).
            box: left, top, right, bottom in pixels.
            kps: (5, 2) the face detector's points: eyes, nose, mouth corners, from the picture's left to its
                right.

        Raises:
            LandmarkError: the input is no picture, box or points, or the model gives nothing sensible.
        """
        picture, box, kps = _checked_input(picture, box, kps)
        size = (picture.shape[1], picture.shape[0])
        if self._find is None:
            return Detection(kps + _CENTRE, "five", SIGMA["five"], size, self.model)
        try:
            points, spread = self._find(picture, box, kps)
        except network_errors() as error:
            raise LandmarkError(  # a network whose output is not what it declares, for one
                f"{self.model} gives no landmarks ({(str(error).strip() or repr(error)).splitlines()[0][:200]}).",
                expected="a landmark network that gives what its file declares.",
                remedy="Remove it from the pack, or download the pack again.",
            ) from error
        if not np.isfinite(points).all():
            raise LandmarkError(
                f"{self.model} gives landmarks that are not finite.",
                expected="finite numbers.",
                remedy="Use provider cpu, or download the pack again.",
            )
        points = points + np.array([_CENTRE, _CENTRE, 0.0][: points.shape[1]])
        return Detection(points, self.kind, max(SIGMA[self.kind], spread), size, self.model)

    def _search(self, folder: Path) -> dict[Kind, tuple[Path, Any]]:
        """The first file of each kind with its session; well-known names come first, the best ends it.

        Files that cannot be read are passed over with a note; macOS' own, which begin with a dot, without one.
        """
        found: dict[Kind, tuple[Path, Any]] = {}
        known = ("1k3d68.onnx", "2d106det.onnx")
        files = [file for file in folder.iterdir() if file.suffix.lower() == ".onnx" and not file.name.startswith(".")]
        for file in sorted(files, key=lambda f: (f.name not in known, f.name)):
            try:
                session = self._session(file)
            except PackError as error:
                logger.warning("Landmarks without this file: %s", error)
                continue
            kind = kind_of(session.get_inputs()[0].shape, [output.shape for output in session.get_outputs()])
            if kind is not None and kind not in found:
                found[kind] = (file, session)
                if kind == PREFERENCE[0] or (kind == PREFERENCE[1] and file.name in known):
                    break
        return found

    def _session(self, file: Path) -> Any:
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # the nets are small: threads only cost
        try:
            return runtime.InferenceSession(str(file), options, providers=[self._provider])
        except runtime_errors() as error:
            raise PackError(
                f"{file} cannot be loaded ({str(error).splitlines()[0]}).",
                expected="an ONNX model that onnxruntime can run.",
                remedy="Download the pack again.",
            ) from error

    def _runner(
        self, kind: Kind, file: Path, session: Any
    ) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, float]]:
        if kind == "68":
            return Dense68(session, file.name, _import("cv2")).find
        model = _import("insightface.model_zoo.landmark").Landmark(model_file=str(file), session=session)
        face_class = _import("insightface.app.common").Face
        convert = from_insightface_3d68 if kind == "3d68" else from_insightface_106

        def find(picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> tuple[np.ndarray, float]:
            bgr = np.ascontiguousarray(picture[:, :, ::-1])
            found = model.get(bgr, face_class(bbox=box.astype(np.float32), kps=kps.astype(np.float32)))
            return convert(np.asarray(found, dtype=np.float64)), 0.0

        return find


def kind_of(input_shape: Sequence[Any], output_shapes: Sequence[Sequence[Any]]) -> Kind | None:
    """Kind of landmarks that a model with these shapes finds, or None if it is no landmark model.

    insightface's landmark nets take 3 x 192 x 192 and give one row of 3,309 (68 points in 3D after 1,035
    others) or 212 numbers; other nets of 68 points take a square of one or three channels and give one row of
    136.
    """
    if len(input_shape) != 4 or len(output_shapes) != 1:
        return None
    channels, height, width = input_shape[1:]
    numbers = [n for n in output_shapes[0][1:] if n != 1]
    if not (isinstance(height, int) and height == width and channels in (1, 3)):
        return None
    if height == 192 and channels == 3 and numbers in ([3309], [212]):
        return "3d68" if numbers == [3309] else "106"
    return "68" if numbers in ([136], [68, 2]) else None


def _checked_input(picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    picture = np.asarray(picture)
    box, kps = np.asarray(box, dtype=np.float64).ravel(), np.asarray(kps, dtype=np.float64)
    sound = picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8 and picture.size > 0
    if not sound or box.shape[0] < 4 or kps.shape != (5, 2):
        raise LandmarkError(
            f"Picture {picture.shape} {picture.dtype}, box {box.shape}, points {kps.shape}.",
            expected="RGB uint8 (H, W, 3), box (4,), points (5, 2).",
            remedy="Pass one detected face of one picture.",
        )
    box = box[:4]
    if not (np.isfinite(box).all() and np.isfinite(kps).all() and box[2] - box[0] >= 1 and box[3] - box[1] >= 1):
        raise LandmarkError(
            f"The face's box is {box.round(1).tolist()}.",
            expected="left < right and top < bottom, finite.",
            remedy="Detect the face again.",
        )
    return picture, box, kps


def _import(name: str) -> Any:
    what = f"Landmark detection needs {name}, which cannot be imported"
    with importing(what, "onnxruntime, OpenCV and insightface, installed once each."):
        return importlib.import_module(name)


def network_errors() -> tuple[type[Exception], ...]:
    """Errors of a network that gives another shape than its file declares, or does not run at all."""
    return (ValueError, LookupError, TypeError, RuntimeError, AssertionError, *runtime_errors())


def runtime_errors() -> tuple[type[Exception], ...]:
    """onnxruntime's own exceptions; they derive from Exception directly."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))
