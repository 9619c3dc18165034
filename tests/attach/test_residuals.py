"""FFRNet on a live UNet against diffusers' ControlNet and `down_block_additional_residuals`, in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor, nn

from facesnap.attach import (
    ControlConditioning,
    ControlPictures,
    ControlView,
    Row,
    RowPlan,
    Speed,
    Tile,
    Topology,
    attach,
)
from facesnap.attach.crop import cut, paste, plan_crop
from facesnap.attach.inputs import UNetInputs
from facesnap.attach.residuals import ResidualInjection
from facesnap.errors import AttachError, SettingsError
from facesnap.models.fidelity import FFRNet
from tests.networks import CONTEXT, HEAD, Batch, diffusers_unet, ldm_unet, redraw, run

TOLERANCE = 1e-4
TREES = [("sd15", "ldm"), ("sdxl", "ldm"), ("sd15", "diffusers"), ("sdxl", "diffusers")]
ROWS = RowPlan.classifier_free().rows  # uncond, cond


@cache
def unets_of(base: str, channels: int) -> tuple[nn.Module, nn.Module]:
    """ldm's and diffusers' with the same weights."""
    ldm = ldm_unet(base, channels)
    return ldm, diffusers_unet(base, channels, like=ldm)


@cache
def control_of(base: str) -> tuple[ControlNetModel, FFRNet]:
    """A ControlNet whose every parameter is drawn, and FFRNet with its weights."""
    donor = ControlNetModel.from_unet(diffusers_unet(base)).eval()
    redraw(donor, 7)
    redraw(donor.controlnet_cond_embedding, 8, gain=1.7)
    heads = {"head_dim": HEAD} if base == "sdxl" else {}
    return donor, FFRNet.from_state_dict(donor.state_dict(), **heads)


class Setting:
    """One UNet with a ControlNet, and the person it is of. own: with networks that may be changed."""

    def __init__(self, base: str, tree: str, channels: int = 4, own: bool = False) -> None:
        self.base = base
        unets, control = unets_of(base, channels), control_of(base)
        (ldm, self.reference), (self.donor, self.net) = copy.deepcopy((unets, control)) if own else (unets, control)
        self.unet: nn.Module = ldm if tree == "ldm" else self.reference
        g = torch.Generator().manual_seed(11)
        self.tokens = torch.randn(2, 5, CONTEXT[base], generator=g)  # uncond, cond
        self.canvas = torch.rand(1, 3, 1024, 1024, generator=g)
        self.views: list[ControlView] = []

    def draw(self, view: ControlView) -> ControlPictures:
        self.views.append(view)
        return ControlPictures(landmarks=self.picture(view))

    def picture(self, view: ControlView) -> Tensor:
        whole = F.interpolate(self.canvas, view.frame)
        return whole[..., view.top : view.top + view.height, view.left : view.left + view.width]

    def person(self, **changes) -> ControlConditioning:
        uncond, cond = (self.net.project_tokens(tokens[None]) for tokens in self.tokens)
        return replace(ControlConditioning(self.net, cond, self.draw, uncond), **changes)

    @torch.no_grad()
    def residuals(self, batch: Batch, x: Tensor | None = None, picture: Tensor | None = None) -> list[Tensor]:
        """diffusers' residuals of all rows: the skips', then the middle's."""
        h, w = batch.x.shape[-2:]
        if picture is None:
            picture = self.picture(ControlView((8 * h, 8 * w), 0, 0, 8 * h, 8 * w))
        added = {"text_embeds": batch.text_embeds, "time_ids": batch.time_ids}
        x = batch.x[:, :4] if x is None else x
        down, mid = self.donor(
            x, batch.t, self.tokens, picture.expand(len(x), -1, -1, -1), added_cond_kwargs=added, return_dict=False
        )
        return [*down, mid]

    def expected(self, batch: Batch, maps: list[Tensor]) -> Tensor:
        """diffusers' UNet with these residuals."""
        return run(
            self.reference, batch, down_block_additional_residuals=maps[:-1], mid_block_additional_residual=maps[-1]
        )


