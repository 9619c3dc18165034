"""AUTOMATIC1111's and Forge's adapters against a stand-in that behaves as the hosts were measured to."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.attach import Conditioning, Tile
from facesnap.errors import (
    AttachError,
    CheckpointError,
    FaceSnapError,
    HostError,
    NoFaceError,
    PackError,
)
from facesnap.hosts.base import NOTE, Parts
from facesnap.hosts.tiles import TileWalk, pass_piece
from tests.networks import CONTEXT
from tests.webui.standin.sampling import Processing

WIDTH = CONTEXT["sd15"]


def text(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def processing(world, prompts: list[list[int]] | None = None, uncond: int = 7, **more) -> Processing:
    """prompts: per picture, the lengths of its sub-prompts."""
    conds = [[text(n, 10 * i + k) for k, n in enumerate(lengths)] for i, lengths in enumerate(prompts or [[7]])]
    p = Processing(world.standin, conds, text(uncond, 99), **more)
    p.before_every_sampling = lambda x: world.host.before_sampling(p, x)
    return p


def prepare(*people: Conditioning, fits: str = "sd15"):
    def make(topology):
        if topology.base != fits:
            raise CheckpointError(f"made for {fits}", expected=fits, remedy="another adapter")
        return Parts(people)

    return make


@torch.no_grad()
def sampled(p: Processing) -> torch.Tensor:
    return p.sample()


class Recorder:
    """Beside each UNet call, the rows that our plan has: a hook put on after ours, at the first step."""

    def __init__(self, world, p: Processing) -> None:
        self.world, self.rows, self.tiles, self.progress = world, [], [], []
        self.handles: list = []
        before = p.before_step

        def on_step(denoiser) -> None:
            if before is not None:
                before(denoiser)
            self.drop()
            self.handles.append(world.standin.unet().register_forward_hook(self.seen))

        p.before_step = on_step
        world.standin.calls = self.truth = []

    def seen(self, unet, args, output) -> None:
        self.world.standin.watch(unet)
        running = self.world.host.running
        plan = running[-1].plan if running else None
        rows = () if plan is None or plan.idle else plan.for_batch(len(args[0]))
        self.rows.append([(row.picture, row.cond) for row in rows])
        self.tiles += [row.tile for row in rows]
        self.progress.append(plan.progress if plan else None)

    def drop(self) -> None:
        while self.handles:
            self.handles.pop().remove()


CASES = {
    "normal": ([[7]], {}, {}, [2], [2]),
    "no uncond (CFG 1 in Forge, NGMS)": ([[7]], {"skip_uncond": True}, {}, [1], [1]),
    "batch 2": ([[7], [7]], {}, {}, [4], [4]),
    "AND x3": ([[7, 7, 7]], {}, {}, [4], [4]),
    "AND x2, batch 2": ([[7, 7], [7, 7]], {}, {}, [6], [6]),
    "AND x2, batch 2, split": ([[7, 7], [7, 7]], {}, {"batch_cond_uncond": False}, [2, 2, 2], [6]),
    "AND in one picture of two": ([[7, 7], [7]], {}, {}, [5], [6]),
    "split": ([[7]], {}, {"batch_cond_uncond": False}, [1, 1], [2]),
    "unequal": ([[14]], {}, {}, [1, 1], [2]),
    "AND + unequal": ([[14, 14]], {}, {}, [2, 1], [3]),
    "unequal beyond a ratio of 4": ([[70]], {}, {}, [1, 1], [1, 1]),
}


@pytest.mark.parametrize("case", CASES)
def test_rows(world, monkeypatch, case: str) -> None:
    prompts, more, opts, in_a1111, in_forge = CASES[case]
    for name, value in opts.items():
        monkeypatch.setattr(world.modules.shared.opts, name, value)
    bare = sampled(processing(world, prompts, **more))
    p = processing(world, prompts, **more)
    recorder = Recorder(world, p)
    world.host.enlist(p, prepare(world.person))
    made = sampled(p)
    recorder.drop()
    assert [len(rows) for rows in recorder.rows] == (in_a1111 if world.name == "a1111" else in_forge) * 4
    assert recorder.rows == recorder.truth
    assert sorted(set(recorder.progress)) == [0, 0.25, 0.5, 0.75]
    assert (made - bare).abs().max() > 1e-2
    assert torch.equal(sampled(processing(world, prompts, **more)), bare)


@pytest.mark.parametrize("more", ({"strength": 0.0}, {"start": 0.8, "end": 0.9}))
def test_nothing_to_add_changes_nothing(world, more: dict) -> None:
    p = processing(world)
    bare = sampled(processing(world))
    world.host.enlist(p, prepare(replace(world.person, **more)))
    assert torch.equal(sampled(p), bare)
    world.host.enlist(p, prepare(world.person))
    world.host.release(p)
    assert torch.equal(sampled(p), bare)


def test_splitting_does_not_change_the_picture(world, monkeypatch) -> None:
    made = []
    for together in (True, False):
        monkeypatch.setattr(world.modules.shared.opts, "batch_cond_uncond", together)
        p = processing(world, [[7, 7], [7, 7]])
        world.host.enlist(p, prepare(world.person))
        made.append(sampled(p))
    assert (made[0] - made[1]).abs().max() <= 1e-4


def test_passes_of_a_hires_generation(world) -> None:
    made = {}
    for passes in ("both", "first", "second"):
        p = processing(world, enable_hr=True)
        recorder = Recorder(world, p)
        world.host.enlist(p, prepare(world.person), passes)
        made[passes] = sampled(p)
        recorder.drop()
        wanted = {"both": [True] * 8, "first": [True] * 4 + [False] * 4, "second": [False] * 4 + [True] * 4}[passes]
        assert [bool(rows) for rows in recorder.rows] == wanted
    bare = sampled(processing(world, enable_hr=True))
    pictures = [bare, *made.values()]
    assert all((a - b).abs().max() > 1e-3 for n, a in enumerate(pictures) for b in pictures[:n])


def test_an_exception_leaves_nothing(world) -> None:
    """From the UNet, and from another extension's wrapper of p.sample inside ours."""
    bare = sampled(processing(world))
    p = processing(world)
    p.before_step = lambda denoiser: 1 / 0 if denoiser.step == 2 else None
    world.host.enlist(p, prepare(world.person))
    with pytest.raises(ZeroDivisionError):
        sampled(p)
    assert not world.host.running
    assert torch.equal(sampled(processing(world)), bare)  # the fixture looks for hooks


