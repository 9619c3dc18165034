"""The landmark pictures: colours, sizes, coverage, clipping, and InstantID's layout."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.errors import LandmarkError
from facesnap.landmarks import scheme
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.render import DOT_RADIUS, render_five_points, render_landmarks, side_of

FACE = Basis.load().mean[:, :2] * 0.3 + 0.5
SPREAD = np.stack([np.arange(72) % 9, np.arange(72) // 9], 1) / 10 + 0.1  # no two dots touch


def area(picture: np.ndarray) -> float:
    return float(picture.max(2).sum()) / 255


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (832, 1216), (1216, 832), (2048, 1024)])
def test_dots_have_the_papers_radius_and_colours(size):
    picture = render_landmarks(SPREAD, size)
    assert picture.shape == (size[1], size[0], 3) and picture.dtype == np.uint8
    radius = DOT_RADIUS * side_of(size)
    assert area(picture) == pytest.approx(72 * np.pi * radius**2, rel=0.01)
    colours = scheme.point_colours()
    for index, point in enumerate(SPREAD):
        x, y = (point * size).astype(int)
        assert tuple(picture[y, x]) == tuple(colours[index])
    assert not picture[:4].any()


@settings(max_examples=30)
@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_a_dot_lies_at_its_point_to_a_fraction_of_a_pixel(x, y):
    points = np.full((72, 2), 9.0)  # all others far outside
    points[30] = x, y
    picture = render_landmarks(points, (200, 300), radius=0.02)[..., 1].astype(float)
    ys, xs = np.mgrid[:300, :200] + 0.5
    assert (picture * xs).sum() / picture.sum() == pytest.approx(x * 200, abs=0.05)
    assert (picture * ys).sum() / picture.sum() == pytest.approx(y * 300, abs=0.05)


def test_point_49_can_be_left_out():
    full, without = (
        render_landmarks(SPREAD, (512, 512)),
        render_landmarks(SPREAD, (512, 512), draw_point_49=False),
    )
    x, y = (SPREAD[49] * 512).astype(int)
    assert full[y, x].any() and not without[y, x].any()
    assert area(without) == pytest.approx(area(full) * 71 / 72, rel=0.01)


def test_sizes_agree_after_scaling():
    small, large = render_landmarks(FACE, (256, 256)), render_landmarks(FACE, (1024, 1024))
    shrunk = large.reshape(256, 4, 256, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 0.3


def test_several_people_share_a_picture():
    left, right = FACE * (0.5, 1), FACE * (0.5, 1) + (0.5, 0)
    both = render_landmarks([left, right], (512, 512))
    np.testing.assert_array_equal(both[:, :256], render_landmarks(left, (512, 512))[:, :256])
    np.testing.assert_array_equal(both[:, 256:], render_landmarks(right, (512, 512))[:, 256:])
    assert not render_landmarks([], (64, 64)).any()


def test_frame_clips():
    points = np.full((72, 2), 0.5)
    points[:, 0] = 0.0  # half of each dot
    assert 0 < area(render_landmarks(points, (512, 512))) < np.pi * (DOT_RADIUS * 512) ** 2
    assert not render_landmarks(np.full((72, 2), 1e9), (512, 512)).any()
    assert not render_five_points(np.full((5, 2), -1e9), (512, 512)).any()


@pytest.mark.parametrize("draw", [render_landmarks, render_five_points])
def test_wrong_input_is_refused(draw):
    count = 72 if draw is render_landmarks else 5
    good = np.full((count, 2), 0.5)
    for points in (good[1:], np.full((count, 3), 0.5), good * np.nan):
        with pytest.raises(LandmarkError):
            draw(points, (64, 64))
    for size in ((0, 64), (64, -1), (100_000, 64)):
        with pytest.raises(LandmarkError, match="size"):
            draw(good, size)
    with pytest.raises(LandmarkError, match="radius"):
        render_landmarks(np.full((72, 2), 0.5), (64, 64), radius=0)


# InstantID's own drawing at 1024: polygons of cv2.ellipse2Poly, x 0.6, filled circles of radius 10.
FIVE = np.array([[400, 420], [620, 410], [520, 520], [420, 640], [610, 650]], dtype=float)


def instantid_reference(points: np.ndarray, size: int) -> np.ndarray:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    canvas = np.zeros((size, size, 3))
    for start, end in ((0, 2), (1, 2), (3, 2), (4, 2)):
        (x0, y0), (x1, y1) = points[start], points[end]
        length, angle = np.hypot(x0 - x1, y0 - y1), np.degrees(np.arctan2(y0 - y1, x0 - x1))
        centre = (int((x0 + x1) / 2), int((y0 + y1) / 2))
        polygon = cv2.ellipse2Poly(centre, (int(length / 2), 4), int(angle), 0, 360, 1)
        canvas = cv2.fillConvexPoly(canvas.copy(), polygon, colours[start])
    canvas = (canvas * 0.6).astype(np.uint8)
    for (x, y), colour in zip(points, colours, strict=True):
        canvas = cv2.circle(canvas.copy(), (int(x), int(y)), 10, colour, -1)
    return canvas


def test_five_points_match_instantids_picture():
    ours = render_five_points((FIVE + 0.5) / 1024, (1024, 1024)).astype(float)  # theirs names pixel centres
    theirs = instantid_reference(FIVE, 1024).astype(float)
    assert theirs.any(2).sum() > 3000
    # Theirs has hard edges and whole-pixel centres: the inked areas agree, and differ only along edges.
    assert (ours.max(2) > 64).sum() == pytest.approx((theirs.max(2) > 64).sum(), rel=0.08)
    assert np.abs(ours - theirs).mean() < 0.12 * theirs.mean()
    for point, colour in zip(FIVE.astype(int), scheme.FIVE_POINT_COLOURS, strict=True):
        assert tuple(ours[point[1], point[0]]) == colour
    middle = ((FIVE[0] + FIVE[2]) / 2).astype(int)
    assert tuple(ours[middle[1], middle[0]]) == (153, 0, 0) == tuple(theirs[middle[1], middle[0]])


def test_five_points_scale_with_the_picture():
    small, large = (render_five_points(FIVE / 1024, (s, s)).astype(float) for s in (512, 1024))
    assert np.abs(large.reshape(512, 2, 512, 2, 3).mean((1, 3)) - small).mean() < 0.2
    assert small.any()
