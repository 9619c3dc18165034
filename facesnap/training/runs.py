"""The folder of a run: atomic checkpoints, the newest of them, and the log."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import CheckpointError, importing
from facesnap.training.network_files import save_tensors

STATE, WEIGHTS, EMA, MOMENTS = "state.json", "weights.safetensors", "ema.safetensors", "moments.pt"
ADAPTER = "adapter.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    ema: dict[str, Tensor] | None,
    moments: dict[str, Any],
    adapter: Adapter,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `step-00001000`; it appears whole or not at all, and only the newest `keep` stay.

    Args:
        weights: of all trained parts. moments: of the optimiser, and the loss scale. adapter: what people use.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_tensors(weights, partial / WEIGHTS)
    if ema is not None:
        save_tensors(ema, partial / EMA)
    torch.save(moments, partial / MOMENTS)
    native.save(adapter, partial / ADAPTER)
    (partial / STATE).write_text(json.dumps(state | {"step": step}), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, the oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial" and (path / STATE).is_file())


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any]]:
    """(state, weights, EMA or None, moments) of a checkpoint; CheckpointError where it cannot be read."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        ema = load_file(path / EMA) if (path / EMA).is_file() else None
        moments = torch.load(path / MOMENTS, map_location="cpu", weights_only=True)
        return state, load_file(path / WEIGHTS), ema, moments
    except Exception as error:  # safetensors and torch raise kinds of their own
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {error}).",
            expected="a folder that this version of FaceSnap wrote",
            remedy="delete it to go on from the one before it, or train anew with --no-resume",
        ) from error


class RunLog:
    """Numbers by step, in a file of JSON lines and, where asked for, in TensorBoard or Weights & Biases.

    Raises:
        MissingDependencyError: the tool asked for is not installed.
    """

    def __init__(self, folder: Path, kind: str, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "log.jsonl"
        if self.file.is_file():  # drop what an interrupted run logged after the checkpoint that is gone on from
            lines = self.file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) < step]
            self.file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._add: Any = None
        with importing(
            f"The log {kind!r} was asked for, and it cannot be imported",
            kind,
            f"pip install {kind}, or set log to jsonl",
        ):
            if kind == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
                self._add = lambda at, values: [writer.add_scalar(k, v, at) for k, v in values.items()]  # type: ignore[func-returns-value]
            elif kind == "wandb":
                import wandb

                run = wandb.init(dir=str(folder), id=folder.name, resume="allow")
                self._add = lambda at, values: run.log(values, step=at)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step} | values) + "\n")
        if self._add is not None:
            self._add(step, values)


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # the last line of a killed run may be torn