@pytest.mark.parametrize("how", ("interrupted", "skipped"))
def test_interrupt_and_skip(world, monkeypatch, how: str) -> None:
    for at in (0, 2):
        monkeypatch.setattr(world.modules.shared.state, how, at == 0)
        p = processing(world)
        p.before_step = lambda d, at=at: setattr(world.modules.shared.state, how, d.step >= at - 1)
        world.host.enlist(p, prepare(world.person))
        sampled(p)
        assert not world.host.running
        setattr(world.modules.shared.state, how, False)


def test_our_error_stops_the_sampling_with_a_status(world) -> None:
    for error, status in (
        (NoFaceError("no face", expected="a face", remedy="another photo"), 422),
        (PackError("no pack", expected="a pack", remedy="download it"), 503),
    ):
        p = processing(world)
        world.host.refuse(p, error)
        with pytest.raises(FaceSnapError) as raised:
            sampled(p)
        assert vars(raised.value)["status_code"] == status and vars(raised.value)["detail"] == str(error)
        world.host.release(p)  # the next generation with the same p
        sampled(p)


def test_a_base_that_does_not_fit_stops_the_sampling(world) -> None:
    p = processing(world)
    world.host.enlist(p, prepare(world.person, fits="sdxl"))
    with pytest.raises(CheckpointError) as raised:
        sampled(p)
    assert vars(raised.value)["status_code"] == 422


def test_refiner_of_the_same_layout(world) -> None:
    def run(attached: bool) -> tuple[torch.Tensor, list]:
        world.standin.load(world.unets[0])
        p = processing(world)
        p.before_step = lambda d: world.standin.load(world.unets[1]) if d.step == 2 else None
        recorder = Recorder(world, p)
        if attached:
            world.host.enlist(p, prepare(world.person))
        out = sampled(p)
        recorder.drop()
        assert p.extra_generation_params == {}
        return out, recorder.rows

    (bare, _), (made, rows) = run(False), run(True)
    assert all(rows) and len(rows) == 4
    assert (made - bare).abs().max() > 1e-2


def test_refiner_of_another_layout_is_left_alone_and_told(world) -> None:
    p = processing(world)
    p.before_step = lambda d: world.standin.load(world.unets[1]) if d.step == 2 else None
    recorder = Recorder(world, p)
    made_for = []

    def make(topology):
        made_for.append(topology)
        if len(made_for) > 1:
            raise CheckpointError("made for another UNet", expected="its UNet", remedy="another refiner")
        return Parts([world.person])

    world.host.enlist(p, make)
    sampled(p)
    recorder.drop()
    assert [bool(rows) for rows in recorder.rows] == [True, True, False, False]
    assert "another UNet" in p.extra_generation_params[NOTE] and p.comments


def test_a_foreign_sampling_inside_ours_is_not_touched(world) -> None:
    bare = sampled(processing(world))
    expected = processing(world)
    world.host.enlist(expected, prepare(world.person))
    expected = sampled(expected)
    inside: list[torch.Tensor] = []
    p = processing(world)
    p.before_step = lambda d: inside.append(sampled(processing(world))) if d.step == 2 else None
    world.host.enlist(p, prepare(world.person))
    assert torch.equal(sampled(p), expected)
    assert torch.equal(inside[0], bare)


