"""Losses against their formulas written out, and the promises that the trainer relies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.errors import SettingsError
from facesnap.faces.align import RECOGNISER_SIZE, aligned_crop, similarity, template
from facesnap.training import losses

ALPHAS = torch.tensor([0.999, 0.5, 0.01])


@pytest.mark.parametrize("kind", losses.PREDICTIONS)
def test_a_perfect_prediction_gives_x0_back_and_no_loss(kind: str) -> None:
    x0, noise = torch.randn(3, 4, 6, 5), torch.randn(3, 4, 6, 5)
    noised = losses.add_noise(x0, noise, ALPHAS)
    target = losses.target_of(kind, x0, noise, ALPHAS)
    torch.testing.assert_close(losses.clean_of(kind, target, noised, ALPHAS), x0, rtol=1e-3, atol=1e-4)
    assert torch.equal(losses.diffusion_loss(target, target, torch.ones(3)), torch.zeros(3))


def test_noise_and_targets_are_diffusers_own() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    t, x0, noise = torch.tensor([3, 500, 999]), torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    a = scheduler.alphas_cumprod[t]
    torch.testing.assert_close(losses.add_noise(x0, noise, a), scheduler.add_noise(x0, noise, t))
    torch.testing.assert_close(losses.target_of("v_prediction", x0, noise, a), scheduler.get_velocity(x0, noise, t))


def test_min_snr_weighs_both_kinds_alike_in_x0() -> None:
    """In terms of x0's error eps is weighed by w snr and v by w (snr + 1): both are min(snr, gamma)."""
    snr = ALPHAS / (1 - ALPHAS)
    eps, v = (losses.min_snr_weight(kind, ALPHAS, 5.0) for kind in losses.PREDICTIONS)
    torch.testing.assert_close(eps * snr, snr.clamp(max=5.0))
    torch.testing.assert_close(v * (snr + 1), snr.clamp(max=5.0))
    assert torch.equal(losses.min_snr_weight("epsilon", ALPHAS, None), torch.ones(3))
    assert torch.isfinite(losses.min_snr_weight("epsilon", torch.zeros(1), 5.0)).all()


def test_face_box_counts_only_what_is_inside() -> None:
    target = torch.zeros(2, 4, 8, 8)
    inside, outside = target.clone(), target.clone()
    inside[:, :, 2:4, 4:6] = 3.0
    outside[:, :, 6:, :2] = 3.0
    boxes = torch.tensor([[0.5, 0.25, 0.75, 0.5]] * 2)
    assert torch.equal(losses.face_box_loss(inside, target, boxes, torch.ones(2)), torch.full((2,), 9.0))
    assert torch.equal(losses.face_box_loss(outside, target, boxes, torch.ones(2)), torch.zeros(2))


@settings(max_examples=60)
@given(st.lists(st.floats(-0.2, 1.2), min_size=4, max_size=4), st.integers(1, 12), st.integers(1, 12))
def test_masks_and_windows_never_vanish_nor_leave_the_picture(values: list[float], height: int, width: int) -> None:
    (l, r), (t, b) = sorted(values[:2]), sorted(values[2:])
    box = torch.tensor([l, t, r, b])
    mask = losses.box_mask(box[None], (height, width))
    assert mask.shape == (1, 1, height, width) and mask.sum() >= 1
    top, left, h, w = losses.latent_window(box.clamp(0, 0.99), (height, width))
    assert 0 <= top < top + h <= height and 0 <= left < left + w <= width


def test_leak_is_the_energy_outside_the_head() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    residual = torch.zeros(1, 2, 8, 8)
    residual[:, :, 2:6, 2:6] = 5.0
    assert losses.leak_loss([residual], boxes, 0.0) == 0
    residual[:, :, 0, :] = 2.0
    assert losses.leak_loss([residual], boxes, 0.0) == pytest.approx(4.0 * 8 / 48)
    assert losses.leak_loss([residual, torch.zeros(1, 2, 4, 4)], boxes, 0.0) == pytest.approx(4.0 * 8 / 48 / 2)


def test_warp_is_the_recognisers_crop(astronaut: np.ndarray) -> None:
    kps = np.array([[203, 113], [249, 112], [229, 141], [208, 160], [247, 159]], np.float32)
    matrix = torch.from_numpy(similarity(kps, template(RECOGNISER_SIZE)))
    picture = torch.from_numpy(astronaut).permute(2, 0, 1)[None].float() / 255
    found = losses.warp(picture, matrix)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - aligned_crop(astronaut, kps)).mean() < 1.5


def test_identity_loss_is_zero_for_the_target_and_pulls_towards_it() -> None:
    """`decode` enlarges; the embedding is a fixed linear map: only the arithmetic of pieces and warps is tested."""
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(3 * 112 * 112, 16, generator=g)
    decode = lambda z: torch.nn.functional.interpolate(z[:, :3].sigmoid(), scale_factor=8, mode="nearest")  # noqa: E731
    embed = lambda x: x.flatten(1) @ weights  # noqa: E731
    clean = torch.randn(2, 4, 16, 16, generator=g)
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.9], [0.2, 0.3, 0.8, 0.9]])
    matrices = torch.tensor([[[1.2, 0.1, -14.0], [-0.1, 1.2, -14.0]]] * 2)
    wanted = embed(torch.cat([losses.warp(decode(z[None]), m) for z, m in zip(clean, matrices, strict=True)]))
    zero = losses.identity_loss(clean, boxes, matrices, wanted, decode, embed)
    other = (clean + torch.randn(clean.shape, generator=g)).requires_grad_(True)
    loss = losses.identity_loss(other, boxes, matrices, wanted, decode, embed)
    loss.sum().backward()
    # The piece ends a little outside the crop, so the warp of the whole and of the piece may differ at its rim.
    assert zero.abs().max() < 0.02 < 0.05 < loss.min()
    step = other.detach() - 20 * other.grad
    assert (losses.identity_loss(step, boxes, matrices, wanted, decode, embed) < loss.detach()).all()


def test_other_predictions_are_refused() -> None:
    with pytest.raises(SettingsError, match="sample"):
        losses.check_prediction("sample")
