"""Samples: drops at their rates, and what stands in for what was dropped; the identity loss learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facesnap.training.config import DropConfig, load_config
from facesnap.training.data import collate, draw_drops, draw_timestep
from facesnap.training.draws import Purpose, generator
from facesnap.training.trainer import Trainer


def test_drops_come_at_their_rates_and_together_only_where_asked_for() -> None:
    drops = DropConfig(text=0.2, identity=0.1, both=0.15, landmarks=0.3)
    draws = np.array([draw_drops(drops, generator(0, Purpose.DROPS, 7, slot)) for slot in range(8000)])
    text, identity, landmarks = draws.T
    for found, wanted in (
        (text & identity, 0.15),
        (text & ~identity, 0.2),
        (identity & ~text, 0.1),
        (landmarks, 0.3),
        (landmarks & text, 0.3 * 0.35),  # independent of the others
    ):
        assert abs(found.mean() - wanted) < 4 * (wanted * (1 - wanted) / len(draws)) ** 0.5


@pytest.mark.parametrize("shift", (1.0, 3.0))
def test_a_shift_draws_noisy_timesteps_more_often(shift: float) -> None:
    """Even without it; with it the share above t is that above t / (s - (s - 1) t)."""
    drawn = np.array([draw_timestep(1000, shift, np.random.default_rng(i)) for i in range(3000)])
    assert drawn.min() >= 0 and drawn.max() < 1000
    for t in (0.25, 0.5, 0.75):
        wanted = 1 - t / (shift - (shift - 1) * t)
        assert abs((drawn >= t * 1000).mean() - wanted) < 4 * (wanted * (1 - wanted) / len(drawn)) ** 0.5


def test_what_is_dropped_is_unconditional_an_empty_prompt_and_black(changes) -> None:
    def sample(**drops: float) -> dict:
        chosen = {"text": 0.0, "identity": 0.0, "both": 0.0, "landmarks": 0.0} | drops
        return Trainer(load_config("tiny-cpu", changes | {"drops": chosen})).samples[(0, 0)]

    whole, dropped = sample(), sample(both=1.0, landmarks=1.0)
    assert whole["caption"] and dropped["caption"] == ""
    assert float(whole["f_id"].norm()) == pytest.approx(1.0, abs=1e-4) and float(dropped["f_id"].abs().max()) == 0
    assert float(whole["landmarks"].max()) > 0.5 and float(dropped["landmarks"].max()) == 0
    level = next(name for name in whole if name.startswith("hidden"))
    assert not torch.equal(whole[level], dropped[level])
    for name in ("latents", "noise"):  # a drop changes nothing else
        assert torch.equal(whole[name], dropped[name])


def test_the_identity_loss_brings_faces_nearer_to_the_judge(prepared_f4, tmp_path: Path) -> None:
    """On a few samples that are seen again and again; without the loss the same training does not do it."""

    def distance_after(weight: float) -> tuple[float, float]:
        stage = {"name": "a", "steps": 24, "warmup": 1, "lr": {"mixer": 3e-3, "projections": 3e-3},
                 "losses": {"identity": weight, "identity_from": 0.1}}  # fmt: skip
        trainer = Trainer(load_config("tiny-cpu", {
            "base.model": str(prepared_f4.model), "data.folder": str(prepared_f4.data), "adapter.ffrnet": "none",
            "output": str(tmp_path / str(weight)), "recogniser": str(prepared_f4.judge), "stages": [stage],
            "optimiser.batch": 4, "drops": {"text": 0, "identity": 0, "both": 0}, "optimiser.ema": 0,
            "noise.shift": 1.0,  # more steps in which faces can be judged
        }))  # fmt: skip
        judge = trainer.config.stages[0].losses.model_copy(update={"identity": 1.0})
        batch = collate([trainer.samples[(0, slot)] for slot in range(4)])
        batch["timestep"] = torch.tensor([50, 150, 250, 350])

        def distance() -> float:
            with torch.no_grad(), trainer.module.wiring:
                inputs, target, alpha_bar = trainer.objective.inputs(batch)
                output = trainer.module(inputs)
                terms = trainer.objective.terms(output, target, alpha_bar, inputs.latents, batch, judge)
                return float(terms["identity"])

        before = distance()
        trainer.fit()
        return before, distance()

    before, after = distance_after(1000.0)
    _, without = distance_after(1e-6)
    assert after < 0.9 * before and after < 0.9 * without, (before, after, without)
