"""One global batch, however it is cut: into micro-batches, or over processes.

Noise, timesteps and drops follow from seed, step and place in the global batch, and every loss is a mean over samples,
so the gradient is the same function. What differs is rounding, and Adam amplifies it: a fresh adapter's gradients are
partly near zero, and whatever they are, Adam makes steps of the learning rate of them. Over 20 steps at 1e-4 losses
that begin 5e-8 apart end 1e-3 apart with eps 1e-8, a few 1e-5 to 6e-4 with eps 1e-3, which gives such gradients small
steps; at 1e-5 and 1e-8 it is 4e-5. Hence gradients are compared in float64, losses at 1e-5 with 1e-3, and the way
that the weights have gone, which the low rate does not hide.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from facesnap.training import runs
from facesnap.training.config import load_config
from facesnap.training.data import collate
from facesnap.training.trainer import Trainer
from tests.training.conftest import changes_for
from tests.training.test_runs import ROOT, environment, write_config

RATES = {"mixer": 1e-5, "projections": 1e-5, "ffrnet": 1e-5}
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
        assert float((whole["loss"] - other["loss"]).abs() / whole["loss"]) > 1e-3  # other samples do change it


ALIGN = {
    "name": "align", "steps": 2, "warmup": 1, "lr": {"mixer": 1e-4, "projections": 1e-4},
    "align": {"steps": 2, "semantic": 1.0, "layout": 1.0},
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "losses": {"stages": _stage(4)},
    "align": {"stages": [ALIGN], "adapter.ffrnet": "none"},
}
BOTH = """
import sys
from facesnap.cli import main
sys.exit(max(main(["train", config]) for config in sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def two_processes(prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The runs of WAYS over two processes with batch 2 each (gloo): what changes the configuration, by name."""
    folder, runs_of, files = tmp_path_factory.mktemp("two"), {}, []
    for name, way in WAYS.items():
        runs_of[name] = changes_for(prepared, folder / name) | way | {"optimiser.eps": 1e-3, "checkpoints.every": 20}
        files.append(str(write_config(folder / f"{name}.yaml", runs_of[name])))
    (folder / "both.py").write_text(BOTH, encoding="utf-8")
    # `accelerate launch --cpu` needs MPI for more than one process; torchrun sets what accelerate reads.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(folder / "both.py"), *files,
    ]  # fmt: skip
    env = environment() | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return runs_of


def _compared(changes: dict[str, Any], output: Path) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Log lines of one process with batch 4 beside those of two; their weights have gone the same way."""
    trainer = Trainer(load_config("tiny-cpu", changes | {"optimiser.batch": 4, "output": str(output)}))
    start = {name: parameter.detach().clone() for name, parameter in trainer.module.named_parameters()}
    folders = (trainer.fit(), runs.checkpoints(Path(changes["output"]))[-1])
    assert folders[0].name == folders[1].name
    assert json.loads((folders[1] / runs.STATE).read_text("utf-8"))["global_batch"] == 4
    weights = [load_file(folder / runs.WEIGHTS) for folder in folders]
    one, two = (torch.cat([(w[name] - start[name]).flatten() for name in w]) for w in weights)
    assert (one - two).norm() < 0.01 * one.norm() and one.abs().max() > 1e-6
    logs = [(folder.parent / "log.jsonl").read_text("utf-8").splitlines() for folder in folders]
    return [(json.loads(a), json.loads(b)) for a, b in zip(*logs, strict=True)]


def test_two_processes_give_the_losses_of_one(two_processes, tmp_path: Path) -> None:
    lines = _compared(two_processes["losses"], tmp_path / "one")
    for one, two in lines:
        for name in ("loss", "diffusion", "face_box"):
            assert abs(one[name] - two[name]) <= 1e-4 * abs(one[name]), (one["step"], name, one, two)
        assert abs(one["leak"] - two["leak"]) <= 1e-4 * one["loss"]  # a fresh FFRNet leaks 1e-4: a part of the loss
    assert len({round(one["loss"], 6) for one, _ in lines}) == 4


def test_two_processes_align_as_one(two_processes, tmp_path: Path) -> None:
    """The alignment's sampling calls the network several times before one exchange of gradients."""
    lines = _compared(two_processes["align"], tmp_path / "one")
    last = lines[-1][0]["align"]
    for one, two in lines:
        assert abs(one["diffusion"] - two["diffusion"]) <= 1e-4 * one["diffusion"], (one, two)
        assert abs(one["align"] - two["align"]) <= 1e-2 * last, (one, two)
    assert last > 10 * lines[0][0]["align"]
