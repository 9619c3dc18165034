"""`facesnap bench ffrnet`: cost of FFRNet on an SD1.5-shaped UNet, beside diffusers' ControlNet, and of its speeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from facesnap.attach import (
    Attachment,
    ControlConditioning,
    ControlPictures,
    ControlView,
    RowPlan,
    Speed,
    attach,
    read_topology,
)
from facesnap.attach.inputs import UNetInputs
from facesnap.attach.residual_cache import ResidualCache
from facesnap.bench.attach import CONTEXT, batch, installed, sd15_unet
from facesnap.bench.timing import Variant, ratio, rounds
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Fit
from facesnap.landmarks.pose import View as Pose
from facesnap.landmarks.predictor import Landmarks
from facesnap.landmarks.recombination import PoseSpec, recombine
from facesnap.models.drawn import draw
from facesnap.models.fidelity import FFRNet
from facesnap.pipeline.shape import Shape
from facesnap.pipeline.shape import draw as draw_pictures

TOKENS = 16  # of f_mix
CFG = 7.0
FACE_SIZE = 0.3  # brows to chin, of the frame: head and shoulders
HIGH_T = 520  # of the step before `batch`'s
KINDS = ("computed", "reused", "skipped")


@dataclass(frozen=True)
class Networks:
    """A UNet, diffusers' ControlNet and an FFRNet on the same weights, and a person."""

    unet: Any
    controlnet: Any
    person: ControlConditioning
    tokens: Tensor  # (2, TOKENS, CONTEXT): uncond, cond
    picture: Tensor  # (1, 3, 8 latent, 8 latent)