@pytest.fixture(params=TREES, ids=str, scope="module")
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(*request.param)


def attached(
    setting: Setting, batch: Batch, *people: ControlConditioning, speed: Speed = Speed.EXACT, progress=0.5
) -> Tensor:
    plan = RowPlan(ROWS, progress, steps=30)
    with attach(setting.unet, [], plan, people, speed):
        return run(setting.unet, batch)


@contextmanager
def watching(net: nn.Module, seen: Callable) -> Iterator[None]:
    """`seen` is called before the network computes."""
    handle = net.register_forward_pre_hook(seen)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("size", [(8, 8), (24, 16)], ids=str)
def test_exact_equals_diffusers(setting: Setting, size: tuple[int, int]) -> None:
    batch = Batch.draw(setting.base, size=size)
    bare = run(setting.unet, batch)
    maps = [0.8 * r for r in setting.residuals(batch)]
    assert all(0.1 < r.std() < 10 for r in maps)
    theirs = setting.expected(batch, maps)
    ours = attached(setting, batch, setting.person(strength=0.8))
    assert (ours - theirs).abs().max() <= TOLERANCE
    for row in range(2):
        assert (ours - bare)[row].abs().max() > 100 * TOLERANCE
    parts = range(len(maps)) if size == (8, 8) else ()
    for part in parts:  # every residual matters, so each one has been added at its place
        without = [torch.zeros_like(r) if i == part else r for i, r in enumerate(maps)]
        assert (setting.expected(batch, without) - theirs).abs().max() > 10 * TOLERANCE, part
    assert torch.equal(run(setting.unet, batch), bare)


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_odd_sizes(base: str) -> None:
    """Plain ldm cannot join skips of odd sizes (its hosts patch it), so this is diffusers' UNet."""
    setting, batch = Setting(base, "diffusers"), Batch.draw(base, size=(17, 23))
    theirs = setting.expected(batch, setting.residuals(batch))
    assert (attached(setting, batch, setting.person()) - theirs).abs().max() <= TOLERANCE


def test_balanced_leaves_uncond_rows_alone(setting: Setting) -> None:
    batch = Batch.draw(setting.base)
    person = setting.person()
    exact, ours = attached(setting, batch, person), attached(setting, batch, person, speed=Speed.BALANCED)
    bare = run(setting.unet, batch)
    assert (ours[1] - exact[1]).abs().max() <= TOLERANCE
    assert torch.equal(ours[0], bare[0]) and (exact[0] - bare[0]).abs().max() > 100 * TOLERANCE
    unknown = attached(setting, batch, setting.person(uncond=None))  # an adapter without unconditional tokens
    assert torch.equal(unknown[0], bare[0]) and (unknown[1] - exact[1]).abs().max() <= TOLERANCE


def test_nothing_asked_for_is_bit_identical(setting: Setting) -> None:
    batch = Batch.draw(setting.base, size=(8, 8))
    bare, person = run(setting.unet, batch), setting.person()
    idle = [
        replace(person, strength=0.0),
        replace(person, start=0.6),
        replace(person, end=0.5),
        replace(person, start=0.5, end=0.5),
        replace(person, pictures=frozenset({3})),
    ]
    for control in idle:
        for speed in (Speed.EXACT, Speed.BALANCED):
            assert torch.equal(attached(setting, batch, control, speed=speed), bare)
    assert torch.equal(attached(setting, batch), bare)
    inside = attached(setting, batch, replace(person, start=0.4, end=0.6))
    assert not torch.equal(inside, bare)


def test_inpaint_unets_give_the_latent_alone() -> None:
    for tree in ("ldm", "diffusers"):
        setting = Setting("sd15", tree, channels=9)
        batch = Batch.draw("sd15", channels=9)
        theirs = setting.expected(batch, setting.residuals(batch))
        assert (attached(setting, batch, setting.person()) - theirs).abs().max() <= TOLERANCE


