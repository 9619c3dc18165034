"""The plan's arithmetic: exact where it can be, and the ready-made configurations leave room on their cards."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from facesnap.errors import SettingsError
from facesnap.training.activations import CudaPrecision, SavedBytes
from facesnap.training.config import load_config
from facesnap.training.memory import networks, parameters, plan

CARDS = [
    ("sd15-12GB", "sd15", 12),
    ("sd15-24GB", "sd15", 24),
    ("sdxl-24GB", "sdxl", 24),
    ("sdxl-multi-gpu", "sdxl", 80),
]
FRAMEWORK = 2  # GiB of CUDA's context, buffers and fragments


@pytest.mark.parametrize(("name", "base", "card"), CARDS)
def test_ready_made_ones_fit_on_their_cards(name: str, base: str, card: float) -> None:
    found = plan(load_config(name), base)
    assert found.total / 2**30 < card - FRAMEWORK, found.lines(card)
    assert found.activations > 2**30
    assert f"{card:g} GiB: " in found.lines(card)[-1] and "left" in found.lines(card)[-1]


def test_the_sum_written_out() -> None:
    config = load_config("sd15-24GB")
    parts = parameters(networks(config, "sd15")[1])
    assert parts["projections"] == 2 * 768 * 2 * (5 * 320 + 5 * 640 + 6 * 1280) + 16  # k and v of two groups; gates
    assert 0.36e9 < parts["ffrnet"] < 0.363e9  # as public ControlNets have
    found, total = plan(config, "sd15"), sum(parts.values())
    assert (found.weights, found.gradients, found.moments, found.averages) == (
        4 * total,
        4 * total,
        8 * total,
        4 * total,
    )
    without = plan(load_config("sd15-24GB", {"optimiser.ema": 0}), "sd15")
    assert found.total - without.total == 4 * total


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(SettingsError, match="fresh adapters"):
        plan(load_config("tiny-cpu", {"adapter.start": "x.safetensors"}), "sd15")


def test_what_a_graph_keeps_is_counted_once() -> None:
    layer = torch.nn.Linear(10, 20)
    x = torch.zeros(3, 10, requires_grad=True)
    saved = SavedBytes(layer)
    with saved.counting():
        y = layer(x)  # keeps x
        z = y.exp()  # keeps z
        z.square().sum()  # keeps z, again
    assert saved.outside == 4 * (3 * 10 + 3 * 20)
    saved = SavedBytes(layer)
    with saved.counting():
        saved.block(lambda v: layer(v).exp().square(), x).sum()
    assert (saved.outside, saved.deepest) == (4 * 3 * 10, 4 * 3 * 20)


def test_the_count_without_numbers_is_that_of_a_real_step(tmp_path) -> None:
    """The same network with real tensors on the CPU, and torch's own attention."""
    from facesnap.demo import untrained
    from facesnap.training.wiring import Inputs, TrainableAdapter

    untrained.save_pipeline(tmp_path)
    from diffusers import UNet2DConditionModel

    real = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    g = torch.Generator().manual_seed(0)
    counts = {}
    for device in ("cpu", "meta"):
        unet = copy.deepcopy(real).to(device)
        adapter = untrained.make_adapter(unet.cpu() if device == "cpu" else real, recogniser="r", encoder="e")
        module = TrainableAdapter(unet, adapter).to(device).requires_grad_(True)
        values = {
            "latents": torch.randn(2, 4, 8, 8, generator=g), "timesteps": torch.tensor([10, 900]),
            "text": torch.randn(2, 77, untrained.CONTEXT, generator=g), "f_id": torch.randn(2, 1, 512, generator=g),
            "landmarks": torch.rand(2, 3, 64, 64, generator=g),
        }  # fmt: skip
        hidden = {level: torch.randn(2, 1, 50, untrained.CLIP_WIDTH, generator=g).to(device) for level in (-2, 1)}
        inputs = Inputs(**{name: value.to(device) for name, value in values.items()}, hidden=hidden)
        saved = SavedBytes(unet, module)
        with module.wiring, saved.counting(), CudaPrecision(None) if device == "meta" else contextlib.nullcontext():
            module(inputs)
        counts[device] = saved.outside
    assert counts["cpu"] > 1e6 and abs(counts["cpu"] - counts["meta"]) < 0.02 * counts["cpu"], counts


def test_activations_follow_the_batch_and_what_is_recomputed() -> None:
    def of(**changes: object) -> int:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        return plan(load_config("sd15-24GB", dotted), "sd15").activations

    def aligned(through: int, samples: int | None) -> int:
        align = {"steps": 4, "through": through, "samples": samples}
        rates = {"mixer": 1e-4, "projections": 1e-4, "ffrnet": 1e-5}
        return of(stages=[{"name": "align", "steps": 1, "lr": rates, "align": align}])

    whole, double, kept = of(), of(optimiser__batch=8), of(save_activations=False)
    assert aligned(1, None) == aligned(2, 2) < aligned(4, 2) < aligned(4, None) < 4 * aligned(1, None)
    assert 1.2 * whole < double < 2.05 * whole and kept > 3 * whole
    assert plan(load_config("sd15-24GB"), "sd15", side=256).activations < whole / 2


def test_the_stage_that_needs_the_most_counts_wherever_it_stands() -> None:
    """Stages that train other parts keep other graphs; one that trains the same parts with a judge keeps more."""
    less = {"name": "less", "steps": 1, "lr": {"mixer": 1e-4}}
    more = {"name": "more", "steps": 1, "lr": {"ffrnet": 1e-4}}
    judged = more | {"losses": {"identity": 0.1}}

    def of(*stages: dict) -> int:
        return plan(load_config("sd15-24GB", {"stages": list(stages), "save_activations": False}), "sd15").activations

    assert of(less, more, judged) == of(judged)
