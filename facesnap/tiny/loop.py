"""The training loop of every stage: draws that follow from seed and step, atomic checkpoints, an averaged copy.

A run that was killed goes on from its last checkpoint and ends with the same bits as one that was not: a step draws
from (seed, stage, step) alone, and the checkpoint holds everything else.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facesnap.errors import CheckpointError, FaceSnapError, SettingsError
from facesnap.files import write_atomically

Say = Callable[[str], None]
Losses = dict[str, Tensor]
CHECKPOINT = "checkpoint.pt"
REPORT_EVERY = 50  # steps


@dataclass(frozen=True)
class Budget:
    """Steps, pictures and learning rate of a stage.

    Attributes:
        steps: of the optimiser. batch: pictures a step. rate: peak learning rate.
        warmup: steps of linear rise; a cosine then falls to a twentieth of the peak.
        half: compute in bfloat16 under autocast where that is faster; the weights stay float32.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    half: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise SettingsError(
                f"{self.steps} steps of {self.batch} pictures.",
                expected="at least one of both.",
                remedy="ask for more.",
            )

    def rate_at(self, step: int) -> float:
        """The learning rate of a step 0..steps-1."""
        warmup = min(self.warmup, max(self.steps // 10, 1))
        if step < warmup:
            return self.rate * (step + 1) / warmup
        along = (step - warmup) / max(self.steps - warmup, 1)
        return self.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * along)))

    @property
    def decay(self) -> float:
        """Of the averaged copy: about the last tenth of the steps."""
        return min(max(1 - 10 / self.steps, 0.0), 0.9995)


def fast_bfloat16() -> bool:
    """Whether this processor has AMX; without it, bfloat16 takes several times as long as float32."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())  # not in every torch


def channels_last(module: nn.Module) -> nn.Module:
    """The same module, its weights laid out so that a processor's convolutions take less time."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Draws:
    """The random numbers of one step: `numpy` for choices, `torch` for noise."""

    def __init__(self, seed: int, stage: str, step: int) -> None:
        self.numpy = np.random.default_rng([seed, zlib.crc32(stage.encode()), step])
        self.torch = torch.Generator().manual_seed(int(self.numpy.integers(1 << 62)))

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.torch)

    def rows(self, count: int, batch: int) -> np.ndarray:
        """(batch,) sorted rows of `count`; each at most once where there are enough."""
        return np.sort(self.numpy.choice(count, batch, replace=batch > count))


class Loop:
    """One stage's network while it is trained.

    Args:
        folder: of the stage; holds the checkpoint.
        stage: name, part of the seed.
        module: all that is trained; its weights are replaced by the checkpoint's where there is one.
        context: what the numbers depend on besides the budget, such as the data; a checkpoint made with another
            one is refused.

    Attributes:
        step: steps done. average: keeps the averaged copy.
    """

    def __init__(
        self, folder: Path, stage: str, module: nn.Module, budget: Budget, *, seed: int = 0, context: str = ""
    ) -> None:
        self.file, self.stage, self.budget, self.seed = folder / CHECKPOINT, stage, budget, seed
        self.module: Any = module.train()
        self.average = AveragedModel(module, avg_fn=self._averaged)
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=budget.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self._context = json.dumps([stage, seed, context, vars(budget)], sort_keys=True)
        if self.file.is_file():
            self._restore()

    def _averaged(self, old: Tensor, new: Tensor, count: Any) -> Tensor:
        decay = min(self.budget.decay, (1 + int(count)) / (10 + int(count)))
        return old + (1 - decay) * (new - old)

    def run(
        self,
        loss: Callable[[int, Draws], Losses],
        *,
        seconds: float = math.inf,
        save_every: float = 60.0,
        say: Say = lambda _: None,
    ) -> bool:
        """Train until all steps are done or the time is spent; a checkpoint is left in both cases.

        Args:
            loss: of a step and its draws: "loss", which is minimised, and others to be reported.
            seconds: to spend in this call. save_every: seconds between checkpoints. say: takes progress lines.

        Returns:
            True when all steps are done.

        Raises:
            FaceSnapError: the loss is not a finite number.
        """
        started = saved = mark = time.monotonic()
        sums: dict[str, float] = {}
        first = self.step
        while self.step < self.budget.steps and time.monotonic() - started < seconds:
            for name, value in self._one_step(loss).items():
                sums[name] = sums.get(name, 0.0) + value
            now = time.monotonic()
            self.seconds, mark = self.seconds + now - mark, now
            if self.step % REPORT_EVERY == 0 or self.step == self.budget.steps:
                count = self.step - max(first, (self.step - 1) // REPORT_EVERY * REPORT_EVERY)
                row = {name: total / count for name, total in sums.items()}
                self.history.append({"step": self.step, **row})
                sums = {}
                shown = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
                say(f"{self.stage} {self.step}/{self.budget.steps}: {shown}, {self.milliseconds:.0f} ms a step")
            if now - saved > save_every:
                self.save()
                saved = now
        self.save()
        return self.step >= self.budget.steps

    def _one_step(self, loss: Callable[[int, Draws], Losses]) -> dict[str, float]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.budget.rate_at(self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.budget.half and fast_bfloat16()):
            losses = loss(self.step, Draws(self.seed, self.stage, self.step))
        if not torch.isfinite(losses["loss"]):
            raise FaceSnapError(
                f"The loss of stage {self.stage} at step {self.step} is {losses['loss'].item()}.",
                expected="a finite number.",
                remedy=f"delete {self.file} and train with a lower learning rate",
            )
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.module)
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    @property
    def averaged(self) -> Any:
        """The averaged copy of the network, in evaluation mode."""
        return self.average.module.eval()

    @property
    def milliseconds(self) -> float:
        """Mean wall time of a step so far."""
        return 1000 * self.seconds / max(self.step, 1)

    def save(self) -> None:
        """Write the checkpoint; it replaces the one before only when it is whole."""
        state = {
            "context": self._context,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_atomically(self.file, lambda part: torch.save(state, part))

    def _restore(self) -> None:
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            context = state["context"]
        except Exception as error:  # torch.load raises many kinds; every one means that the file is no checkpoint
            raise CheckpointError(
                f"{self.file} cannot be read ({type(error).__name__}: {error}).",
                expected="the checkpoint of an earlier run",
                remedy="delete it to train this stage from the start",
            ) from error
        if context != self._context:
            raise SettingsError(
                f"{self.file} was made with other settings: {context}.",
                expected=self._context,
                remedy="use the settings of that run, or another --state folder",
            )
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
