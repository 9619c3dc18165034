"""Where a sampling is when accelerators leave calls out: of the denoiser, of the UNet, of the UNet's blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facesnap.errors import AttachError
from facesnap.hosts.steps import SigmaList, calls_left_out
from tests.hosts.test_webui import Recorder, prepare, processing, sampled

FALLING = st.lists(st.floats(0.03, 80), min_size=2, max_size=40, unique=True).map(
    lambda sigmas: [*sorted(sigmas, reverse=True), 0.0]
)


@given(FALLING, st.data())
def test_each_sigma_of_the_list_is_its_step(sigmas: list[float], data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, len(sigmas) - 1))  # img2img takes the last of them
    listed, own = SigmaList(sigmas, steps), sigmas[-steps - 1 :]
    apart = all(b < a * (1 - 3e-3) for a, b in pairwise(own))
    if not apart:
        return
    assert listed.begins_at(own[0]) and not listed.begins_at(own[0] * 1.1)
    assert [listed.step(sigma * (1 + 2e-4)) for sigma in own[:-1]] == list(range(steps))
    for i, (high, low) in enumerate(pairwise(own)):
        assert i < listed.step((high + low) / 2) < i + 1
    assert listed.step(own[0] * 2) == 0


@pytest.mark.parametrize("sigmas", ([9.0, 5, 7, 3, 0], [0.0], [], [5.0, 5, 0]))
def test_a_list_that_does_not_fall_says_nothing(sigmas: list[float]) -> None:
    assert not SigmaList(sigmas, len(sigmas) - 1).begins_at(9.0)


def test_samplers_with_more_calls_a_step_leave_none_out() -> None:
    """Heun: sigma 0, 1, 1, 2, 2...; midpoints: 0, 0.5, 1, 1.5; Restart goes up again and calls more than it says."""
    steps = 20
    heun = [(n + 1) // 2 for n in range(2 * steps - 1)]
    assert not any(calls_left_out(step, calls, 2 * steps, steps) for calls, step in enumerate(heun))
    assert not any(calls_left_out(calls / 2, calls, 2 * steps, steps) for calls in range(2 * steps))
    restart = [*range(15), *range(10, 20)]
    assert not any(calls_left_out(step, calls, steps, steps) for calls, step in enumerate(restart))
    # every second call from the tenth step on is left out
    left = [calls_left_out(step, calls, steps, steps) for calls, step in enumerate([*range(10), *range(10, 20, 2)])]
    assert left == [0] * 11 + [1, 2, 3, 4]


@pytest.mark.parametrize("world", ("forge",), indirect=True)
@pytest.mark.parametrize("neo", (True, False))
def test_the_window_follows_the_sigma_where_calls_of_the_denoiser_are_left_out(world, neo: bool) -> None:
    """8 steps of which steps 3, 5 and 7 never reach the host: its count is behind, its list of sigmas is not."""
    world.standin.neo = neo
    left_out = {float(world.standin.sigmas(8)[i]) for i in (3, 5, 7)}
    p = processing(world, steps=8, left_out=lambda sigma: sigma in left_out)
    recorder = Recorder(world, p)
    world.host.enlist(p, prepare(replace(world.person, start=0.75)))
    made = sampled(p)
    recorder.drop()
    bare = sampled(processing(world, steps=8, left_out=lambda sigma: sigma in left_out))
    assert recorder.progress == ([0, 1 / 8, 2 / 8, 4 / 8, 6 / 8] if neo else [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8])
    assert torch.equal(made, bare) is not neo  # by the count alone, the window is never reached


@pytest.mark.parametrize("world", ("forge",), indirect=True)
@pytest.mark.parametrize("more", ({"sampler": lambda model, x, timesteps: x}, {"steps": 4}), ids=("timesteps", "stale"))
def test_a_list_of_another_sampling_is_not_used(world, more: dict) -> None:
    world.standin.neo = True
    if "steps" in more:
        world.standin.sigmas = iter_of(torch.linspace(80, 0, 5), torch.linspace(10, 0, 5))
    p = processing(world, **more)
    recorder = Recorder(world, p)
    world.host.enlist(p, prepare(world.person))
    sampled(p)
    recorder.drop()
    assert recorder.progress == [0, 0.25, 0.5, 0.75]


def iter_of(*lists: torch.Tensor):
    """The lists of sigmas, one a call: what the host leaves behind, then what the sampler takes."""
    left = list(lists[::-1])
    return lambda steps: left.pop()


def shortened(world, at: set[int]):
    """The UNet's own forward, left out in these calls: a forecast comes in its place."""
    unet = world.unets[0]
    calls = iter(range(1000))
    own = type(unet).forward

    def forward(x, *args, **kwargs):
        return torch.zeros_like(x) if next(calls) in at else own(unet, x, *args, **kwargs)

    unet.forward = forward
    return unet


def test_a_window_may_begin_in_a_call_that_an_accelerator_cuts_short(world) -> None:
    """The first call in which the person has weight runs no block: no reason to refuse, the next one does."""
    made = []
    for start in (0.5, 0.75):
        unet = shortened(world, {2})
        try:
            p = processing(world)
            world.host.enlist(p, prepare(replace(world.person, start=start)))
            made.append(sampled(p))
            del unet.forward
            shortened(world, {2})
            bare = sampled(processing(world))
        finally:
            del unet.forward
        assert (made[-1] - bare).abs().max() > 1e-2
    assert torch.equal(*made)


def test_a_window_that_an_accelerator_leaves_out_is_refused(world) -> None:
    unet = shortened(world, {2, 3})
    try:
        p = processing(world)
        world.host.enlist(p, prepare(replace(world.person, start=0.5)))
        with pytest.raises(AttachError, match="An accelerator left out the UNet") as caught:
            sampled(p)
    finally:
        del unet.forward
    assert "widen the person's window" in str(caught.value)
