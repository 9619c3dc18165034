"""Checks of points before a fit, and of a fit before it is trusted."""

from __future__ import annotations

import numpy as np

from facesnap.errors import LandmarkError
from facesnap.landmarks.pose import View
from facesnap.landmarks.scheme import POINT_COUNT

FIVE_POINTS_ONLY = "only five points are known: the shape is the mean face's, only the pose was fitted"
FEWEST_POINTS = 16  # of 72; fewer do not separate shape from pose
FEWEST_OF_FIVE = 5
_FLATTEST = 0.06  # second over first singular value of the points; faces have 0.3 and more
_FAR_OUTSIDE = 10.0  # picture sides
_SMALLEST_FACE = 3.0  # pixels of outer-eye distance
_NO_FACE_ERROR = 0.15  # outer-eye distances; faces leave 0.01 to 0.05, scattered points 0.3 and more
_DOUBTFUL_ERROR = 0.06
_DOUBTFUL_YAW, _DOUBTFUL_PITCH = 60.0, 45.0
_DOUBTFUL_HIDDEN, _DOUBTFUL_OUTSIDE = 0.25, 0.25
_DOUBTFUL_SHAPE, _DOUBTFUL_MODE = 2.0, 4.0  # root mean square and largest entry of a, in standard deviations


def check_visible(
    points: np.ndarray, visible: np.ndarray, size: tuple[int, int], sigma: float, pose_only: bool
) -> None:
    """Raise LandmarkError for too few, coincident, collinear or far-off points, a senseless size or sigma."""
    if not (np.isfinite(sigma) and 0 < sigma < 1) or min(size) < 1:
        raise LandmarkError(
            f"The detector's noise is {sigma} and the picture {size[0]} x {size[1]}.",
            expected="noise between 0 and 1 outer-eye distances, and a picture of at least one pixel.",
            remedy="Pass the size of the picture in which the points were found.",
        )
    fewest = FEWEST_OF_FIVE if pose_only else FEWEST_POINTS
    if visible.sum() < fewest:
        raise LandmarkError(
            f"Only {int(visible.sum())} of {len(visible)} landmarks are visible.",
            expected=f"at least {fewest} with finite coordinates.",
            remedy="Use a picture that shows more of the face.",
        )
    seen = points[visible][:, :2]
    spread = np.linalg.svd(seen - seen.mean(0), compute_uv=False)
    if spread[0] < 1e-6 or spread[1] < _FLATTEST * spread[0]:
        raise LandmarkError(
            "The landmarks lie in one place or on one line.",
            expected="points spread over a face.",
            remedy="Use another picture; the detector failed on this one.",
        )
    if np.abs(seen / size - 0.5).max() > _FAR_OUTSIDE:
        raise LandmarkError(
            "Landmarks lie far outside the picture.",
            expected="pixel coordinates of the picture whose size was given.",
            remedy="Check that points and size belong to the same picture.",
        )


def check_result(scale: float, rotation: np.ndarray, error: float, a: np.ndarray) -> None:
    """Raise LandmarkError if the fit shows that the points are no face."""
    if not (np.isfinite(scale) and np.isfinite(error) and np.isfinite(a).all() and np.isfinite(rotation).all()):
        raise _no_face("the fit did not converge")
    if scale < _SMALLEST_FACE:
        raise _no_face(f"the eyes are {scale:.1f} pixels apart")
    if rotation[2, 2] <= 0:
        raise _no_face("they show the back of the head")
    if error > _NO_FACE_ERROR:
        raise _no_face(f"they miss the nearest face by {error:.0%} of the outer-eye distance")


def doubts_about(points: np.ndarray, visible: np.ndarray, view: View, a: np.ndarray) -> list[str]:
    """Reasons for little confidence in the fit of this picture, in words; empty if there are none.

    Args:
        points: (V, D) the visible points, in pixels.
        visible: (P,) which of all points these are.
        view: what the fit found in the picture.
        a: (K,) the identity found.
    """
    doubts = []
    hidden = 1 - float(visible.mean())
    if hidden > _DOUBTFUL_HIDDEN:
        doubts.append(f"{hidden:.0%} of the {POINT_COUNT} landmarks are hidden")
    yaw, pitch, _ = view.angles
    if abs(yaw) > _DOUBTFUL_YAW or abs(pitch) > _DOUBTFUL_PITCH:
        doubts.append(f"the head is turned far (yaw {yaw:.0f}, pitch {pitch:.0f} degrees)")
    if view.error > _DOUBTFUL_ERROR:
        doubts.append(f"the landmarks miss the nearest face by {view.error:.1%} of the outer-eye distance")
    outside = ((points[:, :2] < 0) | (points[:, :2] > view.size)).any(1).mean()
    if outside > _DOUBTFUL_OUTSIDE:
        doubts.append(f"{outside:.0%} of the landmarks lie outside the picture")
    if np.sqrt(np.mean(a**2)) > _DOUBTFUL_SHAPE or np.abs(a).max() > _DOUBTFUL_MODE:
        doubts.append("the shape found is far from any natural face")
    return doubts


def _no_face(reason: str) -> LandmarkError:
    return LandmarkError(
        f"The landmarks are not those of a face: {reason}.",
        expected="72 landmarks (or five points) of one face, in the scheme's order.",
        remedy="Use a picture in which the face is larger and seen from the front.",
    )