def test_people_are_summed_inside_their_regions(setting: Setting) -> None:
    batch = Batch.draw(setting.base)
    left = torch.zeros(128, 128)
    left[:, :64] = 1
    other = Setting(setting.base, "ldm")
    other.donor, other.net = copy.deepcopy(control_of(setting.base))
    redraw(other.net, 17)
    people = setting.person(region=left), other.person(region=1 - left, strength=0.5)
    other.donor.load_state_dict(other.net.state_dict())
    maps = []
    for mine, theirs in zip(setting.residuals(batch), other.residuals(batch), strict=True):
        mask = F.adaptive_avg_pool2d(left[None, None], mine.shape[-2:])
        maps.append(mine * mask + 0.5 * theirs * (1 - mask))
    expected = setting.expected(batch, maps)
    assert (attached(setting, batch, *people) - expected).abs().max() <= TOLERANCE
    assert (attached(setting, batch, people[0]) - expected).abs().max() > 100 * TOLERANCE


def test_each_picture_has_its_own_people() -> None:
    """Two pictures, one person in the second only; cond rows come first, as in A1111."""
    setting = Setting("sd15", "ldm")
    batch = Batch.draw("sd15", rows=4)
    plan = RowPlan.classifier_free(2, uncond_first=False)
    bare = run(setting.unet, batch)
    with attach(setting.unet, [], plan, [setting.person(pictures=frozenset({1}))], Speed.EXACT):
        ours = run(setting.unet, batch)
    assert torch.equal(ours[[0, 2]], bare[[0, 2]])
    swapped = batch.rows([3, 1])  # that picture's uncond and cond row
    theirs = setting.expected(swapped, setting.residuals(swapped))
    assert (ours[[3, 1]] - theirs).abs().max() <= TOLERANCE


def test_balanced_reuses_every_second_sigma() -> None:
    setting = Setting("sd15", "ldm")
    calls: list[float] = []
    plan, steps = RowPlan(ROWS, steps=20), 20
    kept: list[Tensor] = []
    with (
        watching(setting.net, lambda _, args: calls.append(float(args[1][0]))),
        attach(setting.unet, [], plan, [setting.person()], Speed.BALANCED) as attachment,
    ):
        for i in range(steps):
            batch = replace(Batch.draw("sd15", size=(8, 8), seed=i), t=torch.full((2,), 999 - 50 * i))
            plan.progress = i / steps
            ours = run(setting.unet, batch)
            if calls[-1] == 999 - 50 * i:
                kept = setting.residuals(batch)
            maps = [torch.cat([torch.zeros_like(r[:1]), r[1:]]) for r in kept]
            assert (ours - setting.expected(batch, maps)).abs().max() <= TOLERANCE, i
    reused = [i for i in range(steps) if 999 - 50 * i not in calls]
    assert reused == [4, 6, 8, 10, 12, 14]
    assert (attachment.residuals.reuse.computed, attachment.residuals.reuse.reused) == (14, 6)
    assert len(setting.views) == 1  # the landmark picture is drawn and embedded once


