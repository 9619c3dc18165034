"""Regions: soft maps on the picture, at every stride, for sizes that nothing divides; per-block strengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.attach import Conditioning, Row, RowPlan, attach
from facesnap.attach.region import token_grid, token_weights
from facesnap.attach.rows import Tile
from facesnap.errors import AttachError
from tests.networks import CONTEXT, Batch, diffusers_unet, projections_for, run, token_groups

SIZES = st.integers(1, 200)


@settings(max_examples=200)
@given(SIZES, SIZES, st.integers(0, 4))
def test_token_grid_at_every_stride(h: int, w: int, stages: int) -> None:
    grid = (h, w)
    for _ in range(stages):
        grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    found = token_grid(grid[0] * grid[1], (h, w))
    assert found[0] * found[1] == grid[0] * grid[1]
    if grid[0] > 1 and grid[1] > 1:
        assert found == grid


@settings(max_examples=100)
@given(st.integers(1, 97), st.integers(1, 97), st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
def test_token_weights_of_a_full_an_empty_and_any_map(ph: int, pw: int, h: int, w: int, stages: int) -> None:
    gh, gw = h, w
    for _ in range(stages):
        gh, gw = -(-gh // 2), -(-gw // 2)
    assert torch.allclose(token_weights(torch.ones(ph, pw), (h, w), gh * gw), torch.ones(gh * gw))
    assert (token_weights(torch.zeros(ph, pw), (h, w), gh * gw) == 0).all()
    noise = torch.rand(ph, pw, generator=torch.Generator().manual_seed(ph * 97 + pw))
    weights = token_weights(noise, (h, w), gh * gw)
    assert weights.shape == (gh * gw,) and weights.min() >= 0 and weights.max() <= 1


def test_token_weights_are_the_average_over_the_token() -> None:
    region = torch.zeros(64, 96)
    region[:, :24] = 1.0  # 24 of 96 columns: 3 of 12 latents, 1.5 of 6 tokens
    assert token_weights(region, (8, 12), 4 * 6).view(4, 6)[2].tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_merged_tokens_with_no_grid_are_an_error() -> None:
    with pytest.raises(AttachError, match="grid of tokens"):
        token_grid(1009, (64, 64))


@pytest.fixture(scope="module")
def scene():
    unet = diffusers_unet("sd15")
    projections = projections_for(unet, CONTEXT["sd15"])
    kv = [projections.keys_values(token_groups(CONTEXT["sd15"], seed=s)) for s in (1, 2)]
    return unet, Batch.draw("sd15", size=(13, 19)), [Conditioning(k, k) for k in kv]


def test_a_region_of_ones_is_no_region_and_one_of_zeros_nobody(scene) -> None:
    unet, batch, (person, _) = scene
    bare = run(unet, batch)
    with attach(unet, [person], RowPlan.classifier_free()):
        everywhere = run(unet, batch)
    with attach(unet, [replace(person, region=torch.ones(101, 150))], RowPlan.classifier_free()):
        assert (run(unet, batch) - everywhere).abs().max() <= 1e-4
    with attach(unet, [replace(person, region=torch.zeros(101, 150))], RowPlan.classifier_free()):
        assert torch.equal(run(unet, batch), bare)


def test_complementary_regions_share_one_person(scene) -> None:
    """w and 1 - w of the same person are the person everywhere, whatever the soft map."""
    unet, batch, (person, _) = scene
    soft = torch.rand(101, 150, generator=torch.Generator().manual_seed(0))
    with attach(unet, [person], RowPlan.classifier_free()):
        everywhere = run(unet, batch)
    parts = [replace(person, region=soft), replace(person, region=1 - soft)]
    with attach(unet, parts, RowPlan.classifier_free()):
        assert (run(unet, batch) - everywhere).abs().max() <= 1e-4


@torch.no_grad()
def test_two_regions_change_their_own_side_of_a_site(scene) -> None:
    """At the first site, before anything can spread, each side is what its own person alone makes of it."""
    unet, batch, people = scene
    site = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    left = torch.zeros(104, 152)
    left[:, :64] = 1.0  # 64 of 152 columns: 8 of 19 latents
    outputs = []
    handle = site.register_forward_hook(lambda m, a, out: outputs.append(out.unflatten(1, (13, 19))))
    for persons in ([people[0]], [people[1]], [replace(people[0], region=left), replace(people[1], region=1 - left)]):
        with attach(unet, persons, RowPlan.classifier_free()):
            run(unet, batch)
    handle.remove()
    first, second, both = outputs
    assert (both[:, :, :8] - first[:, :, :8]).abs().max() <= 1e-5
    assert (both[:, :, 8:] - second[:, :, 8:]).abs().max() <= 1e-5
    assert (first - second).abs().max() > 1e-2


def test_block_strengths_the_longest_prefix_counts(scene) -> None:
    unet, batch, (person, _) = scene
    fired = {}
    for name, strengths in {
        "only middle": {"input": 0.0, "output": 0.0},
        "only one": {"input": 0.0, "output": 0.0, "middle": 0.0, "output.5": 0.0, "output.5.1.0": 0.7},
    }.items():
        with attach(unet, [replace(person, block_strengths=strengths)], RowPlan.classifier_free()):
            fired[name] = run(unet, batch)
    one = replace(person, block_strengths={"input": 0.0, "output": 0.0, "middle": 0.0, "output.5.1": 0.7})
    with attach(unet, [one], RowPlan.classifier_free()):
        assert torch.equal(run(unet, batch), fired["only one"])
    assert (fired["only middle"] - fired["only one"]).abs().max() > 1e-3


@torch.no_grad()
def test_tiles_see_their_piece_of_the_region(scene) -> None:
    """Two tiles in one call, each with its own piece of a region: at the first site as if each came alone."""
    unet, _, (person, _) = scene
    site = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    region = torch.rand(96, 192, generator=torch.Generator().manual_seed(1))  # 12 x 24 latents
    masked = replace(person, region=region)
    tiles = [Tile((12, 24), 0, 0), Tile((12, 24), 0, 12)]
    batch = Batch.draw("sd15", size=(12, 12))
    outputs = []
    handle = site.register_forward_hook(lambda m, a, out: outputs.append(out))
    rows = [Row(0, True, tile) for tile in tiles]
    with attach(unet, [masked], RowPlan(rows)):
        run(unet, batch)
    for i, tile in enumerate(tiles):
        piece = replace(person, region=region[:, 96 * i : 96 * i + 96])
        with attach(unet, [piece], RowPlan([Row(0, True)])):
            run(unet, batch.rows(slice(i, i + 1)))
        assert (outputs[-1][0] - outputs[0][i]).abs().max() <= 1e-5
        assert tile.left == 12 * i
    handle.remove()
