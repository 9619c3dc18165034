"""Geometry of the `fast` setting."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facesnap.attach.crop import Crop, cut, feather, paste, plan_crop

latents = st.tuples(st.integers(4, 200), st.integers(4, 200))
fractions = st.floats(-0.2, 1.2)


@settings(max_examples=300)
@given(latents, fractions, fractions, st.floats(0.005, 1.0), st.floats(0.5, 2.0))
def test_the_square_holds_the_face(latent, cx, cy, size, aspect) -> None:
    h, w = latent
    half_w, half_h = size * min(h, w) / 2, size * min(h, w) * aspect / 2
    face = (cx * w - half_w, cy * h - half_h, cx * w + half_w, cy * h + half_h)
    inside = (max(face[0], 0), max(face[1], 0), min(face[2], w), min(face[3], h))
    crop = plan_crop(face, latent)
    if crop is None:
        return
    assert crop.side % 8 == crop.top % 8 == crop.left % 8 == 0
    assert crop.side >= 8 and crop.side * crop.enlarge <= min(h, w) / 2
    assert 0 <= crop.top <= h - crop.side and 0 <= crop.left <= w - crop.side
    assert crop.left <= inside[0] and inside[2] <= crop.left + crop.side
    assert crop.top <= inside[1] and inside[3] <= crop.top + crop.side
    assert crop.enlarge == 1 or (face[2] - face[0]) * (crop.enlarge - 1) < 16


@settings(max_examples=100)
@given(st.integers(4, 25), st.integers(4, 25), fractions, fractions, st.floats(0.02, 0.24))
def test_a_face_under_a_quarter_of_the_frame_is_cropped(h8, w8, cx, cy, size) -> None:
    """Frames of whole blocks of 8: margin and grid always leave room for such a face."""
    h, w = 8 * h8, 8 * w8
    half = size * min(h, w) / 2
    assume(3 * half + 8 <= min(h, w) // 2 // 8 * 8)
    face = (cx * w - half, cy * h - half, cx * w + half, cy * h + half)
    assume(face[0] < w and face[1] < h and face[2] > 0 and face[3] > 0)
    assert plan_crop(face, (h, w)) is not None


def test_known_squares() -> None:
    assert plan_crop((24, 24, 40, 40), (64, 64)) == Crop(16, 16, 32)
    assert plan_crop((28, 28, 34, 34), (64, 64)) == Crop(24, 24, 16, 2)  # 6 wide: 3 would leave half the frame
    assert plan_crop((30, 30, 34, 34), (128, 128)) == Crop(24, 24, 16, 4)
    assert plan_crop((10, 10, 50, 50), (64, 64)) is None  # a close-up: nothing to leave out
    assert plan_crop((70, 70, 80, 80), (64, 64)) is None  # outside


@pytest.mark.parametrize("latent", [(64, 64), (72, 51), (33, 47)])
@pytest.mark.parametrize("crop", [Crop(8, 0, 16), Crop(16, 24, 8), Crop(8, 16, 8, 2), Crop(0, 8, 16, 3)])
def test_paste_puts_every_level_where_it_was_cut(crop: Crop, latent: tuple[int, int]) -> None:
    """A map of constant 1 comes back as the feathered weights; outside everything is exactly 0."""
    for stride in (1, 2, 4, 8):
        side = crop.side * crop.enlarge // stride
        whole = paste(torch.ones(2, 3, side, side), crop, latent)
        assert whole.shape == (2, 3, math.ceil(latent[0] / stride), math.ceil(latent[1] / stride))
        inner = whole[..., crop.top // stride : (crop.top + crop.side) // stride, :]
        inner = inner[..., crop.left // stride : (crop.left + crop.side) // stride]
        assert torch.allclose(inner[0, 0], F.avg_pool2d(feather(crop, latent)[None], stride)[0])
        assert whole.sum() == pytest.approx(inner.sum().item()) and inner.max() <= 1


def test_values_come_back_to_their_place() -> None:
    latent, crop = (32, 40), Crop(8, 16, 16)
    x = torch.randn(1, 4, *latent)
    back = paste(cut(x, crop), crop, latent)
    weights = F.pad(feather(crop, latent), (16, 8, 8, 8))
    assert torch.allclose(back, x * weights, atol=1e-6)
    enlarged = Crop(8, 16, 16, 3)
    assert cut(x, enlarged).shape == (1, 4, 48, 48)
    assert torch.allclose(paste(cut(x, enlarged), enlarged, latent), x * weights, atol=1e-6)


def test_the_edge_is_soft_inside_the_frame_only() -> None:
    weights = feather(Crop(8, 0, 32), (64, 64))
    assert weights[16, 0] == 1 and weights[16, 16] == 1  # the left edge is the frame's own
    top = weights[:6, 10]
    assert top[0] == pytest.approx(0.125) and bool((top[1:] >= top[:-1]).all()) and top[4] == 1
    assert weights[31, 10] == pytest.approx(0.125) and weights[16, 31] == pytest.approx(0.125)


def test_enlarging_keeps_the_noise() -> None:
    """Nearest neighbour keeps the variance of each latent's noise; bilinear would cut it to 0.40."""
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = cut(x, Crop(0, 0, 64, 2)).var() / x.var()
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).var() / x.var()
    assert abs(kept - 1) < 1e-3 and abs(bilinear - 0.40) < 0.02
