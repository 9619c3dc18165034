"""Runs: one goes on after a kill to the very bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from facesnap.training import runs
from facesnap.training.config import load_config, ready_made
from facesnap.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


def _train(changes: dict[str, Any], **more: Any) -> Trainer:
    trainer = Trainer(load_config("tiny-cpu", changes | more))
    trainer.fit()
    return trainer


def _log(trainer: Trainer) -> list[dict[str, float]]:
    return [json.loads(line) for line in (trainer.config.output / "log.jsonl").read_text("utf-8").splitlines()]


def _stage(steps: int, **more: Any) -> list[dict[str, Any]]:
    rates = {"mixer": 1e-3, "projections": 1e-3, "ffrnet": 1e-3}
    return [{"name": "all", "steps": steps, "warmup": 2, "lr": rates, **more}]


def write_config(path: Path, changes: dict[str, Any]) -> Path:
    values = yaml.safe_load(ready_made()["tiny-cpu"])
    for key, value in changes.items():
        *section, last = key.split(".")
        inner = values
        for name in section:
            inner = inner.setdefault(name, {})
        inner[last] = value
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """Of a process that imports this very tree and sums with as many threads: the bits of sums depend on that."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}


def _command(*arguments: str, **kwargs: Any) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, **kwargs
    )  # fmt: skip


def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(changes, tmp_path: Path) -> None:
    """kill -9 in the middle of a stage, after a checkpoint, with a torn one beside it; the last stage samples."""
    stages = _stage(8) + _stage(4, align={"steps": 2, "semantic": 1.0, "layout": 1.0})
    stages[1]["name"] = "sampled"
    steps = {"stages": stages, "checkpoints.every": 4}
    whole = _train(changes, **steps)
    broken = tmp_path / "broken"
    config = write_config(tmp_path / "config.yaml", changes | steps | {"output": str(broken)})
    process = _command("-m", "facesnap", "train", str(config))
    deadline = time.monotonic() + 200
    while not runs.checkpoints(broken) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.stdout.read()
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.communicate()
    assert runs.checkpoints(broken)[0].name == "step-00000004"
    (broken / "step-00000011.partial").mkdir()
    again = _train(changes, **steps, output=str(broken))
    for name in (runs.WEIGHTS, runs.EMA):
        a, b = (load_file(t.config.output / "step-00000012" / name) for t in (whole, again))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert _log(whole) == _log(again)
    assert [line["step"] for line in _log(whole) if line.get("align", 0.0) > 0.0] == [8, 9, 10, 11]