def run(
    *, count: int = 5, latent: int = 32, channels: int = 320, steps: int = 30, diff_channels: int = 64,
    window: tuple[float, float] = (0.0, 1.0), device: str = "cpu", dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:  # fmt: skip
    """Measure on random weights, every parameter drawn, the zero convolutions too.

    Args:
        count: rounds after one for warm-up. latent: side of the square latent. channels: of the UNet's first level.
        steps: of the schedule that mean step times are put together for, and of the sampling behind `diff`.
        diff_channels: of the smaller UNet that `diff` is measured on. window: of FFRNet, fractions of the sampling.
        device, dtype: of all networks.

    Returns:
        The report; ratios are medians of per-round ratios with quartiles.
    """
    bench = make(channels, latent, device, dtype)
    schedule = {speed: count_steps(speed, steps, window) for speed in Speed}
    seconds, results = _time(bench, count, latent, schedule)
    mean = {}  # step time of each schedule, (rounds,)
    for speed, counts in schedule.items():
        parts = [n * seconds[f"{speed.value} {kind}"] for n, kind in zip(counts, KINDS, strict=True) if n]
        mean[speed] = np.sum(parts, axis=0) / sum(counts)
    parameters = sum(p.numel() for p in bench.unet.parameters())
    cpu = f"cpu, {torch.get_num_threads()} threads"
    report = {
        "unet": {"layout": "sd15", "channels": channels, "parameters": parameters},
        "ffrnet_parameters": sum(p.numel() for p in bench.person.net.parameters()),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else cpu,
        "dtype": str(dtype).removeprefix("torch."), "latent": latent, "batch": 2, "rounds": count, "steps": steps,
        "window": list(window), "face_box": [round(side, 4) for side in bench.person.face or ()],
        "bare": round(float(np.median(seconds["bare"])), 4),
        "diffusers_controlnet": ratio(seconds["diffusers"], seconds["bare"]),
        **{speed.value: ratio(mean[speed], seconds["bare"]) for speed in Speed},
        "bare_vs_bare_ratio": ratio(seconds["again"], seconds["bare"]),
        "exact_vs_diffusers_ratio": ratio(mean[Speed.EXACT], seconds["diffusers"]),
        "schedule": {speed.value: dict(zip(KINDS, schedule[speed], strict=True)) for speed in Speed},
        "step_seconds": {name: round(float(np.median(values)), 4) for name, values in seconds.items()},
        "max_abs_diff": float((results["exact computed"] - results["diffusers"]).abs().max()),
        "effect": float((results["exact computed"] - results["bare"]).abs().max()),
        "bit_identical_afterwards": bool(torch.equal(results["bare"], results["again"])),
    }  # fmt: skip
    del bench
    report["diff"] = differences(diff_channels, latent, steps, window, device, dtype)
    return report


def make(channels: int, latent: int, device: str, dtype: torch.dtype) -> Networks:
    """All networks of one measurement; ControlNet and FFRNet share their tensors."""
    unet = sd15_unet(channels, device, dtype)
    from diffusers import ControlNetModel

    controlnet: Any = ControlNetModel.from_unet(unet)
    draw(controlnet, 3)
    draw(controlnet.controlnet_cond_embedding, 4, gain=1.7)
    controlnet.to(device, dtype)
    net = FFRNet.from_state_dict(controlnet.state_dict())
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randn(2, TOKENS, CONTEXT, generator=generator).to(device, dtype)
    shape = head((8 * latent, 8 * latent))
    uncond, cond = (net.project_tokens(one[None]) for one in tokens)

    def drawn(view: ControlView) -> ControlPictures:
        return draw_pictures(shape, view, net.config)

    whole = drawn(ControlView((8 * latent, 8 * latent), 0, 0, 8 * latent, 8 * latent)).landmarks
    assert whole is not None
    person = ControlConditioning(net, cond, drawn, uncond, face=shape.landmarks.box)
    return Networks(unet, controlnet, person, tokens, whole.to(device, dtype))


def head(size: tuple[int, int]) -> Shape:
    """The mean face, smiling a little, turned by 20 degrees; height FACE_SIZE of the frame."""
    basis = Basis.load()
    view = Pose(np.zeros(len(basis.expression)), 1.0, np.eye(3), np.zeros(2), size, 0.0)
    mean_face = Fit(np.zeros(len(basis.identity)), (view,), np.zeros_like(basis.mean), 0.0)
    pose = PoseSpec(yaw=20.0, position=(0.5, 0.4), size=FACE_SIZE, expression="smile:0.6")
    return Shape(Landmarks(recombine(basis, mean_face, pose, size=size)), size)


def count_steps(speed: Speed, steps: int, window: tuple[float, float] = (0.0, 1.0)) -> tuple[int, int, int]:
    """Counts of steps of a first-order sampling that compute, reuse and skip FFRNet, by the attachment's own rules."""
    reuse: ResidualCache[None] = ResidualCache()
    active = 0
    for i in range(steps):
        plan = RowPlan((), progress=i / steps, steps=steps)
        if not (window[0] <= plan.progress < window[1]):
            continue
        active += 1
        if speed is not Speed.EXACT:
            reuse.get("cfg", (float(steps - i),), plan, lambda: None)
    return active - reuse.reused, reuse.reused, steps - active


def _time(
    bench: Networks, count: int, latent: int, schedule: dict[Speed, tuple[int, int, int]]
) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """Seconds of every kind of step, interleaved round by round, and what the UNet gave."""
    unet = bench.unet
    x, t, context = batch(latent, unet.device, unet.dtype)
    results: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(name: str) -> None:
        results[name] = unet(x, t, context).sample

    pictures = bench.picture.expand(2, -1, -1, -1)

    @torch.no_grad()
    def theirs() -> None:
        down, middle = bench.controlnet(x, t, bench.tokens, pictures, return_dict=False)
        results["diffusers"] = unet(
            x, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample

    variants = {"bare": Variant(partial(step, "bare")), "diffusers": Variant(theirs)}
    topology = read_topology(unet)
    for speed in Speed:
        person = Attachment(unet, topology, [], RowPlan.classifier_free(), [bench.person], speed)
        idle = Attachment(unet, topology, [], RowPlan.classifier_free(), [replace(bench.person, end=0.0)], speed)
        kinds = {"computed": (person, False), "reused": (person, True), "skipped": (idle, False)}
        for n, (kind, (attachment, primed)) in zip(schedule[speed], kinds.items(), strict=True):
            if n == 0:
                continue
            name = f"{speed.value} {kind}"
            variants[name] = Variant(partial(step, name), partial(_installed, attachment, x if primed else None))
    variants["again"] = Variant(partial(step, "again"))
    with tqdm(total=count + 1, desc="rounds", unit="round") as bar:
        seconds = rounds(variants, count, on_round=bar.update)
    return seconds, results


@contextlib.contextmanager
def _installed(attachment: Attachment, x: Tensor | None) -> Iterator[None]:
    """An attachment in the middle of a sampling; with `x`, one whose residuals of the sigma before are kept."""
    attachment.plan.progress, attachment.plan.steps = 0.5, 30
    with installed(attachment):
        if x is not None:
            t = torch.full((len(x),), HIGH_T, device=x.device)
            with torch.no_grad():
                attachment.residuals.begin(UNetInputs(x, t, None), attachment.plan.for_batch(len(x)), attachment.plan)
            attachment.residuals.end()
        yield
        if x is not None and attachment.residuals.reuse.reused == 0:
            raise AssertionError("the step that was timed as reused was computed")


def differences(
    channels: int, latent: int, steps: int, window: tuple[float, float], device: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Distance of the final latents of each setting from those of `exact`, on a real sampling with DDIM and CFG.

    Random weights make the worst case: nothing in them makes neighbouring steps alike or guidance gentle. `off`
    (no FFRNet at all) gives the scale. `cond_rows` is exact without FFRNet on uncond rows, which balanced and fast
    share; `balanced_from_cond_rows` is what reuse alone changes.
    """
    bench = make(channels, latent, device, dtype)
    person = replace(bench.person, start=window[0], end=window[1])
    latents = {speed.value: sample(bench, [person], speed, latent, steps) for speed in Speed}
    latents["cond_rows"] = sample(bench, [replace(person, uncond=None)], Speed.EXACT, latent, steps)
    latents["off"] = sample(bench, [], Speed.EXACT, latent, steps)
    exact = latents["exact"]
    report: dict[str, Any] = {name: _difference(x, exact) for name, x in latents.items() if name != "exact"}
    report["balanced_from_cond_rows"] = _difference(latents["balanced"], latents["cond_rows"])
    parameters = sum(p.numel() for p in bench.unet.parameters())
    return report | {
        "latent_std": float(exact.std()), "channels": channels, "parameters": parameters, "latent": latent,
        "steps": steps, "sampler": "DDIM", "cfg": CFG, "weights": "random",
    }  # fmt: skip


def _difference(a: Tensor, b: Tensor) -> dict[str, float]:
    return {"max": round(float((a - b).abs().max()), 4), "mean": round(float((a - b).abs().mean()), 4)}


@torch.no_grad()
def sample(bench: Networks, people: list[ControlConditioning], speed: Speed, latent: int, steps: int) -> Tensor:
    """Final latents (1, 4, latent, latent) float32."""
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(steps)
    device, dtype = bench.unet.device, bench.unet.dtype
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, latent, latent, generator=g).to(device, dtype)
    context = torch.randn(2, 77, CONTEXT, generator=g).to(device, dtype)
    plan = RowPlan.classifier_free()
    plan.steps = steps
    with attach(bench.unet, [], plan, people, speed):
        for i, t in enumerate(scheduler.timesteps):
            plan.progress = i / steps
            uncond, cond = bench.unet(torch.cat((x, x)), t.to(device), context).sample.chunk(2)
            x = scheduler.step(uncond + CFG * (cond - uncond), t, x).prev_sample
    return x.float()
