"""The trainer learns; its rates follow the configuration."""

from __future__ import annotations

import pytest
import torch

from facesnap.checkpoints import native
from facesnap.training import runs
from facesnap.training.config import load_config
from facesnap.training.trainer import Trainer, learning_rate


def test_a_rehearsal_reduces_the_loss_of_a_fixed_batch(changes) -> None:
    trainer = Trainer(load_config("tiny-cpu", changes))
    batch = [trainer.samples[(10_000, slot)] for slot in range(8)]

    def loss() -> float:
        from facesnap.training.data import collate

        together = collate(batch)
        with torch.no_grad(), trainer.module.wiring:
            inputs, target, alpha_bar = trainer.objective.inputs(together)
            terms = trainer.objective.terms(
                trainer.module(inputs), target, alpha_bar, inputs.latents, together, trainer.config.stages[0].losses
            )
        return float(terms["diffusion"])

    before = loss()
    folder = trainer.fit()
    after = loss()
    assert after < 0.9 * before, (before, after)
    saved = native.load(folder / runs.ADAPTER)
    assert saved.spec.recogniser == trainer.shards.head["recogniser"] and saved.ffrnet is not None
    average = trainer.ema.average["mixer.stage1.norm.weight"]
    assert torch.equal(saved.mixer.stage1.norm.weight, average)
    assert not torch.equal(average, trainer.module.mixer.stage1.norm.weight)


def test_learning_rates() -> None:
    stage = load_config("tiny-cpu").stages[0].model_copy(update={"warmup": 4, "steps": 12, "schedule": "cosine"})
    rates = [learning_rate(stage, 1.0, step) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0 and rates[8] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] > 0
