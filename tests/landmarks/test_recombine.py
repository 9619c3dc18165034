"""Recombination: shape from the source, everything else from the driver or the sliders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.bench import synthetic
from facesnap.bench.make_heads import load
from facesnap.errors import LandmarkError
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Fit, Observation, fit
from facesnap.landmarks.pose import rotation
from facesnap.landmarks.predictor import Landmarks
from facesnap.landmarks.recombination import PoseSpec, recombine
from tests.landmarks.faces import SIZE, coefficients, project, seeds

BASIS = Basis.load()


def person(seed: int, pose=(0.0, 0.0, 0.0), spread: float = 0.7, **options) -> Fit:
    points = project(BASIS, *coefficients(BASIS, seed, spread), pose, **options)
    return fit(BASIS, Observation(points, SIZE, 0.005, outline=False))


SOURCE, DRIVER = person(1), person(2, (25, -10, 15))
MEAN = Fit(np.zeros(len(BASIS.identity)), DRIVER.views, np.zeros((72, 3)), 0.0)


def pixels(source: Fit, driver, **options) -> np.ndarray:
    return recombine(BASIS, source, driver, size=SIZE, **options) * SIZE


def test_a_person_driven_by_their_own_picture_is_that_picture():
    points = project(BASIS, *coefficients(BASIS, 1))
    assert np.abs(pixels(SOURCE, SOURCE) - points).max() < 0.01 * 120


@settings(max_examples=10)
@given(seeds, st.integers(0, 5))
def test_recombination_follows_its_formula(seed, index):
    source, driver = person(seed), person(seed + 1, (10.0 * index - 25, 5, 5))
    view, offset = driver.views[0], BASIS.expression_offset(driver.views[0].b)
    own = BASIS.shape(source.a)
    extent = [np.linalg.norm(s - s.mean(0)) for s in (BASIS.shape(driver.a), own)]
    for framing, scale in (("true size", view.scale), ("keep framing", view.scale * extent[0] / extent[1])):
        shape = own + 0.5 * offset + 0.3 * source.residual
        expected = scale * shape @ view.rotation[:2].T + view.translation
        got = pixels(source, driver, expression_gain=0.5, residual_gain=0.3, framing=framing)
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_keep_framing_keeps_the_size_of_the_head():
    large = replace(MEAN, a=2.5 * np.eye(len(MEAN.a))[np.abs(BASIS.identity @ [0, 1, 0] @ BASIS.mean[:, 1]).argmax()])

    def extent(points):
        return np.linalg.norm(points - points.mean(0))

    neutral = {"expression_gain": 0.0, "residual_gain": 0.0}
    framed = extent(pixels(large, DRIVER, framing="keep framing", **neutral))
    true = extent(pixels(large, DRIVER, framing="true size", **neutral))
    ratio = np.linalg.norm(BASIS.shape(DRIVER.a)) / np.linalg.norm(BASIS.shape(large.a))
    assert framed / true == pytest.approx(ratio, rel=0.01)


def test_gain_zero_is_neutral_and_gain_scales_the_expression():
    smile = PoseSpec(expression="smile")
    neutral = pixels(SOURCE, PoseSpec())
    np.testing.assert_allclose(pixels(SOURCE, smile, expression_gain=0), neutral)
    full = pixels(SOURCE, smile) - neutral
    np.testing.assert_allclose(pixels(SOURCE, smile, expression_gain=0.5) - neutral, full / 2, atol=1e-9)
    assert np.abs(full).max() > 5


@given(st.floats(-80, 80), st.floats(-50, 50), st.floats(-170, 170), st.floats(0.1, 1))
def test_sliders_set_the_pose(yaw, pitch, roll, size):
    got = pixels(MEAN, PoseSpec(yaw, pitch, roll, (0.3, 0.6), size))
    scale = size * min(SIZE) / np.ptp(BASIS.mean[:, 1])
    expected = scale * BASIS.mean @ rotation(yaw, pitch, roll)[:2].T + np.array([0.3, 0.6]) * SIZE
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_sliders_replace_the_drivers_values_one_by_one():
    view = DRIVER.views[0]
    yaw, pitch, roll = view.angles

    def again(spec: PoseSpec) -> np.ndarray:
        return pixels(SOURCE, DRIVER, override=spec)

    np.testing.assert_allclose(again(PoseSpec()), pixels(SOURCE, DRIVER))
    np.testing.assert_allclose(again(PoseSpec(yaw, pitch, roll)), pixels(SOURCE, DRIVER), atol=1e-6)
    assert np.abs(again(PoseSpec(yaw=-yaw)) - pixels(SOURCE, DRIVER)).max() > 20
    middle = view.translation / SIZE
    for spec, moved in ((PoseSpec(position=(0.25, None)), (0.25 - middle[0], 0)),
                        (PoseSpec(position=(None, 0.75)), (0, 0.75 - middle[1]))):  # fmt: skip
        np.testing.assert_allclose(again(spec) - pixels(SOURCE, DRIVER), np.tile(np.array(moved) * SIZE, (72, 1)))
    neutral = again(PoseSpec(expression="neutral"))
    np.testing.assert_allclose(neutral, pixels(SOURCE, DRIVER, expression_gain=0), atol=1e-9)


@settings(max_examples=20)
@given(st.integers(64, 2048), st.integers(64, 2048))
def test_driver_pictures_are_fitted_inside_without_distortion(width, height):
    points = recombine(BASIS, SOURCE, SOURCE, size=(width, height)) * (width, height)
    zoom = min(width / SIZE[0], height / SIZE[1])
    margin = (np.array((width, height)) - zoom * np.array(SIZE)) / 2
    np.testing.assert_allclose(points, pixels(SOURCE, SOURCE) * zoom + margin, atol=1e-6)


def test_sliders_over_numbers_replace_them_one_by_one():
    spec = PoseSpec(yaw=20, position=(0.2, None), size=0.4)
    over = PoseSpec(position=(None, 0.7), size=0.3)
    both = PoseSpec(yaw=20, position=(0.2, 0.7), size=0.3)
    np.testing.assert_array_equal(pixels(SOURCE, spec, override=over), pixels(SOURCE, both))
    np.testing.assert_array_equal(pixels(SOURCE, spec), pixels(SOURCE, replace(spec, position=(0.2, 0.5))))


def test_mixed_presets_add_up():
    def moved(text: str) -> np.ndarray:
        return pixels(SOURCE, PoseSpec(expression=text)) - pixels(SOURCE, PoseSpec())

    mixed = moved("smile:0.8+wink_left:1")
    np.testing.assert_allclose(mixed, 0.8 * moved("smile") + moved("wink_left"), atol=1e-9)


@pytest.mark.parametrize(
    "spec",
    [
        {"yaw": 91},
        {"pitch": -61},
        {"roll": np.nan},
        {"size": 0},
        {"size": 3},
        {"position": (0.5, np.inf)},
        {"position": (0.5,)},
    ],
)
def test_sliders_out_of_range_are_refused(spec):
    with pytest.raises(LandmarkError):
        PoseSpec(**spec)


def test_other_values_out_of_range_are_refused():
    for options in (
        {"expression_gain": 1.6},
        {"residual_gain": -0.1},
        {"framing": "large"},
        {"size": (0, 10)},
    ):
        with pytest.raises(LandmarkError):
            recombine(BASIS, SOURCE, DRIVER, **{"size": SIZE, **options})
    with pytest.raises(LandmarkError, match="unknown"):
        recombine(BASIS, SOURCE, PoseSpec(expression="grin"), size=SIZE)
    with pytest.raises(LandmarkError, match="another face basis"):
        recombine(BASIS, replace(SOURCE, a=np.zeros(3)), DRIVER, size=SIZE)


def test_residual_gain_follows_the_noise():
    """What the basis cannot express is carried over when it stands out of the noise, and not when it is
    noise."""
    bump = np.zeros((72, 2))
    bump[[30, 33], 0] = 6.0  # a crooked nose, 5 % of the eye distance
    points = project(BASIS, *coefficients(BASIS, 3, 0.3)) + bump
    sharp = fit(BASIS, Observation(points, SIZE, 0.003, outline=False))
    blunt = fit(BASIS, Observation(points, SIZE, 0.05, outline=False))
    assert sharp.residual_gain > 0.5 > 0.1 > blunt.residual_gain
    carried = pixels(sharp, sharp, residual_gain=0.8) - pixels(sharp, sharp, residual_gain=0)
    assert np.abs(carried[[30, 33], 0]).min() > 0.5 and 0 < sharp.residual_gain <= 0.8


def test_landmarks_know_their_five_points_and_box():
    landmarks = Landmarks(recombine(BASIS, SOURCE, PoseSpec(), size=SIZE))
    left, top, right, bottom = landmarks.box
    assert 0 < left < right < 1 and 0 < top < bottom < 1
    assert ((landmarks.five > (left, top)) & (landmarks.five < (right, bottom))).all()


# ----- the promise, on heads outside the span of the basis


def test_heads_lie_outside_the_basis():
    heads = load()
    assert heads.shape == (40, 6, 72, 3)
    assert synthetic.outside_span(BASIS, heads) > 5e-4  # of the outer-eye distance, per coordinate


def test_recombining_halves_the_error_of_copying():
    result = synthetic.run(BASIS, noise=(0.01, 0.03), trials=40, seed=5)["noise"]
    for row in result.values():
        assert row["cross_recombined_1_ref"] <= 0.5 * row["cross_copied"]
        assert row["cross_recombined_4_refs"] < row["cross_recombined_1_ref"]
    # copying costs noise alone when driver and source are one person: the error must then not be noise-free
    assert 1.0 < result["0.01"]["same_copied"] < 1.6
