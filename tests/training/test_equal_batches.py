"""One global batch, however it is cut: into micro-batches, or over processes.

Noise, timesteps and drops follow from seed, step and place in the global batch, and every loss is a mean over samples,
so the gradient is the same function. What differs is rounding, and training amplifies it: on random networks at a
learning rate of 1e-3 a difference of 5e-8 in the first loss is 2e-3 six steps later. Hence gradients are compared in
float64, and losses at a rate at which the run is stable.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from facesnap.training import runs
from facesnap.training.config import load_config
from facesnap.training.data import collate
from facesnap.training.trainer import Trainer
from tests.training.test_runs import ROOT, environment, write_config

RATES = {"mixer": 1e-4, "projections": 1e-4, "ffrnet": 1e-4}
LOSSES = {"face_box": 1.0, "leak": 0.1}


def _stage(steps: int) -> list[dict[str, Any]]:
    return [{"name": "all", "steps": steps, "warmup": 2, "lr": RATES, "losses": LOSSES}]


def _gradients(trainer: Trainer, parts: list[list[tuple[int, int]]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Gradients of the mean loss over micro-batches, as the trainer accumulates them; "loss" among them."""
    module = trainer.module.to(dtype).requires_grad_(True)
    module.unet.to(dtype)
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    with module.wiring:
        for keys in parts:
            batch = collate([trainer.samples[key] for key in keys])
            inputs, target, alpha_bar = trainer.objective.inputs(batch)
            values = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    values[name] = value.to(dtype)
            values["hidden"] = {level: states.to(dtype) for level, states in inputs.hidden.items()}
            inputs = type(inputs)(**values)
            terms = trainer.objective.terms(
                module(inputs), target, alpha_bar, inputs.latents, batch, trainer.config.stages[0].losses
            )
            (terms["loss"] / len(parts)).backward()
            total += terms["loss"].detach().double() / len(parts)
    return {"loss": total} | {n: p.grad.double().clone() for n, p in module.named_parameters() if p.grad is not None}


def test_micro_batches_give_the_gradient_of_the_whole_batch(changes) -> None:
    trainer = Trainer(load_config("tiny-cpu", changes | {"stages": _stage(2), "optimiser.batch": 4}))
    keys = [(0, slot) for slot in range(4)]
    for dtype, bound in ((torch.float64, 1e-6), (torch.float32, 1e-3)):  # the loss itself is taken in float32
        whole = _gradients(trainer, [keys], dtype)
        parts = _gradients(trainer, [keys[:2], keys[2:]], dtype)
        other = _gradients(trainer, [keys[:2], keys[:2]], dtype)
        assert whole.keys() == parts.keys() and len(whole) > 100
        error = {n: float((whole[n] - parts[n]).norm() / whole[n].norm().clamp(min=1e-12)) for n in whole}
        assert max(error.values()) < bound, max(error.items(), key=lambda item: item[1])
        assert error["loss"] < 1e-6
        assert float((whole["loss"] - other["loss"]).abs() / whole["loss"]) > 1e-2  # other samples do change it


def test_two_processes_give_the_losses_of_one(changes, tmp_path: Path) -> None:
    """accelerate over gloo: batch 2 in each of two processes against batch 4 in one, 20 steps."""
    logs = {}
    for processes, batch in ((1, 4), (2, 2)):
        output = tmp_path / f"run{processes}"
        more = {
            "stages": _stage(20), "optimiser.batch": batch, "output": str(output), "checkpoints.every": 20,
            "samples.every": 0,
        }  # fmt: skip
        config = write_config(tmp_path / f"{processes}.yaml", changes | more)
        # `accelerate launch --cpu` needs MPI for more than one process; torchrun sets what accelerate reads.
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
            "-m", "facesnap", "train", str(config),
        ]  # fmt: skip
        env = environment() | {"ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        state = json.loads((output / "step-00000020" / runs.STATE).read_text("utf-8"))
        assert state["global_batch"] == 4, state
        logs[processes] = [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in logs[2]] == list(range(20)) == [line["step"] for line in logs[1]]
    for one, two in zip(logs[1], logs[2], strict=True):
        for name in ("loss", "diffusion", "face_box", "leak"):
            assert abs(one[name] - two[name]) <= 1e-4 * abs(one[name]) + 1e-9, (one["step"], name, one, two)
    assert len({round(line["loss"], 6) for line in logs[1]}) == 20
