"""The 72-point scheme of the paper: parts, order, colours, and the maps from other detectors' points.

The order is Face2Face-rho's: 0-8 contour from the ear at the image's left to the chin,
9-16 contour from the ear at the image's right downwards, 17-21 and 22-26 brows, 27-35 nose, 36-43 and 44-51
eyes (eight points each: iBUG's six and two lid points half-way between the outer corner and the nearest lid
point), 52-71 mouth. "Left" and "right" in the names below are the image's; a person looking at the camera has
the left eye at the image's right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facesnap.errors import LandmarkError

POINT_COUNT = 72
PARTS: dict[str, slice] = {
    "contour": slice(0, 17),
    "brow_left": slice(17, 22),
    "brow_right": slice(22, 27),
    "nose": slice(27, 36),
    "eye_left": slice(36, 44),
    "eye_right": slice(44, 52),
    "mouth": slice(52, 72),
}
# Colours of the paper's figure 2, RGB.
PART_COLOURS: dict[str, tuple[int, int, int]] = {
    "contour": (255, 255, 255),
    "brow_left": (0, 255, 255),
    "brow_right": (0, 0, 255),
    "nose": (0, 255, 0),
    "eye_left": (255, 0, 255),
    "eye_right": (255, 255, 0),
    "mouth": (255, 0, 0),
}
POINT_49 = 49  # the one point that Face2Face-rho's drawing table drops, and so the paper's figure

OUTER_EYE_CORNERS = (36, 48)
MOUTH_CORNERS = (52, 57)
NOSE_TIP = 30
# Colours of InstantID's five points by index: eye, eye, nose, mouth corner, mouth corner (from image left).
FIVE_POINT_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))

DERIVED = -1
# Entry i is the iBUG-68 (and dlib-68) index of point i; DERIVED marks the four extra lid points.
# fmt: off
IBUG68: tuple[int, ...] = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 15, 14, 13, 12, 11, 10, 9,
    17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    27, 28, 29, 30, 31, 32, 33, 34, 35,
    36, DERIVED, 37, 38, 39, 40, 41, DERIVED,
    42, 43, 44, DERIVED, 45, DERIVED, 46, 47,
    48, 50, 49, 60, 61, 54, 52, 53, 64, 63, 51, 62, 65, 55, 56, 67, 59, 58, 66, 57,
)
# Entry i is the 2d106det index of iBUG point i (33 contour points are thinned to 17).
_106_OF_IBUG68: tuple[int, ...] = (
    1, 10, 12, 14, 16, 3, 5, 7, 0, 23, 21, 19, 32, 30, 28, 26, 17,
    43, 48, 49, 51, 50, 102, 103, 104, 105, 101,
    72, 73, 74, 86, 78, 79, 80, 85, 84,
    35, 41, 42, 39, 37, 36, 89, 95, 96, 93, 91, 90,
    52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55, 65, 66, 62, 70, 69, 57, 60, 54,
)
# fmt: on
# Derived point: (outer corner, lid point).
_LID_POINTS = {37: (36, 38), 43: (36, 42), 47: (48, 46), 49: (48, 50)}
DERIVED_POINTS: tuple[int, ...] = tuple(_LID_POINTS)
_LID_BULGE = 0.12  # how far a lid bows outwards half-way, of the distance from corner to lid point

# Entry i is the point at the mirrored place of point i.
# fmt: off
MIRROR: tuple[int, ...] = (
    9, 10, 11, 12, 13, 14, 15, 16, 8, 0, 1, 2, 3, 4, 5, 6, 7,
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
    27, 28, 29, 30, 35, 34, 33, 32, 31,
    48, 47, 46, 45, 44, 51, 50, 49, 40, 39, 38, 37, 36, 43, 42, 41,
    57, 58, 59, 60, 61, 52, 53, 54, 55, 56, 62, 63, 67, 68, 69, 64, 65, 66, 70, 71,
)
# fmt: on


def checked(points: np.ndarray, count: int, *, what: str, dims: Sequence[int] = (2, 3)) -> np.ndarray:
    """`points` as float64 (count, D), D one of `dims`; a LandmarkError names what has another shape."""
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != count or array.shape[1] not in dims:
        raise LandmarkError(
            f"{what} has the shape {array.shape}.",
            expected=" or ".join(f"({count}, {d})" for d in dims) + ".",
            remedy="Pass the points of one face, in the detector's own order.",
        )
    return array


def from_ibug68(points: np.ndarray) -> np.ndarray:
    """68 points of iBUG, dlib or insightface's 1k3d68, (68, 2) or (68, 3), to the scheme's (72, 2) or (72,
    3).

    The four missing lid points become corner + 0.5 (lid - corner), bowed away from the eye's centre by 12 %
    of that distance. NaN in an input point is kept in what derives from it.
    """
    source = checked(points, 68, what="A set of 68 points")
    out = np.empty((POINT_COUNT, source.shape[1]))
    index = np.array(IBUG68)
    known = index != DERIVED
    out[known] = source[index[known]]
    for derived, (corner, lid) in _LID_POINTS.items():
        out[derived] = _lid_point(out, corner, lid, PARTS["eye_left" if corner == 36 else "eye_right"])
    return out


def _lid_point(points: np.ndarray, corner: int, lid: int, eye: slice) -> np.ndarray:
    """The point of a lid half-way between `corner` and `lid`, bowed outwards in the image plane."""
    step = points[lid] - points[corner]
    six = [i for i in range(eye.start, eye.stop) if i not in _LID_POINTS]
    normal = np.array([-step[1], step[0]])  # (2,)
    length = float(np.hypot(*normal))
    middle = points[corner] + 0.5 * step
    if not length > 0:  # a closed or unseen lid has no outside
        return middle
    outwards = normal @ (middle[:2] - points[six, :2].mean(0))
    bulge = np.zeros_like(middle)
    bulge[:2] = normal * np.sign(outwards) * _LID_BULGE
    return middle + bulge


def from_insightface_3d68(points: np.ndarray) -> np.ndarray:
    """insightface's 1k3d68 output (68, 3) in pixels to the scheme's (72, 3).

    insightface's third coordinate grows towards the viewer; the scheme's grows away from the viewer, so that
    x right, y down, z away is a right-handed frame. Hence the sign.
    """
    source = checked(points, 68, what="A set of 1k3d68 points", dims=(3,))
    return from_ibug68(source * (1.0, 1.0, -1.0))


def from_insightface_106(points: np.ndarray) -> np.ndarray:
    """insightface's 2d106det output (106, 2) in pixels to the scheme's (72, 2)."""
    source = checked(points, 106, what="A set of 106 points", dims=(2,))
    return from_ibug68(source[list(_106_OF_IBUG68)])


def five_points(points: np.ndarray) -> np.ndarray:
    """The detector's five points from the scheme's 72: (72, D) to (5, D).

    Image-left eye, image-right eye, nose tip, image-left and image-right mouth corner; an eye is the mean of
    its eight points.
    """
    source = checked(points, POINT_COUNT, what="A set of 72 points")
    left, right = source[PARTS["eye_left"]].mean(0), source[PARTS["eye_right"]].mean(0)
    return np.stack([left, right, source[NOSE_TIP], *source[list(MOUTH_CORNERS)]])


def five_point_weights() -> np.ndarray:
    """The same map as a matrix (5, 72), for fitting a face to five points."""
    weights = np.zeros((5, POINT_COUNT))
    weights[0, PARTS["eye_left"]] = weights[1, PARTS["eye_right"]] = 1 / 8
    for row, index in zip((2, 3, 4), (NOSE_TIP, *MOUTH_CORNERS), strict=True):
        weights[row, index] = 1
    return weights


def outer_eye_distance(points: np.ndarray) -> float:
    """Distance of the outer eye corners of (72, D) points in the image plane: the unit of every error
    given."""
    first, second = np.asarray(points)[list(OUTER_EYE_CORNERS), :2]
    return float(np.hypot(*(first - second)))


def point_colours() -> np.ndarray:
    """RGB colour of each point, (72, 3) uint8."""
    counts = [span.stop - span.start for span in PARTS.values()]
    return np.repeat(np.array([PART_COLOURS[part] for part in PARTS], dtype=np.uint8), counts, axis=0)