@pytest.mark.parametrize(
    ("face", "enlarge"), [((11.0, 19, 21, 29), 1), ((10.0, 18, 14, 22), 2)], ids=["own scale", "enlarged"]
)
def test_fast_computes_a_square_around_the_face(face: tuple[float, ...], enlarge: int) -> None:
    setting = Setting("sd15", "diffusers")
    latent = h, w = (40, 32)
    batch = Batch.draw("sd15", size=latent)
    crop = plan_crop(face, latent)
    assert crop is not None and crop.enlarge == enlarge
    sizes: list[tuple[int, ...]] = []
    person = setting.person(face=(face[0] / w, face[1] / h, face[2] / w, face[3] / h))
    with watching(setting.net, lambda _, args: sizes.append(tuple(args[0].shape))):
        ours = attached(setting, batch, person, speed=Speed.FAST)
    k = crop.enlarge
    assert sizes == [(1, 4, crop.side * k, crop.side * k)]  # the cond row, the square
    with torch.no_grad():
        if k == 1:
            hint = cut(setting.net.embed_hint(setting.picture(ControlView((320, 256), 0, 0, 320, 256))), crop)
        else:
            assert setting.views == [
                ControlView(
                    (320 * k, 256 * k), 8 * k * crop.top, 8 * k * crop.left, 8 * k * crop.side, 8 * k * crop.side
                )
            ]
            hint = setting.net.embed_hint(setting.picture(setting.views[0]))
        down, mid = setting.net(cut(batch.x[1:], crop), batch.t[1:], setting.tokens[1:], hint)
    maps = [F.pad(paste(r, crop, latent), (0, 0, 0, 0, 0, 0, 1, 0)) for r in (*down, mid)]  # zeros for the uncond row
    theirs = setting.expected(batch, maps)
    assert (ours - theirs).abs().max() <= TOLERANCE
    bare = run(setting.unet, batch)
    assert torch.equal(ours[0], bare[0]) and (ours - bare).abs().max() > 100 * TOLERANCE


def test_a_close_up_is_computed_whole() -> None:
    setting = Setting("sd15", "ldm")
    batch = Batch.draw("sd15")
    close = setting.person(face=(0.1, 0.1, 0.9, 0.9))
    fast, balanced = (attached(setting, batch, close, speed=speed) for speed in (Speed.FAST, Speed.BALANCED))
    assert torch.equal(fast, balanced)


def test_residuals_are_resized_to_what_they_are_added_to() -> None:
    """Kohya's HRFix and others change the size of hidden states inside the UNet."""
    setting = Setting("sd15", "ldm")
    layers = [nn.Identity() for _ in range(13)]
    topology = Topology("ldm", (), layers[0], tuple(layers[1:]))
    injection = ResidualInjection(topology, [setting.person()], Speed.EXACT)
    handles = list(injection.install())
    batch = Batch.draw("sd15")
    injection.begin(UNetInputs(batch.x, batch.t, None), ROWS, RowPlan(ROWS, 0.5, 30))
    maps = setting.residuals(batch)
    h = torch.randn(2, 100, 11, 9)
    for layer, r in zip(layers, [maps[-1], *maps[-2::-1]], strict=True):
        resized = F.interpolate(r, (11, 9), mode="bilinear", align_corners=False)
        difference = layer(h) - h
        c = r.shape[1]
        assert not difference[:, :-c].any()
        assert (difference[:, -c:] - resized).abs().max() <= TOLERANCE
    assert injection.end() == set()
    injection.begin(UNetInputs(batch.x, batch.t, None), ROWS, RowPlan(ROWS, 0.5, 30))
    with pytest.raises(AttachError, match="splits the batch"):
        layers[0](h[:1])
    assert len(injection.end()) == 12  # those that have not fired
    for handle in handles:
        handle.remove()


