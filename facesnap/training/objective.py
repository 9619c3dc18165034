"""One batch to its loss: noise, the frozen models around the trainable ones, and the weighted terms."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from facesnap.errors import SettingsError
from facesnap.training import losses
from facesnap.training.arcface import TorchRecogniser
from facesnap.training.config import LossWeights, TrainingConfig
from facesnap.training.wiring import Inputs, Output

HEAD_MARGIN = 0.5  # by which the face box is widened to the head in the leak loss


class Objective:
    """Inputs and losses of batches.

    Args:
        pipeline: diffusers' pipeline of the base model. device: of the training. levels: of the mixer.
        recogniser: sha256 of the one that the data were made with; the judge must be another.

    Attributes:
        timesteps: of the schedule.
    """

    def __init__(
        self, config: TrainingConfig, pipeline: Any, device: torch.device, levels: tuple[int, ...], recogniser: str
    ) -> None:
        from diffusers import DDPMScheduler

        self.config, self.pipeline, self.device, self.levels = config, pipeline, device, levels
        scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.kind = losses.check_prediction(scheduler.config.prediction_type)
        self.alpha_bar: Tensor = scheduler.alphas_cumprod.to(device)
        self.timesteps = len(self.alpha_bar)
        self.judge: TorchRecogniser | None = None
        if any(stage.losses.identity > 0 for stage in config.stages):
            assert config.recogniser is not None  # see TrainingConfig
            self.judge = _judge(config, recogniser).to(device)
            # Half-precision decoding of a one-step estimate overflows on SDXL; the gradient needs float32 anyway.
            self._decoder = copy.deepcopy(pipeline.vae).to(device, torch.float32).requires_grad_(False)

    def inputs(self, batch: dict[str, Any]) -> tuple[Inputs, Tensor, Tensor]:
        """The networks' inputs, the target of the prediction (B, 4, h, w), and alpha_bar (B,)."""
        on = {name: value.to(self.device) for name, value in batch.items() if isinstance(value, Tensor)}
        alpha_bar = self.alpha_bar[on["timestep"]]
        noised = losses.add_noise(on["latents"], on["noise"], alpha_bar)
        text, pooled, time_ids = self._text(batch["caption"], int(on["latents"].shape[-1]) * 8)
        inputs = Inputs(
            latents=noised.to(self.pipeline.unet.dtype), timesteps=on["timestep"], text=text, f_id=on["f_id"],
            hidden={level: on[f"hidden.{level}"][:, :, :] for level in self.levels},  # (B, 1, P, W)
            landmarks=on.get("landmarks"), five_points=on.get("five_points"), pooled=pooled, time_ids=time_ids,
        )  # fmt: skip
        return inputs, losses.target_of(self.kind, on["latents"], on["noise"], alpha_bar), alpha_bar

    def terms(
        self,
        output: Output,
        target: Tensor,
        alpha_bar: Tensor,
        noised: Tensor,
        batch: dict[str, Any],
        wanted: LossWeights,
    ) -> dict[str, Tensor]:
        """The means of the terms that have weight, and "loss", their weighted sum."""
        boxes = batch["box"].to(self.device)
        weight = losses.min_snr_weight(self.kind, alpha_bar, self.config.noise.min_snr_gamma)
        prediction = output.prediction.float()
        found = {"diffusion": losses.diffusion_loss(prediction, target, weight)}
        if wanted.face_box:
            found["face_box"] = losses.face_box_loss(prediction, target, boxes, weight)
        if wanted.leak:
            found["leak"] = losses.leak_loss(output.residuals, boxes, HEAD_MARGIN)
        if wanted.identity:
            found["identity"] = alpha_bar * self._identity(prediction, noised.float(), alpha_bar, boxes, batch)
        means = {name: value.mean() for name, value in found.items()}
        factors = {"diffusion": 1.0} | wanted.model_dump()
        return means | {
            "loss": sum((factors[name] * value for name, value in means.items()), start=target.new_zeros(()))
        }

    def _identity(
        self, prediction: Tensor, noised: Tensor, alpha_bar: Tensor, boxes: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        assert self.judge is not None
        clean = losses.clean_of(self.kind, prediction, noised, alpha_bar)
        crops = batch["crop"].to(self.device).permute(0, 3, 1, 2).float() / 255  # (B, 112, 112, 3) -> (B, 3, 112, 112)
        with torch.autocast(self.device.type, enabled=False):
            with torch.no_grad():
                own = self.judge(crops)
            matrices = batch["matrix"].to(self.device)
            return losses.identity_loss(clean, boxes, matrices, own, self._decode, self.judge)

    def _decode(self, latents: Tensor) -> Tensor:
        config = self._decoder.config
        shift = getattr(config, "shift_factor", None) or 0.0
        return self._decoder.decode(latents / config.scaling_factor + shift, return_dict=False)[0] / 2 + 0.5

    @torch.no_grad()
    def _text(self, captions: list[str], side: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Hidden states of the captions, and SDXL's pooled vector and sizes."""
        found = self.pipeline.encode_prompt(
            prompt=captions, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if len(found) == 2:
            return found[0], None, None
        sizes = torch.tensor([side, side, 0, 0, side, side], device=self.device, dtype=found[0].dtype)
        return found[0], found[2], sizes.expand(len(captions), -1)


def _judge(config: TrainingConfig, recogniser: str) -> TorchRecogniser:
    from facesnap.faces.packs import file_sha256

    assert config.recogniser is not None
    judge = TorchRecogniser.load(config.recogniser)
    if file_sha256(config.recogniser) == recogniser:
        raise SettingsError(
            f"{config.recogniser} is the recogniser that the data were prepared with.",
            expected="another one: a network that judges its own vectors is easily fooled",
            remedy="name another pack's recogniser, or set the identity loss to 0",
        )
    if judge.side != losses.RECOGNISER_SIDE:
        raise SettingsError(
            f"{config.recogniser} takes crops of {judge.side} pixels.",
            expected=f"{losses.RECOGNISER_SIDE}",
            remedy="name another recogniser",
        )
    return judge


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that a stage trains, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
