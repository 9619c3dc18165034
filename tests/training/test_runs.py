"""Runs: one goes on after a kill to the very bits."""

from __future__ import annotations

import json
import os
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


def _lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]


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


STOPS = """
import sys, time
from pathlib import Path
from facesnap.cli import main
from facesnap.training import runs
real = runs.RunLog.__call__
def stops(log, step, values):
    real(log, step, values)
    if step == 3:  # the checkpoint of step 2 is whole; the process waits to be killed
        Path(sys.argv[2]).touch()
        time.sleep(600)
runs.RunLog.__call__ = stops
main(["train", sys.argv[1]])
"""


def kill_when(reached: Path, arguments: list[str]) -> None:
    """Start Python and kill it as soon as a file is there."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    while not reached.is_file() and process.poll() is None:
        time.sleep(0.05)
    ended = process.poll()
    process.kill()
    said, _ = process.communicate()
    assert ended is None, said


def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(changes, tmp_path: Path) -> None:
    """kill -9 in the middle of a stage, after a checkpoint, with a torn one beside it; the last stage samples."""
    stages = _stage(4) + _stage(2, align={"steps": 2, "semantic": 1.0, "layout": 1.0})
    stages[1]["name"] = "sampled"
    steps = {"stages": stages, "checkpoints.every": 2}
    whole = _train(changes, **steps)
    broken = tmp_path / "broken"
    config = write_config(tmp_path / "config.yaml", changes | steps | {"output": str(broken)})
    kill_when(tmp_path / "reached", ["-c", STOPS, str(config), str(tmp_path / "reached")])
    assert [path.name for path in runs.checkpoints(broken)] == ["step-00000002"]
    assert [line["step"] for line in _lines(broken)] == [0, 1, 2, 3]
    (broken / "step-00000005.partial").mkdir()
    again = _train(changes, **steps, output=str(broken))
    for name in (runs.WEIGHTS, runs.EMA):
        a, b = (load_file(t.config.output / "step-00000006" / name) for t in (whole, again))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert _lines(whole.config.output) == _lines(broken)
    assert [line["step"] for line in _lines(broken) if line.get("align", 0.0) > 0.0] == [4, 5]
