"""The 72-point scheme: every map is consistent with the others and with what is written down about the
order."""

from __future__ import annotations

import re

import numpy as np
import pytest

from facesnap.errors import LandmarkError
from facesnap.landmarks import scheme
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.pose import rotation

# Face2Face-rho's order in terms of iBUG-68; * marks a derived point.
# fmt: off
RHO_TO_IBUG = re.findall(r"\S+",
    "0 1 2 3 4 5 6 7 8 16 15 14 13 12 11 10 9 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 "
    "35 36 * 37 38 39 40 41 * 42 43 44 * 45 * 46 47 48 50 49 60 61 54 52 53 64 63 51 62 65 55 56 67 "
    "59 58 66 57 "
)
# fmt: on


@pytest.fixture(scope="module")
def mean() -> np.ndarray:
    return Basis.load().mean


def test_order_is_the_papers():
    written = [scheme.DERIVED if entry == "*" else int(entry) for entry in RHO_TO_IBUG]
    assert list(scheme.IBUG68) == written


def test_parts_tile_the_points():
    covered = [i for span in scheme.PARTS.values() for i in range(span.start, span.stop)]
    assert covered == list(range(scheme.POINT_COUNT))
    assert [span.start for span in scheme.PARTS.values()] == [0, 17, 22, 27, 36, 44, 52]


def test_ibug_map_is_a_permutation_with_four_derived_points():
    known = [i for i in scheme.IBUG68 if i != scheme.DERIVED]
    assert sorted(known) == list(range(68))
    assert scheme.IBUG68.count(scheme.DERIVED) == 4
    assert set(scheme.DERIVED_POINTS) == {i for i, e in enumerate(scheme.IBUG68) if e == scheme.DERIVED}


def test_106_map_uses_68_different_points():
    points = np.arange(212.0).reshape(106, 2)
    taken = scheme.from_insightface_106(points)
    index = [i for i in range(72) if i not in scheme.DERIVED_POINTS]
    assert len({tuple(p) for p in taken[index]}) == 68
    assert taken[30].tolist() == points[86].tolist()  # the nose tip of 2d106det
    assert taken[8].tolist() == points[0].tolist()  # the chin


def test_mirror_is_an_involution_that_fits_the_mean_face(mean):
    mirror = np.array(scheme.MIRROR)
    assert (mirror[mirror] == np.arange(72)).all()
    np.testing.assert_allclose(mean[mirror] * (-1, 1, 1), mean, atol=0.02)
    assert np.abs(mean * (-1, 1, 1) - mean).max() > 1.0  # the check above is not empty


def to_ibug68(points: np.ndarray) -> np.ndarray:
    out = np.empty((68, points.shape[1]))
    for index, entry in enumerate(scheme.IBUG68):
        if entry != scheme.DERIVED:
            out[entry] = points[index]
    return out


@pytest.mark.parametrize("dims", [2, 3])
def test_from_ibug68_puts_every_point_back(mean, dims):
    turned = (mean @ rotation(15, 5, 30).T)[:, :dims]
    back = scheme.from_ibug68(to_ibug68(turned))
    index = [i for i in range(72) if i not in scheme.DERIVED_POINTS]
    np.testing.assert_array_equal(back[index], turned[index])
    # Derived lid points come within 2 % of the eye distance of the true ones, under any roll.
    derived = list(scheme.DERIVED_POINTS)
    assert np.abs(back[derived] - turned[derived])[:, :2].max() < 0.02


def test_derived_points_bow_outwards(mean):
    flat = scheme.from_ibug68(to_ibug68(mean[:, :2]))
    for upper, lower, corner, up, down in ((37, 43, 36, 38, 42), (47, 49, 48, 46, 50)):
        assert flat[upper, 1] < (flat[corner, 1] + flat[up, 1]) / 2
        assert flat[lower, 1] > (flat[corner, 1] + flat[down, 1]) / 2


def test_3d_points_turn_their_depth(mean):
    seen = to_ibug68(mean) * (1, 1, -1)  # insightface: z towards the viewer
    out = scheme.from_insightface_3d68(seen)
    assert out[30, 2] < out[:17, 2].mean()  # away is positive here: the nose is nearest


def test_five_points_by_function_and_matrix_agree(mean):
    five = scheme.five_points(mean)
    np.testing.assert_allclose(scheme.five_point_weights() @ mean, five)
    assert five[0, 0] < five[2, 0] < five[1, 0] and five[3, 0] < five[4, 0]
    assert five[0, 1] < five[2, 1] < five[3, 1]


def test_colours_are_the_papers():
    colours = scheme.point_colours()
    expected = {0: (255, 255, 255), 17: (0, 255, 255), 22: (0, 0, 255), 27: (0, 255, 0), 36: (255, 0, 255)}
    expected |= {44: (255, 255, 0), 52: (255, 0, 0)}
    for index, colour in expected.items():
        assert tuple(colours[index]) == colour


@pytest.mark.parametrize("convert", [scheme.from_ibug68, scheme.from_insightface_106])
def test_wrong_shapes_are_refused(convert):
    with pytest.raises(LandmarkError, match="shape"):
        convert(np.zeros((5, 2)))
