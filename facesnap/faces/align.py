"""The aligned face crop: a similarity transform of five points to the ArcFace template."""

from __future__ import annotations

import numpy as np

from facesnap.errors import SettingsError

# Left eye, right eye, nose, left and right mouth corner (as seen in the picture), px of a 112 x 112 crop.
# ArcFace (arXiv 1801.07698); the same template under every public face adapter.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
RECOGNISER_SIZE = 112
ENCODER_SIZE = 224


def template(size: int) -> np.ndarray:
    """The five target points (5, 2) float32 for a size x size crop.

    Sizes divisible by 112 scale the template; sizes divisible by 128 also shift it by 8/128 of the width, so
    that the 112 template sits in the middle of a 128 crop.
    """
    if size <= 0 or (size % 112 and size % 128):
        raise SettingsError(
            f"Aligned crop size {size}.",
            expected="a positive multiple of 112 or of 128 pixels.",
            remedy="use 112 for a recogniser and 224 for a CLIP encoder.",
        )
    if size % 112 == 0:
        return ARCFACE_TEMPLATE * np.float32(size / 112.0)
    target = ARCFACE_TEMPLATE * np.float32(size / 128.0)
    target[:, 0] += np.float32(8.0 * (size / 128.0))
    return target


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity (rotation, uniform scale, shift) that takes source to target.

    Umeyama, PAMI 1991, equations 38 to 43. Points (N, 2), result (2, 3) float64. Float32 points are
    reduced in float32, which keeps crops equal to insightface's to the pixel.

    Raises:
        SettingsError: the points are not finite or all fall together.
    """
    source, target = np.asarray(source), np.asarray(target)
    finite = bool(np.isfinite(source).all() and np.isfinite(target).all())
    if not finite or np.ptp(source, axis=0).max() <= 0:
        raise SettingsError(
            "The points to align are not finite or all the same.",
            expected="at least two different points.",
            remedy="choose another face or another picture.",
        )
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    variance = centred.var(axis=0).sum()
    covariance = (target - target_mean).T @ centred / source.shape[0]  # (2, 2), eq. 38
    signs = np.ones(2, dtype=np.float64)
    if np.linalg.det(covariance) < 0:
        signs[1] = -1  # a rotation, never a mirror image (eq. 39)
    u, s, vt = np.linalg.svd(covariance)
    rotation = u @ np.diag(signs) @ vt
    scale = 1.0 / variance * (s @ signs)  # eq. 42
    return np.column_stack([rotation * scale, target_mean - scale * (rotation @ source_mean)])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) through an affine matrix (2, 3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def aligned_crop(picture: np.ndarray, kps: np.ndarray, size: int = RECOGNISER_SIZE) -> np.ndarray:
    """Crop (size, size, 3) uint8 of a picture (H, W, 3), warped so that kps (5, 2) lie on the template.

    The channel order is the picture's. Outside the picture is black.
    """
    import cv2

    matrix = similarity(np.asarray(kps, dtype=np.float32), template(size))
    return cv2.warpAffine(picture, matrix, (size, size), borderValue=0.0)


def misfit(kps: np.ndarray) -> float:
    """Misfit of five points to the template: RMS distance after alignment over the template's eye distance.

    A frontal face is near 0.07, a profile near 0.3; scattered points are beyond 0.5, and points that are not
    finite or all the same infinitely far.
    """
    if not np.isfinite(kps).all() or np.ptp(kps, axis=0).max() <= 0:
        return float("inf")
    target = template(RECOGNISER_SIZE)
    found = apply(similarity(kps.astype(np.float64), target.astype(np.float64)), kps)
    eye_distance = float(np.linalg.norm(target[1] - target[0]))
    return float(np.sqrt(np.mean(np.sum((found - target) ** 2, axis=1)))) / eye_distance