def test_wrappers_of_others_stay_and_ours_does_not_pile_up(world) -> None:
    p, order = processing(world), []
    original = p.sample

    def others(*args, **kwargs):
        order.append("other")
        return original(*args, **kwargs)

    p.sample = others
    for _ in range(3):  # loopback: process_images again with the same p
        world.host.enlist(p, prepare(world.person))
        made = sampled(p)
    assert order == ["other"] * 3
    p.sample = others  # ControlNet restores its own: ours comes back at the next `process`
    world.host.enlist(p, prepare(world.person))
    assert torch.equal(sampled(p), made)


def test_a_shallow_copy_samples_itself(world) -> None:
    """X/Y/Z plots make copies of one p."""
    p = processing(world)
    world.host.enlist(p, prepare(world.person))
    made = sampled(p)
    other = copy.copy(p)
    other.steps = 2
    world.host.enlist(other, prepare(world.person))
    assert not torch.equal(sampled(other), made)
    assert torch.equal(sampled(p), made)


def test_a_failure_in_the_callback_stops_the_generation(world, monkeypatch) -> None:
    """The hosts swallow it; the picture must not be made all the same."""
    p = processing(world)
    generation = world.host.enlist(p, prepare(world.person))
    monkeypatch.setattr(type(generation), "announce", lambda self, params: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampled(p)


def test_a_sampler_that_never_calls_the_unet(world) -> None:
    p = processing(world, steps=0)
    world.host.enlist(p, prepare(world.person))
    with pytest.raises(AttachError, match="without calling"):
        sampled(p)


def test_no_checkpoint_and_engines_are_refused_by_name(world) -> None:
    p = processing(world)
    if world.name == "a1111":
        world.modules.sd_unet.current_unet = object()
        world.modules.sd_unet.current_unet_option = SimpleNamespace(label="[TRT] model")
        world.host.enlist(p, prepare(world.person))
        with pytest.raises(HostError, match=r"\[TRT\] model"):
            sampled(p)
        world.modules.sd_unet.current_unet = None
    world.modules.shared.sd_model = None
    world.host.enlist(p, prepare(world.person))
    with pytest.raises(HostError, match="no UNet"):
        sampled(p)


def test_only_masked_maps_to_the_whole_picture(world) -> None:
    mask = Image.fromarray(np.zeros((400, 200), np.uint8))  # 200 wide, 400 high
    p = processing(world, paste_to=(100, 100, 50, 50), mask_for_overlay=mask, inpaint_full_res=True)
    recorder = Recorder(world, p)
    world.host.enlist(p, prepare(replace(world.person, region=torch.ones(4, 4))))
    sampled(p)
    recorder.drop()
    assert set(recorder.tiles) == {Tile((64, 32), 16, 16)}  # 8 latent units for 50 pixels
    assert pass_piece(SimpleNamespace(paste_to=None), (8, 8)) is None


def test_tiles_walk_in_call_order() -> None:
    boxes = [SimpleNamespace(x=x, y=2, w=6, h=4) for x in (0, 3, 6)]
    everything = slice(0, 2)
    walk = TileWalk()
    walk.restart(SimpleNamespace(batched_bboxes=[boxes[:2], boxes[2:]], custom_bboxes=[]))
    assert [walk.next(2, n, (4, 6)) for n in (4, 2, 4)] == [
        ([(2, 0), (2, 3)], everything), ([(2, 6)], everything), ([(2, 0), (2, 3)], everything)
    ]  # fmt: skip
    assert walk.next(2, 4, (4, 6)) is None  # another number of tiles than announced
    walk.restart(None)
    assert walk.next(1, 1, (4, 6)) is None
    late = SimpleNamespace(batched_bboxes=[])
    walk.restart(late)
    late.batched_bboxes = [boxes]  # Forge's own extension cuts the picture when the step is under way
    assert walk.next(2, 6, (4, 6)) == ([(2, 0), (2, 3), (2, 6)], everything)


def test_regions_of_tiled_diffusion_follow_its_grid() -> None:
    """Prompts of one length: both rows in one call; of two lengths: cond rows first, uncond rows next."""
    grid, custom = SimpleNamespace(x=0, y=0, w=8, h=8), SimpleNamespace(x=5, y=1, w=3, h=2)
    tiler = SimpleNamespace(batched_bboxes=[[grid]], custom_bboxes=[custom], draw_background=True)
    walk = TileWalk()
    walk.restart(tiler)
    for _ in range(2):
        assert walk.next(3, 3, (8, 8)) == ([(0, 0)], slice(0, 3))
        assert walk.next(3, 3, (2, 3)) == ([(1, 5)], slice(0, 3))
    assert walk.next(3, 3, (8, 8)) == ([(0, 0)], slice(0, 3))
    assert [walk.next(3, n, (2, 3)) for n in (2, 1)] == [([(1, 5)], slice(0, 2)), ([(1, 5)], slice(2, 3))]
    tiler.draw_background = False
    walk.restart(tiler)
    assert walk.next(3, 3, (8, 8)) is None
    assert walk.next(3, 3, (2, 3)) == ([(1, 5)], slice(0, 3))
