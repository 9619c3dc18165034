"""Rendered pictures and their truth: what is where it is said to be, and the same bytes every time."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from facesnap.landmarks.scheme import MIRROR, PARTS
from facesnap.world import REGIONS, CameraView, Look, SyntheticPerson, World, express
from facesnap.world.look import GARMENTS, STYLES
from facesnap.world.styles import LENS_DARK

SKIN, EYES, MOUTH, HAIR, CLOTHING, GLASSES = (
    REGIONS.index(n) for n in ("skin", "eyes", "mouth", "hair", "clothing", "glasses")
)
OPEN = CameraView(actions={})


def grey(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ [0.30, 0.59, 0.11]


def around(values: np.ndarray, point: np.ndarray, radius: int = 1) -> np.ndarray:
    """The square of values around a point."""
    column, row = (int(v) for v in point)
    return values[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]


def digest(world: World, seed: int, number: int) -> str:
    person = SyntheticPerson.sample(seed)
    picture = world.render(person, Look.sample(number, person))
    truth = picture.truth
    return hashlib.sha256(picture.image.tobytes() + truth.regions.tobytes() + truth.points.tobytes()).hexdigest()


def test_same_bytes_in_any_order_and_with_any_number_of_threads(portraits):
    """Other processes: test_dataset.test_workers_write_the_same_bytes."""
    wanted = {(seed, number): digest(portraits, seed, number) for seed in (4, 5) for number in (0, 1)}
    assert len(set(wanted.values())) == 4
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(3)
    cv2.setNumThreads(3)
    try:
        for key in ((5, 1), (4, 0), (5, 0), (4, 1)):
            assert digest(portraits, *key) == wanted[key]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def test_pictures_and_truth_have_the_promised_form(portraits):
    person = SyntheticPerson.sample(1)
    for size in (64, 128):
        picture = portraits.render(person, Look.sample(0, person), size)
        truth = picture.truth
        assert picture.image.shape == (size, size, 3) and picture.image.dtype == np.uint8
        assert truth.regions.shape == (size, size) and truth.regions.max() < len(REGIONS)
        assert truth.points.shape == (72, 2) and truth.seen.shape == (72,) and truth.person == person
        left, top, right, bottom = truth.box
        assert 0 < left < right < size and 0 < top < bottom < size


def test_a_face_is_about_60_pixels_wide_in_128(portraits):
    widths = []
    for seed in range(12):
        person = SyntheticPerson.sample(seed)
        points = portraits.render(person, replace(Look(), view=CameraView()), 128).truth.points
        widths.append(np.ptp(points[PARTS["contour"], 0]))
    assert 56 < np.mean(widths) < 66


@pytest.mark.parametrize(("seed", "yaw"), [(0, 0), (3, 28), (8, -28), (1_000_002, 0)])
def test_points_lie_on_the_features_they_name(portraits, seed, yaw):
    person = replace(SyntheticPerson.sample(seed), freckles=0.0)
    view = CameraView(actions={"eyeWideLeft": 0.3, "eyeWideRight": 0.3}, yaw=yaw)
    picture = portraits.render(person, Look(hair="bald", view=view), 256)
    points, regions, light = picture.truth.points, picture.truth.regions, grey(picture.image)
    for eye in (PARTS["eye_left"], PARTS["eye_right"]):
        middle = points[eye].mean(0)
        assert (around(regions, middle) == EYES).all()
        opening = np.hypot(*(points[eye] - middle).T).max()
        white = np.percentile(light[regions == EYES], 95)
        assert around(light, middle, 2).min() < 0.45 * white  # the pupil
        near = np.argwhere(regions == EYES)[:, ::-1] + 0.5
        reach = np.hypot(*(near - middle).T)
        assert reach[reach < 3 * opening].max() < 1.25 * opening  # the eye ends where its corners are
    lips = np.concatenate([points[[54, 53, 62, 58, 59]], points[[65, 66, 71, 69, 68]]])
    inside = points[[55, 56, 63, 61, 60, 64, 70, 67]].mean(0)
    redness = picture.image[..., 0] / (picture.image[..., 1].astype(float) + 1)
    chin = points[8] - (0, 6)
    edge_to_middle = [np.mean([around(redness, p * 0.6 + inside * 0.4).mean() for p in lips])]
    assert edge_to_middle[0] > 1.08 * around(redness, (chin + points[69]) / 2, 2).mean()
    skin_above = points[[18, 19, 20, 23, 24, 25]] - (0, 14)
    brows = np.mean([np.percentile(around(light, p - (0, 2), 4), 10) for p in points[[18, 19, 20, 23, 24, 25]]])
    assert brows < 0.85 * np.mean([around(light, p, 2).mean() for p in skin_above])
    assert (regions[points[30:31, 1].astype(int), points[30:31, 0].astype(int)] == SKIN).all()


def test_the_contour_runs_along_the_silhouette_of_a_frontal_face(portraits):
    person = SyntheticPerson.sample(2)
    truth = portraits.render(person, Look(hair="bald", view=OPEN), 256).truth
    for x, y in truth.points[[3, 12]]:  # between the ear and the shadow on the neck
        row = np.flatnonzero(truth.regions[int(y)] == SKIN)
        assert min(abs(x - row[0]), abs(x - row[-1])) < 10


def test_yaw_turns_to_the_pictures_right_and_pitch_looks_up(portraits):
    person = SyntheticPerson.sample(2)
    nose, middle, height = [], [], []
    for view in (CameraView(yaw=-25), CameraView(), CameraView(yaw=25), CameraView(pitch=12)):
        points = portraits.render(person, Look(view=view)).truth.points
        middle.append(points[[36, 48], 0].mean())
        nose.append(points[30, 0] - middle[-1])
        height.append((points[30, 1] - points[[36, 48], 1].mean()) / np.hypot(*(points[48] - points[36])))
    assert nose[0] < -4 < nose[1] < 4 < nose[2] and height[3] < height[1]
    rolled = portraits.render(person, Look(view=CameraView(roll=12))).truth.points
    slope = np.rad2deg(np.arctan2(*(rolled[48] - rolled[36])[::-1]))
    assert 8 < slope < 16


def test_a_mirrored_view_has_mirrored_points(portraits):
    """Yaw apart, a face is all but symmetric: the project's mirror table fits the mesh's points."""
    person = SyntheticPerson.sample(6)
    one = portraits.render(person, Look(view=CameraView(yaw=20))).truth.points
    other = portraits.render(person, Look(view=CameraView(yaw=-20))).truth.points[list(MIRROR)]
    other = other * [-1, 1] + [128, 0]
    assert np.abs(one - other).max() < 2.5


def test_hidden_points_are_known(portraits):
    person = SyntheticPerson.sample(2)
    sun = portraits.render(person, Look(glasses="sunglasses", view=OPEN)).truth
    bare = portraits.render(person, Look(view=OPEN)).truth
    eyes = np.r_[36:52]
    assert not sun.seen[eyes].any() and bare.seen[eyes].all()
    turned = portraits.render(person, Look(hair="long", view=CameraView(yaw=38))).truth
    far, near = turned.seen[[9, 10]], turned.seen[[27, 30, 36]]
    assert not far.all() and near.all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("light", ["soft", "dramatic"])
def test_lenses_of_sunglasses_are_dark_in_every_style(portraits, style, light):
    look = Look(glasses="sunglasses", style=style, light=light, view=CameraView(yaw=10))
    picture = portraits.render(SyntheticPerson.sample(9), look)
    for eye in (PARTS["eye_left"], PARTS["eye_right"]):
        middle = picture.truth.points[eye].mean(0)
        assert around(picture.image, middle, 2).max() <= 255 * LENS_DARK + 1


def test_teeth_show_when_the_mouth_opens(portraits):
    for seed in (0, 2):
        person = SyntheticPerson.sample(seed)
        bright = []
        for actions in ({}, express("laugh", 1.0)):
            picture = portraits.render(person, Look(view=CameraView(actions=actions)), 256)
            left, right = picture.truth.points[[52, 57]]
            mouth = picture.truth.regions == MOUTH
            mouth[:, : int(left[0])] = mouth[:, int(right[0]) :] = False
            shown = picture.image[mouth]
            bright.append(int((shown.min(-1) > 120).sum()) if len(shown) else 0)
        assert bright[0] < 30 < bright[1], (seed, bright)


def test_tall_hair_stays_in_the_picture_and_clothing_shows(portraits):
    shown = []
    for seed in range(4):
        person = SyntheticPerson.sample(seed)
        for hair, garment in zip(("afro", "quiff", "bun", "long"), GARMENTS, strict=True):
            regions = portraits.render(person, Look(hair=hair, garment=garment, view=CameraView())).truth.regions
            assert not (regions[0] == HAIR).any(), (seed, hair)
            shown.append((regions == CLOTHING).mean())
    assert min(shown) > 0.02 and np.mean(shown) > 0.06


def test_dark_skin_keeps_its_features_in_hard_light(portraits):
    dark = next(p for p in map(SyntheticPerson.sample, range(60)) if p.tone > 5.5)
    for light in ("left", "right", "top", "dramatic"):
        picture = portraits.render(dark, Look(hair="bald", light=light, view=OPEN), 256)
        values = grey(picture.image)[picture.truth.regions == SKIN]
        assert np.median(values) > 45 and np.percentile(values, 5) > 10


def test_every_attribute_changes_the_picture_and_none_the_landmarks(portraits):
    person, plain = SyntheticPerson.sample(2), Look(view=OPEN)
    base = portraits.render(person, plain)
    changes = [
        {"hair": "long"}, {"hair_colour": "pink"}, {"glasses": "round"}, {"beard": "full"}, {"garment": "hoodie"},
        {"clothing_colour": "red"}, {"background": "green"}, {"backdrop": "bokeh"}, {"light": "left"},
        {"style": "comic"},
    ]  # fmt: skip
    for change in changes:
        other = portraits.render(person, replace(plain, **change))
        assert (np.abs(other.image.astype(int) - base.image).max(-1) > 24).mean() > 0.01, change
        if "hair" not in change:  # the camera may step back from tall hair
            np.testing.assert_array_equal(other.truth.points, base.truth.points)
    assert (portraits.render(person, replace(plain)).image == base.image).all()


def test_another_person_has_another_face_under_the_same_look(portraits):
    look = Look(view=OPEN)
    one, two = (portraits.render(SyntheticPerson.sample(s), look) for s in (2, 3))
    assert np.abs(one.truth.points - two.truth.points).max() > 2
    assert (one.image != two.image).mean() > 0.2
