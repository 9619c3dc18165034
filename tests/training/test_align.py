"""L_align: nothing where the adapter leaves the prompt alone, and less of it after it was trained against."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from facesnap.demo.untrained import draw
from facesnap.errors import SettingsError
from facesnap.training.align import FeatureReader, ddim_step, layout_loss, semantic_loss, timesteps
from facesnap.training.config import Alignment, load_config
from facesnap.training.data import collate
from facesnap.training.trainer import Trainer

RATES = {"mixer": 1e-3, "projections": 1e-3}


def _trainer(changes: dict[str, Any], steps: int = 2, layout: float = 1.0) -> Trainer:
    align = {"steps": 2, "layout": layout}
    stages = [{"name": "align", "steps": steps, "warmup": 1, "lr": RATES, "align": align}]
    return Trainer(load_config("tiny-cpu", changes | {"stages": stages, "adapter.ffrnet": "none"}))


def _terms(trainer: Trainer) -> dict[str, torch.Tensor]:
    batch = collate([trainer.samples[(0, slot)] for slot in range(2)])
    inputs, *_ = trainer.objective.inputs(batch)
    with trainer.module.wiring:
        return trainer.objective.align(trainer.module, trainer.module, inputs, batch, trainer.config.stages[0].align)


def test_the_terms_written_out() -> None:
    g = torch.Generator().manual_seed(0)
    a, b, k = torch.randn(2, 9, 8, generator=g), torch.randn(2, 9, 8, generator=g), torch.randn(2, 5, 8, generator=g)
    found = semantic_loss(a, b, k, heads=2)
    for i in range(2):
        parts = []
        for h in (slice(0, 4), slice(4, 8)):
            means = [torch.softmax(k[i, :, h] @ q[i, :, h].T / 2, dim=1) @ q[i, :, h] for q in (a, b)]
            parts.append((means[0] - means[1]).square())
        assert found[i] == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)
    torch.testing.assert_close(layout_loss(a, b), (a - b).square().mean((1, 2)))
    assert timesteps(4, 1000) == [999, 749, 499, 249]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_sampling_is_diffusers_ddim(kind: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, prediction_type=kind,
        timestep_spacing="trailing", set_alpha_to_one=True,
    )  # fmt: skip
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == timesteps(4, 1000)
    x, prediction = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    wanted = scheduler.step(prediction, 749, x)
    x_next, clean = ddim_step(kind, prediction, x, scheduler.alphas_cumprod[749], scheduler.alphas_cumprod[499])
    torch.testing.assert_close(x_next, wanted.prev_sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clean, wanted.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_a_fresh_adapter_is_aligned_and_a_drawn_one_is_not(changes) -> None:
    trainer = _trainer(changes)
    assert float(_terms(trainer)["align"]) == 0.0
    draw(trainer.module.projections, 3)
    trainer.module.requires_grad_(True)
    found = _terms(trainer)
    values = {name: value.detach().item() for name, value in found.items()}
    assert values["align.semantic"] > 1e-4 and values["align.layout"] > 1e-4
    assert values["align"] == pytest.approx(0.6 * values["align.semantic"] + values["align.layout"])
    found["align"].backward()
    assert all(p.grad is None for p in trainer.host.unet.parameters())
    assert float(trainer.module.mixer.stage1.norm.weight.grad.abs().max()) > 0
    for site in trainer.module.wiring.topology.sites:
        assert not site.to_q._forward_hooks and not site.module.to_k._forward_hooks


def test_recomputing_blocks_changes_no_gradient(changes) -> None:
    gradients = []
    for saving in (False, True):
        trainer = _trainer(changes | {"save_activations": saving})
        draw(trainer.module.projections, 3)
        trainer.module.requires_grad_(True)
        batch = collate([trainer.samples[(0, slot)] for slot in range(2)])
        inputs, *_ = trainer.objective.inputs(batch)
        with trainer.module.wiring:
            own, wanted = trainer.module, trainer.config.stages[0].align
            trainer.objective.align(own, own, inputs, batch, wanted)["align"].backward()
        gradients.append({n: p.grad for n, p in trainer.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-7)


def test_training_against_it_lowers_it(changes) -> None:
    trainer = _trainer(changes, steps=12, layout=300.0)  # far above the diffusion loss, which wants the opposite
    draw(trainer.module.projections, 3, gain=0.3)
    before = float(_terms(trainer)["align"].detach())
    trainer.fit()
    assert float(_terms(trainer)["align"].detach()) < 0.9 * before


def test_identity_in_it_needs_to_know_where_the_face_is(changes) -> None:
    stages = [{"name": "a", "steps": 1, "lr": RATES, "align": {"identity": 1.0}}]
    with pytest.raises(SettingsError, match="recogniser"):
        load_config("tiny-cpu", changes | {"stages": stages})
    with pytest.raises(SettingsError, match="where the sampled face is"):
        load_config("tiny-cpu", changes | {"stages": stages, "adapter.ffrnet": "none", "recogniser": "x"})
    assert Alignment().identity == 0.0


def test_the_reader_lets_go(changes) -> None:
    trainer = _trainer(changes)
    reader = FeatureReader(trainer.module.wiring.topology)
    with pytest.raises(ZeroDivisionError), reader.reading():
        raise ZeroDivisionError
    assert all(not site.to_q._forward_hooks for site in reader.topology.sites)
