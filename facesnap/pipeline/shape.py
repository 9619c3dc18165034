"""The face's shape in one generation: an identity's landmarks in the pose and expression that are asked for.

References are fitted once, a driver picture once; both are kept by their content. What is drawn is a vector, so that
every pass and every piece of it is drawn at its own size.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facesnap.attach import ControlPictures, ControlView
from facesnap.errors import LandmarkError, PackError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import Face
from facesnap.faces.identity import Identity
from facesnap.faces.picture import read_picture
from facesnap.faces.stored_landmarks import StoredLandmarks
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import Detection, Kind, LandmarkDetector
from facesnap.landmarks.fitting import Fit, fit
from facesnap.landmarks.predictor import Landmarks
from facesnap.landmarks.recombination import PoseSpec, recombine
from facesnap.landmarks.render import DOT_RADIUS, render_five_points, render_landmarks, side_of
from facesnap.models.fidelity_config import FFRNetConfig
from facesnap.pipeline.cache import ContentCache, content_digest
from facesnap.remedies import remedy
from facesnap.settings.model import Pose

logger = logging.getLogger(__name__)

LARGEST_DOT = 0.49  # of the side of what is drawn; only pieces of enormous frames come near


@dataclass(frozen=True, eq=False)
class Shape:
    """The landmarks to draw.

    Attributes:
        landmarks: in fractions of the picture.
        size: (width, height) of the picture that they were computed for; its proportions count.
        doubts: why the fits behind them deserve little confidence; empty if they do not.
    """

    landmarks: Landmarks
    size: tuple[int, int]
    doubts: tuple[str, ...] = ()

    def picture(self, size: tuple[int, int] | None = None) -> Image.Image:
        """The landmark picture of the whole frame; size: (width, height)."""
        return Image.fromarray(render_landmarks(self.landmarks.points, size or self.size))


def draw(shape: Shape, view: ControlView, config: FFRNetConfig) -> ControlPictures:
    """The pictures of a view that a network wants, as tensors (1, 3, height, width), RGB in 0..1."""
    dots = config.donor_picture == "landmarks" or config.landmark_hint_channels is not None
    five = config.donor_picture == "five_points"
    return ControlPictures(
        landmarks=_tensor(_dots(shape, view)) if dots else None,
        five_points=_tensor(_five_points(shape, view)) if five else None,
    )


def pose_spec(pose: Pose) -> PoseSpec:
    """The numbers and the expression of a pose; None where they are not given."""
    position = None if pose.x is None and pose.y is None else (pose.x, pose.y)
    return PoseSpec(pose.yaw, pose.pitch, pose.roll, position, pose.size, pose.expression)


def landmarks_of(detector: LandmarkDetector, faces: Sequence[Face]) -> StoredLandmarks:
    """Detect the landmarks of each reference, for an identity.

    Raises:
        LandmarkError: the model gives nothing sensible for a face.
    """
    found = [detector.detect(face.picture, face.box, face.kps) for face in faces]
    return StoredLandmarks(
        points=np.stack([one.points for one in found]).astype(np.float32),
        sizes=np.array([one.size for one in found], dtype=np.int32),
        sigma=np.array([one.sigma for one in found], dtype=np.float32),
        kind=found[0].kind,
        model=found[0].model,
    )


def fit_stored(basis: Basis, stored: StoredLandmarks) -> Fit:
    """One person's shape, expression and pose from what an identity holds.

    Raises:
        LandmarkError: the landmarks are of an unknown kind, or no face.
    """
    if stored.kind not in get_args(Kind):
        raise LandmarkError(
            f"The identity's landmarks are of the kind {stored.kind!r}.",
            expected=" or ".join(get_args(Kind)),
            remedy="update FaceSnap, or make the identity anew from its photos",
        )
    kind: Kind = stored.kind  # type: ignore[assignment]
    observations = [
        Detection(points.astype(np.float64), kind, float(sigma), (int(w), int(h)), stored.model).observation
        for points, sigma, (w, h) in zip(stored.points, stored.sigma, stored.sizes, strict=True)
    ]
    return fit(basis, observations)


class Shapes:
    """Makes shapes and keeps the fits behind them.

    Args:
        analyser: finds the face of a driver picture; not needed without one.
        cache: the pipeline's.
    """

    def __init__(self, analyser: FaceAnalyser | None, cache: ContentCache) -> None:
        self.analyser, self._cache = analyser, cache

    @functools.cached_property
    def basis(self) -> Basis:
        return Basis.load()

    @functools.cached_property
    def detector(self) -> LandmarkDetector:
        analyser = self._needed_analyser()
        return LandmarkDetector(analyser.pack.folder, analyser.provider)

    def landmarks(self, faces: Sequence[Face]) -> StoredLandmarks:
        """The landmarks of references, for an identity."""
        return landmarks_of(self.detector, faces)

    def shape(self, identity: Identity, pose: Pose, size: tuple[int, int]) -> Shape:
        """The person's landmarks in the pose that is asked for.

        Numbers and expression of the pose replace the source's own. The source "canvas" has no driver: values that
        are left out are those of a frontal, neutral face of half the picture's shorter side in its middle.

        Args:
            size: (width, height) of the picture to be made.

        Raises:
            SettingsError: the pose comes from a picture that is not given, or from none.
            LandmarkError: the identity holds no landmarks.
            PackError, PictureError, NoFaceError: the driver picture cannot be used.
        """
        source, driver = self.fits(identity, pose)
        points = recombine(
            self.basis,
            source,
            driver or PoseSpec(),
            size=size,
            override=pose_spec(pose),
            expression_gain=pose.expression_gain,
            framing=pose.framing,
        )
        doubts = source.doubts + (driver.doubts if driver is not None and driver is not source else ())
        return Shape(Landmarks(points), size, tuple(dict.fromkeys(doubts)))

    def fits(self, identity: Identity, pose: Pose) -> tuple[Fit, Fit | None]:
        """The fits that `shape` recombines: the person's, and the driver's or None for a pose by numbers alone.

        Raises:
            As `shape` does.
        """
        source = self._source(identity)
        if pose.source == "reference":
            return source, source
        return source, None if pose.source == "canvas" else self._driver(pose)

    def pictures(self, shape: Shape, view: ControlView, config: FFRNetConfig) -> ControlPictures:
        """`draw`, kept by content."""
        wanted = (config.donor_picture, config.landmark_hint_channels is not None)
        key = ("pictures", shape.landmarks.points.tobytes(), view, wanted)
        return self._cache.get(key, lambda: draw(shape, view, config))

    def _source(self, identity: Identity) -> Fit:
        stored = identity.landmarks
        if stored is None:
            raise LandmarkError(
                f"Identity '{identity.name}' holds no landmarks, so its face shape is unknown.",
                expected="an identity made with landmarks",
                remedy=f"make the identity anew from its photos, or {remedy('switch structure off')}",
            )

        def make() -> Fit:
            return _with_warnings(fit_stored(self.basis, stored), f"identity '{identity.name}'")

        return self._cache.get(("fit", stored.content), make)

    def _driver(self, pose: Pose) -> Fit:
        """The fit of the largest face of the pose picture."""
        analyser, picture = self._needed_analyser(), pose.image
        if pose.source != "picture" or picture is None or isinstance(picture, str):
            raise SettingsError(
                f"The pose comes from {pose.source!r}, and its picture is {'missing' if picture is None else 'text'}.",
                expected="a pose picture as path, Pillow image or array",
                remedy="give image=, or another source",
            )
        if not isinstance(picture, (Path, np.ndarray)):
            picture = read_picture(picture, name="the driver picture")
        name = None if isinstance(picture, Path) else "the driver picture"

        def make() -> Fit:
            face = analyser.face(picture, name=name)
            found = self.detector.detect(face.picture, face.box, face.kps)
            return _with_warnings(fit(self.basis, found.observation), f"driver {face.source}")

        return self._cache.get(("driver", content_digest(picture), self.detector.model), make)

    def _needed_analyser(self) -> FaceAnalyser:
        if self.analyser is None:
            raise PackError(
                "A driver picture or photos were given, but no face-analysis pack.",
                expected="a pack, to find the face",
                remedy=f"{remedy('give a pack')}, or give a pose by numbers instead of a driver picture",
            )
        return self.analyser


def _with_warnings(result: Fit, whose: str) -> Fit:
    for doubt in result.doubts:
        logger.warning("landmarks of %s: low confidence: %s", whose, doubt)
    return result


def _dots(shape: Shape, view: ControlView) -> np.ndarray:
    """The dots of a view, drawn in its own coordinates: an enlarged frame is never drawn whole."""
    h, w = view.frame
    size = (view.width, view.height)
    points = (shape.landmarks.points * (w, h) - (view.left, view.top)) / size
    radius = min(DOT_RADIUS * side_of((w, h)) / side_of(size), LARGEST_DOT)
    return render_landmarks(points, size, radius=radius)


def _five_points(shape: Shape, view: ControlView) -> np.ndarray:
    """The five-point picture of a view: its sizes follow the frame's, so the frame is drawn and cut."""
    whole = render_five_points(shape.landmarks.five, (view.frame[1], view.frame[0]))
    return whole[view.top : view.top + view.height, view.left : view.left + view.width]


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
