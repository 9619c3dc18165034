"""The training loop: stages, accumulation, any number of processes (accelerate), EMA, checkpoints to go on from."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from facesnap.errors import CheckpointError, HostError, SettingsError, importing
from facesnap.hosts.diffusers import DiffusersHost
from facesnap.training import runs
from facesnap.training.config import StageConfig, TrainingConfig
from facesnap.training.data import Samples, collate
from facesnap.training.draws import Slots
from facesnap.training.ema import Ema
from facesnap.training.grids import SampleGrid
from facesnap.training.objective import Objective
from facesnap.training.shards import Shards
from facesnap.training.start import starting_adapter
from facesnap.training.wiring import PARTS, TrainableAdapter, save_activations

logger = logging.getLogger(__name__)

UNET_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """One run.

    Args:
        resume: go on from the newest checkpoint of its output folder.

    Attributes:
        step: of the optimiser, the next one to do.

    Raises:
        MissingDependencyError, SettingsError, HostError, CheckpointError, IdentityMismatchError: what is missing or
            does not fit, before the first step.
    """

    def __init__(self, config: TrainingConfig, *, resume: bool = True) -> None:
        self.config = config
        self.accelerator = _accelerator(config)
        optimiser = config.optimiser
        self.global_batch = optimiser.batch * optimiser.accumulation * self.accelerator.num_processes
        self.shards = Shards(config.data.folder)
        device = self.accelerator.device
        self.host = DiffusersHost.load(
            config.base.model, device=str(device), dtype=UNET_DTYPES[config.precision], config=config.base.config
        )
        if self.host.topology.base != self.shards.head["base"]:
            raise SettingsError(
                f"The data were prepared for {self.shards.head['base']}, the base model is {self.host.topology.base}.",
                expected="one kind of model in both",
                remedy="prepare the photos with this model",
            )
        adapter = starting_adapter(config.adapter, self.host.unet, self.shards.head, config.seed)
        self.module = TrainableAdapter(self.host.unet, adapter, use_projections=config.adapter.projections).to(device)
        if config.save_activations:
            save_activations(self.module)
        for stage in config.stages:
            for part in stage.lr:
                self.module.part(part)
        levels = adapter.mixer.config.clip_levels
        self.objective = Objective(config, self.host.pipeline, device, levels, self.shards.head["recogniser"])
        self.samples = Samples(
            self.shards, config, self.global_batch, self.objective.timesteps, levels, _pictures(self.module),
            adapter.spec.id_vector,
        )  # fmt: skip
        self.ema = Ema(self.module, optimiser.ema) if optimiser.ema else None
        self.step = 0
        self._moments: dict[str, Any] | None = None
        found = runs.checkpoints(config.output) if resume else []
        if found:
            self._restore(found[-1])
        main = self.accelerator.is_main_process
        self.log = runs.RunLog(config.output, config.log, self.step) if main else None
        self.grid = SampleGrid(config, self.shards) if main and config.samples.every else None

    def fit(self, until: int | None = None, progress: Any = None) -> Path:
        """Train to the end, or to a step; returns the last checkpoint's folder.

        Args:
            progress: has update(n), such as a tqdm bar.

        Raises:
            HostError: the loss became NaN or infinite.
        """
        end = min(self.config.steps, until if until is not None else self.config.steps)
        with self.module.wiring:
            while self.step < end:
                index, first, last = self.config.stage_at(self.step)
                self._run_stage(self.config.stages[index], first, min(last, end), progress)
        self.accelerator.wait_for_everyone()
        found = runs.checkpoints(self.config.output)
        if not found:
            raise CheckpointError(
                f"{self.config.output} holds no checkpoint.", expected="at least one step", remedy="ask for more steps"
            )
        return found[-1]

    def _run_stage(self, stage: StageConfig, first: int, end: int, progress: Any) -> None:
        """Steps up to `end` of the stage that begins at `first`."""
        groups = self._choose_parts(stage)
        module, optimiser = self.accelerator.prepare(self.module, _optimiser(self.config, groups))
        if self._moments is not None:
            optimiser.load_state_dict(self._moments["optimiser"])
            if self.accelerator.scaler is not None and self._moments["scaler"]:
                self.accelerator.scaler.load_state_dict(self._moments["scaler"])
            self._moments = None
        o, a = self.config.optimiser, self.accelerator
        slots = Slots(self.step, end, o.batch, o.accumulation, a.process_index, a.num_processes)
        loader = DataLoader(
            self.samples, batch_sampler=slots, collate_fn=collate, num_workers=self.config.data.workers,
            pin_memory=a.device.type == "cuda",
        )  # fmt: skip
        sums: dict[str, float] = {}
        for micro, batch in enumerate(loader):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(stage, group["base_lr"], self.step - first)
            with self.accelerator.accumulate(module):
                self._micro_step(module, optimiser, stage, batch, sums)
            if (micro + 1) % o.accumulation == 0:
                self._finish_step(sums, optimiser, end)
                sums = {}
                if progress is not None:
                    progress.update(1)
        self.module = self.accelerator.unwrap_model(module, keep_fp32_wrapper=False)
        self.accelerator.free_memory()

    def _micro_step(
        self, module: Any, optimiser: Any, stage: StageConfig, batch: dict[str, Any], sums: dict[str, float]
    ) -> None:
        inputs, target, alpha_bar = self.objective.inputs(batch)
        alone = contextlib.nullcontext() if stage.align is None else self.accelerator.no_sync(module)
        with alone:  # processes exchange gradients once, in the last backward pass
            with self.accelerator.autocast():
                output = module(inputs)
            terms = self.objective.terms(output, target, alpha_bar, inputs.latents, batch, stage.losses)
            self.accelerator.backward(terms["loss"])
        if stage.align is not None:
            with self.accelerator.autocast():
                aligned = self.objective.align(module, self.module, inputs, batch, stage.align)
            self.accelerator.backward(aligned["align"])
            terms |= aligned | {"loss": terms["loss"] + aligned["align"]}
        if self.accelerator.sync_gradients:
            trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
            self.accelerator.clip_grad_norm_(trained, self.config.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad()
        share = 1 / self.config.optimiser.accumulation
        for name, value in self.accelerator.reduce({n: v.detach() for n, v in terms.items()}, "mean").items():
            sums[name] = sums.get(name, 0.0) + share * float(value)
        if not math.isfinite(sums["loss"]):
            raise HostError(
                f"The loss became {sums['loss']} at step {self.step} ({sums}).",
                expected="finite numbers",
                remedy="use bf16 instead of fp16, or lower learning rates; the last checkpoint is whole",
            )

    def _finish_step(self, sums: dict[str, float], optimiser: Any, end: int) -> None:
        """After the weights have moved: average, log, save, show."""
        if self.ema is not None:
            self.ema.update(self.module)
        rates = {f"lr.{group['part']}": group["lr"] for group in optimiser.param_groups}
        if self.log is not None:
            self.log(self.step, sums | rates)
        self.step += 1
        config = self.config
        if self.step % config.checkpoints.every == 0 or self.step == end:
            self._save(optimiser)
        if self.grid is not None and self.step % config.samples.every == 0:
            self.module.wiring.set(None)
            with torch.no_grad(), self._averaged():
                self.grid.draw(self.host, self.module.adapter(), self.step)

    def _save(self, optimiser: Any) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            weights = {name: p.detach().to("cpu", copy=True) for name, p in self.module.named_parameters()}
            with self._averaged():
                runs.save_checkpoint(
                    self.config.output, self.step, weights=weights, ema=None if self.ema is None else self.ema.average,
                    moments={"optimiser": optimiser.state_dict(), "scaler": scaler.state_dict() if scaler else None},
                    adapter=self.module.adapter(), keep=self.config.checkpoints.keep,
                    state={"global_batch": self.global_batch, "seed": self.config.seed,
                           "updates": 0 if self.ema is None else self.ema.updates},
                )  # fmt: skip
        self.accelerator.wait_for_everyone()

    def _averaged(self) -> Any:
        return self.ema.applied(self.module) if self.ema is not None else contextlib.nullcontext()

    def _restore(self, path: Path) -> None:
        state, weights, ema, moments = runs.load_checkpoint(path)
        for key, now in (("global_batch", self.global_batch), ("seed", self.config.seed)):
            if state.get(key) != now:
                raise CheckpointError(
                    f"{path} was made with {key} {state.get(key)}, the run now has {now}.",
                    expected="the same, so that the samples go on where they stopped",
                    remedy="restore it, or train anew with --no-resume",
                )
        own = dict(self.module.named_parameters())
        wrong = sorted(set(own) ^ set(weights)) or [n for n, p in own.items() if p.shape != weights[n].shape]
        if wrong or (ema is None) != (self.ema is None):
            raise CheckpointError(
                f"{path} does not fit the configuration ({', '.join(wrong[:3]) or 'averaged weights'}).",
                expected="the adapter section and the EMA that it was made with",
                remedy="restore these, give another output folder, or train anew with --no-resume",
            )
        self.module.load_state_dict(weights, strict=False)  # parameters alone, no buffers
        if self.ema is not None and ema is not None:
            self.ema.load(ema, state["updates"])
        self.step = int(state["step"])
        # A stage begins with a fresh optimiser, so the moments of the one before it are of no use.
        if self.step < self.config.steps and self.config.stage_at(self.step)[1] != self.step:
            self._moments = moments
        logger.info("going on from %s", path)

    def _choose_parts(self, stage: StageConfig) -> list[dict[str, Any]]:
        self.module.requires_grad_(False)
        groups = []
        for part in PARTS:
            if part in stage.lr:
                parameters = list(self.module.part(part).requires_grad_(True).parameters())
                rate = stage.lr[part]  # type: ignore[index]
                groups.append({"params": parameters, "lr": rate, "base_lr": rate, "part": part})
        return groups


def learning_rate(stage: StageConfig, rate: float, done: int) -> float:
    """Of a step of a stage: linear warm-up, then constant or half a cosine; a function of the step alone."""
    if done < stage.warmup:
        return rate * (done + 1) / stage.warmup
    if stage.schedule == "constant":
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * (done - stage.warmup) / max(stage.steps - stage.warmup, 1)))


def _accelerator(config: TrainingConfig) -> Any:
    with importing("accelerate cannot be imported", "accelerate 0.27 or newer", 'pip install "facesnap[train]"'):
        from accelerate import Accelerator, DistributedDataParallelKwargs
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a donor may hold tensors that nothing reads
    return Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.optimiser.accumulation,
        kwargs_handlers=[unused],
    )


def _optimiser(config: TrainingConfig, groups: list[dict[str, Any]]) -> Any:
    o = config.optimiser
    settings = {"betas": (0.9, 0.999), "eps": o.eps, "weight_decay": o.weight_decay}
    if o.kind == "adamw":
        return torch.optim.AdamW(groups, **settings)  # type: ignore[arg-type]
    with importing(
        "The optimiser adamw8bit was asked for, and bitsandbytes cannot be imported",
        "bitsandbytes and a CUDA card",
        "pip install bitsandbytes, or set optimiser.kind to adamw",
    ):
        import bitsandbytes
    return bitsandbytes.optim.AdamW8bit(groups, **settings)


def _pictures(module: TrainableAdapter) -> tuple[str, ...]:
    """The pictures that FFRNet looks at."""
    if module.ffrnet is None:
        return ()
    config = module.ffrnet.config
    return tuple(dict.fromkeys((config.donor_picture, *(("landmarks",) if config.landmark_hint_channels else ()))))
