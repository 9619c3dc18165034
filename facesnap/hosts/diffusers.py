"""The diffusers host: loads an SD1.5 or SDXL pipeline, samples with people attached, and says which rows are cond."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from facesnap.attach import Conditioning, ControlConditioning, LoraPart, RowPlan, Speed, attach, read_topology
from facesnap.attach.topology import Topology
from facesnap.errors import FaceSnapError, HostError, SettingsError, importing
from facesnap.hosts import model_files
from facesnap.settings.sampling import LAST_SEED, MOST_AT_ONCE

# name -> (diffusers class, its settings)
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
MAX_SIDE = 4096


@dataclass(frozen=True)
class Sampling:
    """The request to a diffusion model.

    Attributes:
        sampler: a key of SAMPLERS. steps: 1..1000. cfg: 0..50; up to 1 only cond rows are computed.
        seed: of the first picture; picture i takes seed + i, 0..2^32 - 1.
        size: (width, height) in pixels, multiples of 8, up to 4096. count: pictures in one batch, 1..64.

    Raises:
        SettingsError: a value out of its range.
    """

    prompt: str
    negative_prompt: str = ""
    sampler: str = "DPM++ 2M"
    steps: int = 30
    cfg: float = 7.0
    seed: int = 0
    size: tuple[int, int] = (512, 512)
    count: int = 1

    def __post_init__(self) -> None:
        last = LAST_SEED - max(self.count - 1, 0)
        sides_fit = all(8 <= side <= MAX_SIDE and side % 8 == 0 for side in self.size)
        for ok, what, expected in (
            (self.sampler in SAMPLERS, f"sampler {self.sampler!r}", "one of " + ", ".join(SAMPLERS)),
            (1 <= self.steps <= 1000, f"steps {self.steps}", "1 to 1000"),
            (math.isfinite(self.cfg) and 0 <= self.cfg <= 50, f"CFG scale {self.cfg}", "0 to 50"),
            (0 <= self.seed <= last, f"seed {self.seed}", f"0 to {last}, and {LAST_SEED} at most for the last picture"),
            (sides_fit, f"size {self.size[0]}x{self.size[1]}", f"multiples of 8 from 8 to {MAX_SIDE}"),
            (1 <= self.count <= MOST_AT_ONCE, f"batch of {self.count}", f"1 to {MOST_AT_ONCE}"),
        ):
            if not ok:
                raise SettingsError(f"{what} cannot be used.", expected=expected, remedy="correct this option")


class DiffusersHost:
    """A loaded pipeline.

    Attributes:
        name: of the model, for infotexts.
        topology: of its UNet.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        self.pipeline, self.name = pipeline, name
        self.topology: Topology = read_topology(pipeline.unet)
        self._scheduler_config = dict(pipeline.scheduler.config)  # the model's own: a sampler adds to it, for itself

    @classmethod
    def load(
        cls,
        model: Path | str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        config: Path | str | None = None,
        offload: str = "none",
    ) -> DiffusersHost:
        """Load a model.

        Args:
            model: a diffusers folder, its weights in whatever variant lies there ("fp16"), or a single-file checkpoint
                (.safetensors, .ckpt).
            device: "cuda" where there is one, else "cpu". dtype: float16 on cuda, else float32.
            config: a diffusers folder with the configuration and tokenizer of a single-file checkpoint; where None,
                diffusers fetches the standard one of SD1.5 or SDXL.
            offload: "none", "model" or "sequential": parts of the pipeline wait on the CPU (accelerate).

        Raises:
            MissingDependencyError: diffusers is not installed.
            HostError: the model cannot be loaded. TopologyError: it is neither SD1.5 nor SDXL.
        """
        diffusers = _diffusers()
        path = Path(model)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or (torch.float16 if device.startswith("cuda") else torch.float32)
        if not path.exists():
            raise HostError(
                f"There is no model {path}.",
                expected="a diffusers folder or a .safetensors/.ckpt checkpoint",
                remedy="correct the path",
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch_dtype has another name in new versions
                pipeline = _load_pipeline(diffusers, path, dtype, config)
        except FaceSnapError:
            raise
        except Exception as error:  # diffusers raises many kinds; every one means that the model did not load
            raise model_files.not_loaded(path, error, config is not None) from error
        channels = pipeline.unet.config.in_channels if hasattr(pipeline, "unet") else None
        wanted = pipeline.vae.config.latent_channels if hasattr(pipeline, "vae") else 4
        if channels != wanted:
            raise HostError(
                f"{path.name} is a {type(pipeline).__name__} whose UNet takes {channels or 'no'} channels.",
                expected=f"a text-to-image SD1.5 or SDXL, whose UNet takes the {wanted} channels of its autoencoder",
                remedy="choose another base model; inpaint models need a picture and a mask",
            )
        host = cls(pipeline, path.stem if path.is_file() else path.name)
        host._place(device, offload)
        return host

    def _place(self, device: str, offload: str) -> None:
        if offload == "model":
            self.pipeline.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            self.pipeline.enable_sequential_cpu_offload(device=device)
        elif offload == "none":
            self.pipeline.to(device)
        else:
            raise SettingsError(
                f"offload {offload!r} cannot be used.",
                expected="none, model or sequential",
                remedy="correct this option",
            )

    @property
    def unet(self) -> torch.nn.Module:
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """The device on which the UNet computes; offloaded parts wait elsewhere."""
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.unet.dtype

    def sample(
        self,
        sampling: Sampling,
        people: Sequence[Conditioning],
        on_step: Callable[[int, int], None] | None = None,
        controls: Sequence[ControlConditioning] = (),
        speed: Speed = Speed.BALANCED,
        loras: Sequence[LoraPart] = (),
    ) -> list[Image.Image]:
        """Make one batch of pictures.

        Args:
            people: who is in them.
            on_step: called with (steps done, all steps) after each step of the sampler.
            controls: FFRNet's part of the people. speed: how much of it is computed.
            loras: those that adapters bring.

        Raises:
            HostError: the latents became NaN or infinite.
            AttachError, SettingsError: see `facesnap.attach.attach`.
        """
        pipe = self.pipeline
        kind, settings = SAMPLERS[sampling.sampler]
        pipe.scheduler = getattr(_diffusers(), kind).from_config(self._scheduler_config, **settings)
        plan = RowPlan(())
        plan.steps = sampling.steps  # distinct sigmas; second-order samplers call the UNet more often
        plan.step = 0

        def before_unet(_unet: Any, _args: Any) -> None:
            # The pipeline decides: a UNet that is given the guidance as an embedding (LCM) sees cond rows only.
            guidance = bool(pipe.do_classifier_free_guidance)
            plan.rows = RowPlan.classifier_free(sampling.count, guidance=guidance, uncond_first=True).rows

        def after_step(_pipe: Any, step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            total = len(pipe.scheduler.timesteps)
            plan.progress, plan.step = (step + 1) / total, step + 1
            _check_finite(tensors["latents"], step, total)
            if on_step is not None:
                on_step(step + 1, total)
            return tensors

        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator("cpu").manual_seed(sampling.seed + i) for i in range(sampling.count)]
        with (
            _hooked(self.unet, before_unet),  # before the attachment's own hooks: they read the rows
            attach(self.unet, people, plan, controls, speed, loras) as attachment,
        ):
            out = pipe(
                prompt=sampling.prompt,
                negative_prompt=sampling.negative_prompt,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.cfg,
                width=sampling.size[0],
                height=sampling.size[1],
                num_images_per_prompt=sampling.count,
                generator=generators,
                callback_on_step_end=after_step,
            )
        attachment.require_called()
        return list(out.images)


@contextmanager
def _hooked(module: torch.nn.Module, hook: Callable[[Any, Any], None]) -> Iterator[None]:
    """A forward pre-hook for the time of a `with`."""
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _diffusers() -> Any:
    with importing("diffusers cannot be imported", "diffusers and accelerate", 'pip install "facesnap[diffusers]"'):
        import diffusers
    return diffusers


def _load_pipeline(diffusers: Any, path: Path, dtype: torch.dtype, config: Path | str | None) -> Any:
    if path.is_dir():
        parts = model_files.special_parts(diffusers, path, dtype)
        return diffusers.DiffusionPipeline.from_pretrained(str(path), torch_dtype=dtype, **parts)
    kind = diffusers.StableDiffusionXLPipeline if model_files.is_sdxl(path) else diffusers.StableDiffusionPipeline
    local = {"config": str(config), "local_files_only": True} if config else {}
    return kind.from_single_file(str(path), torch_dtype=dtype, **local)


def _check_finite(latents: torch.Tensor, step: int, total: int) -> None:
    if not bool(torch.isfinite(latents).all()):
        raise HostError(
            f"The latents hold NaN or infinity after step {step + 1} of {total}.",
            expected="finite latents",
            remedy="use --dtype float32 (or bfloat16), a lower strength or a lower CFG scale",
        )