def _hooks(unet: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_after_an_exception(setting: Setting, error: type[BaseException]) -> None:
    batch, person = Batch.draw(setting.base, size=(8, 8)), setting.person()
    bare, hooks = run(setting.unet, batch), _hooks(setting.unet)
    whole = attached(setting, batch, person)

    def fail(*_: object) -> None:
        raise error("planted")

    places = [setting.net.mid_block, *list(setting.unet.modules())[-1:]]
    for module in places:  # inside FFRNet and at the end of the UNet
        handle = module.register_forward_hook(fail)
        with attach(setting.unet, [], RowPlan(ROWS, 0.5), [person], Speed.EXACT):
            with pytest.raises(error):
                run(setting.unet, batch)
            handle.remove()
            assert torch.equal(run(setting.unet, batch), whole)  # a retry inside the block is right
            handle = module.register_forward_hook(fail)
        with pytest.raises(error), attach(setting.unet, [], RowPlan(ROWS, 0.5), [person], Speed.EXACT):
            run(setting.unet, batch)
        handle.remove()
        assert _hooks(setting.unet) == hooks and torch.equal(run(setting.unet, batch), bare)


def test_wrong_settings_are_refused_before_anything_changes() -> None:
    setting = Setting("sd15", "ldm")
    xl = Setting("sdxl", "ldm")
    with pytest.raises(SettingsError, match="9 skip residuals, the UNet takes 12"):
        attached(setting, Batch.draw("sd15"), xl.person())
    with pytest.raises(SettingsError, match="where the face is"):
        attached(setting, Batch.draw("sd15"), setting.person(), speed=Speed.FAST)
    for wrong in ({"strength": -1.0}, {"end": float("nan")}, {"region": torch.full((4, 4), 2.0)}):
        with pytest.raises(SettingsError):
            setting.person(**wrong)
    assert _hooks(setting.unet) == 0


def test_rows_of_one_cond_call() -> None:
    """CFG 1 and split calls: cond rows alone; and several patterns in one batch."""
    setting = Setting("sd15", "ldm")
    batch = Batch.draw("sd15")
    with attach(setting.unet, [], RowPlan([Row(0, True)]), [setting.person()], Speed.BALANCED):
        cond = run(setting.unet, batch.rows([1]))
    whole = setting.expected(batch, setting.residuals(batch))
    assert (cond[0] - whole[1]).abs().max() <= TOLERANCE


def test_tiles_see_their_piece_of_the_landmark_picture() -> None:
    """Tiled diffusion: the rows are tiles; hint and region are those of the tile, not of the whole picture."""
    setting = Setting("sd15", "ldm")
    batch = Batch.draw("sd15", rows=4)  # two tiles of 16 x 16 of a frame of 16 x 24, each uncond and cond
    tiles = [Tile((16, 24), 0, 0), Tile((16, 24), 0, 8)]
    rows = [Row(0, cond, tile) for tile in tiles for cond in (False, True)]
    region = torch.linspace(0, 1, 24).expand(16, 24)
    with attach(setting.unet, [], RowPlan(rows), [setting.person(region=region)], Speed.EXACT):
        ours = run(setting.unet, batch)
    with torch.no_grad():
        hint = setting.net.embed_hint(setting.picture(ControlView((128, 192), 0, 0, 128, 192)))
    for i, tile in enumerate(tiles):
        part = batch.rows(slice(2 * i, 2 * i + 2))
        piece = slice(tile.left, tile.left + 16)
        with torch.no_grad():
            down, mid = setting.net(part.x, part.t, setting.tokens, hint[..., piece])
        weights = region[:, piece][None, None]
        maps = [r * F.adaptive_avg_pool2d(weights, r.shape[-2:]) for r in (*down, mid)]
        assert (ours[2 * i : 2 * i + 2] - setting.expected(part, maps)).abs().max() <= TOLERANCE
    assert setting.views == [ControlView((128, 192), 0, 0, 128, 192)]


@pytest.mark.parametrize(("unet_type", "net_type"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_unet_and_network_may_differ_in_precision(unet_type: str, net_type: str) -> None:
    setting = Setting("sdxl", "diffusers", own=True)
    batch, person = Batch.draw("sdxl"), setting.person()
    exact = attached(setting, batch, person) - run(setting.unet, batch)
    setting.unet.to(getattr(torch, unet_type))
    setting.net.to(getattr(torch, net_type))
    batch = batch.to(getattr(torch, unet_type))
    ours = attached(setting, batch, person)
    assert ours.dtype == getattr(torch, unet_type)
    effect = ours.float() - run(setting.unet, batch).float()
    assert (effect - exact).abs().mean() < 0.1 * exact.abs().mean()
