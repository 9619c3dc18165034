"""One batch to its loss: noise, the frozen models around the trainable ones, and the weighted terms."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from facesnap.attach.topology import read_topology
from facesnap.pipeline.cache import ContentCache
from facesnap.training import losses
from facesnap.training.align import Alignment
from facesnap.training.config import AlignmentConfig, LossWeights, TrainingConfig
from facesnap.training.judges import load_judge
from facesnap.training.sampled_faces import SampledFaces
from facesnap.training.text_states import TextStates
from facesnap.training.wiring import Inputs, Output, TrainableAdapter

HEAD_MARGIN = 0.5  # by which the face box is widened to the head in the leak loss
JUDGED_BYTES = 256 << 20  # of the judge's own vectors of photos
Photos = Sequence[tuple[int, Tensor]]  # numbers in the data, and crops (112, 112, 3) RGB uint8


class Objective:
    """Inputs and losses of batches.

    Args:
        pipeline: diffusers' pipeline of the base model. device: of the training. levels: of the mixer.
        recogniser: sha256 of the one that the data were made with; the judge must be another.

    Attributes:
        timesteps: of the schedule. judge: of the identity loss; None where no stage asks for it.
        alignment: samples with the identity and without. finders: {pack: finder of sampled faces}.
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
        self.text = TextStates(pipeline, device)
        self.factor = int(pipeline.vae_scale_factor)  # pixels of a latent cell
        self.judge: Any = None
        self.alignment = Alignment(self.kind, self.alpha_bar, read_topology(pipeline.unet))
        packs = {stage.align.pack for stage in config.stages if stage.align and stage.align.identity}
        self.finders = {pack: SampledFaces(pack) for pack in packs if pack is not None}
        if any(stage.judges for stage in config.stages):
            assert config.recogniser is not None  # see TrainingConfig
            self.judge = load_judge(config.recogniser, recogniser).to(device)
            self._judged = ContentCache(JUDGED_BYTES)
            # Half-precision decoding of a one-step estimate overflows on SDXL; the gradient needs float32 anyway.
            self._decoder = copy.deepcopy(pipeline.vae).to(device, torch.float32).requires_grad_(False)

    def inputs(self, batch: dict[str, Any]) -> tuple[Inputs, Tensor, Tensor]:
        """The networks' inputs, the target of the prediction (B, C, h, w), and alpha_bar (B,)."""
        on = {name: value.to(self.device) for name, value in batch.items() if isinstance(value, Tensor)}
        alpha_bar = self.alpha_bar[on["timestep"]]
        noised = losses.add_noise(on["latents"], on["noise"], alpha_bar)
        text, pooled = self.text(batch["caption"])
        side = self.factor * on["latents"].shape[-1]  # SDXL's six sizes (B, 6) are those of whole square pictures
        sizes = None if pooled is None else pooled.new_tensor([side, side, 0, 0, side, side]).expand(len(pooled), -1)
        inputs = Inputs(
            latents=noised.to(self.pipeline.unet.dtype), timesteps=on["timestep"], text=text, f_id=on["f_id"],
            hidden={level: on[f"hidden.{level}"] for level in self.levels},  # (B, 1, P, W)
            landmarks=on.get("landmarks"), five_points=on.get("five_points"), pooled=pooled, time_ids=sizes,
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
            found["identity"] = self._identity(prediction, noised.float(), alpha_bar, batch, wanted)
        means = {name: value.mean() for name, value in found.items()}
        factors = {"diffusion": 1.0} | wanted.model_dump()
        total = sum((factors[name] * value for name, value in means.items()), start=target.new_zeros(()))
        return means | {"loss": total}

    def _identity(
        self,
        prediction: Tensor,
        noised: Tensor,
        alpha_bar: Tensor,
        batch: dict[str, Any],
        wanted: LossWeights,
    ) -> Tensor:
        """alpha_bar (1 - cosine) over the share of the samples that are judged, 0 of the others; (B,)."""
        judged = (batch["judged"].to(self.device) <= wanted.identity_share) & (alpha_bar >= wanted.identity_from)
        found = torch.zeros_like(alpha_bar)
        rows = judged.nonzero()[:, 0]
        if not len(rows):
            return found
        clean = losses.clean_of(self.kind, prediction[rows], noised[rows], alpha_bar[rows])
        places = rows.cpu()
        targets = [[(int(batch["target"][place]), batch["crop"][place])] for place in places]
        distance = self._distance(clean, batch["box"][places], batch["matrix"][places], targets)
        return found.index_put((rows,), alpha_bar[rows] * distance / wanted.identity_share)

    def _distance(self, clean: Tensor, boxes: Tensor, matrices: Tensor, photos: Sequence[Photos]) -> Tensor:
        """1 - cosine of the faces of x0 estimates and of people.

        Args:
            clean: (n, C, h, w). boxes, matrices: where the faces are, (n, 4) and (n, 2, 3). photos: of the n people.

        Returns:
            (n,).
        """
        boxes, matrices = boxes.to(self.device), matrices.to(self.device)
        again = self.config.save_activations
        decode = partial(checkpoint, self.decode, use_reentrant=False) if again else self.decode
        with torch.autocast(self.device.type, enabled=False):
            own = torch.stack([self._own(of_one) for of_one in photos])
            return losses.identity_loss(clean, boxes, matrices, own, decode, self.judge)

    def align(
        self, module: Any, own: TrainableAdapter, inputs: Inputs, batch: dict[str, Any], wanted: AlignmentConfig
    ) -> dict[str, Tensor]:
        """The means of the alignment's terms, and "align", their weighted sum; see `facesnap.training.align`.

        Args:
            module: the trainable adapter as the accelerator wraps it. own: the same, unwrapped.
            inputs: of the batch; its people are sampled, those whose identity was not dropped first.
        """
        rows = torch.argsort(~batch["conditioned"], stable=True)[: wanted.samples]  # (n,) places in the batch
        text, pooled = self.text(_prompts(batch, rows, wanted))
        inputs = dataclasses.replace(inputs.of(rows.to(self.device)), text=text, pooled=pooled)
        found = self.alignment(module, own.bare, inputs, batch["noise"][rows].to(self.device), wanted)
        means = {f"align.{name}": found[name].mean() for name in ("semantic", "layout") if name in found}
        # Several processes wait for the gradient of all that a call used, and no query depends on the last layers.
        total = 0 * found["clean"].sum()
        for name in means:
            total = total + getattr(wanted, name.removeprefix("align.")) * means[name]
        if wanted.identity:
            judged = self._sampled_identity(found["clean"], rows, inputs, batch, wanted)
            means |= judged
            total = total + wanted.identity * judged["align.identity"]
        return means | {"align": total}

    def _sampled_identity(
        self, clean: Tensor, rows: Tensor, inputs: Inputs, batch: dict[str, Any], wanted: AlignmentConfig
    ) -> dict[str, Tensor]:
        """L_id of sampled latents (n, C, h, w), and the share that was judged.

        It compares with the mean of the person's photos: a single one shares glasses, hair and light with its caption.
        Not judged are samples whose identity was dropped, and pictures in which the place of the face is not known: no
        face was found or, without a pack, FFRNet was shown a black picture.
        """
        boxes, matrices = batch["box"].clone(), batch["matrix"].clone()
        if wanted.pack is not None:
            # One by one and in float32: whole pictures are large, and SDXL's VAE overflows in half precision.
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                pictures = torch.cat([self.decode(one[None]) for one in clean.float()])
            seen, boxes[rows], matrices[rows] = self.finders[wanted.pack](pictures)
        else:
            picture = inputs.five_points if inputs.landmarks is None else inputs.landmarks
            assert picture is not None  # see TrainingConfig
            seen = picture.flatten(1).any(1).cpu()
        places = (seen & batch["conditioned"][rows]).nonzero()[:, 0]
        share = clean.new_tensor(len(places) / len(rows))
        if not len(places):
            return {"align.identity": clean.new_zeros(()), "align.judged": share}
        judged = rows[places]
        photos = [batch["photos"][row] for row in judged.tolist()]
        distance = self._distance(clean[places.to(self.device)], boxes[judged], matrices[judged], photos)
        return {"align.identity": distance.sum() / len(rows), "align.judged": share}

    @torch.no_grad()
    def _own(self, photos: Photos) -> Tensor:
        """The judge's vector of a person (D,), the mean of the photos'; photos come back every epoch: they are kept."""

        def seen(crop: Tensor) -> Tensor:
            return self.judge(crop.to(self.device).permute(2, 0, 1)[None].float() / 255)  # (1, D)

        found = [self._judged.get(row, partial(seen, crop), lambda one: 4 * one.numel()) for row, crop in photos]
        return torch.nn.functional.normalize(torch.cat(found).float(), dim=-1).mean(0)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, fh, fw), about 0..1, of latents (B, C, h, w) as the UNet has them, in float32."""
        config = self._decoder.config
        shift = getattr(config, "shift_factor", None) or 0.0
        return self._decoder.decode(latents / config.scaling_factor + shift, return_dict=False)[0] / 2 + 0.5


def _prompts(batch: dict[str, Any], rows: Tensor, wanted: AlignmentConfig) -> list[str]:
    """Of the sampled pictures: drawn from the list that is asked for, or the photos' captions."""
    if wanted.prompts is None:
        return [batch["caption"][row] for row in rows.tolist()]
    places = (batch["prompted"][rows] * len(wanted.prompts)).long().clamp(max=len(wanted.prompts) - 1)
    return [wanted.prompts[place] for place in places.tolist()]
