"""Forge and its forks: who owns the UNet, and which rows of its calls are cond.

Every UNet call carries `transformer_options` with `cond_or_uncond`, one entry (0 cond, 1 uncond) for each chunk of
the batch, uncond first; a chunk holds all pictures of the batch once.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from modules import sd_models, shared
from torch import nn

from facesnap.attach import Row
from facesnap.errors import AttachError, TopologyError
from facesnap.hosts.base import Host, require_model
from facesnap.hosts.forge_memory import ForgePlacement
from facesnap.hosts.generation import Generation
from facesnap.hosts.memory import Stay
from facesnap.hosts.webui import WebUI

# Class of the host's engine -> name of a model family that has no UNet, or one of another latent, as people write it.
REFUSED = {
    "Flux": "Flux", "Flux2": "Flux.2", "Chroma": "Chroma", "Wan": "Wan", "QwenImage": "Qwen Image", "Krea2": "Krea 2",
    "Lumina2": "Lumina 2", "ZImage": "Z-Image", "Anima": "Anima", "ErnieImage": "Ernie Image", "PiD": "PiD",
    "StableDiffusion3": "Stable Diffusion 3", "Mugen": "Mugen",
}  # fmt: skip
# Left on the model by Neo's torch.compile, which swaps the UNet inside each call: hooks never see it.
COMPILED = ("_torch_compile_config", "_orig_apply_model")


class ForgeGeneration(Generation):
    """The rows of one `p`."""

    def __init__(self, host: Host, p: Any) -> None:
        super().__init__(host, p)
        self._pictures = 0

    def _attach(self, unet: nn.Module) -> None:
        objects = getattr(shared.sd_model, "forge_objects", None)
        model = getattr(getattr(objects, "unet", None), "model", None)
        if any(getattr(model, name, None) is not None for name in COMPILED):
            # Before anything is compiled with our hooks in it: dynamo would keep that for plain pictures.
            raise TopologyError(
                "The UNet is compiled: torch.compile is on.",
                expected="a UNet whose modules run as Python modules, so that the cross-attention can be reached",
                remedy="disable torch.compile in its own accordion for pictures with FaceSnap",
            )
        super()._attach(unet)

    def announce(self, params: Any) -> None:
        self._pictures = len(params.x)

    def pattern(self, x: torch.Tensor, kwargs: dict[str, Any]) -> Sequence[Row] | None:
        options = kwargs.get("transformer_options") or {}
        chunks = options.get("cond_or_uncond")
        if chunks is None:
            raise AttachError(
                "The UNet was called without cond_or_uncond in its transformer_options.",
                expected="Forge's own sampling",
                remedy="switch off the extension that calls the UNet itself, or report its name",
            )
        return [Row(picture, chunk == 0) for chunk in chunks for picture in range(self._pictures)]

    def sigmas(self, denoiser: Any) -> Iterable[float] | None:
        """Neo leaves them in the model's options, and there they stay for samplers that have none."""
        func = getattr(getattr(denoiser, "sampler", None), "func", None)
        if func is None or "sigmas" not in inspect.signature(func).parameters:
            return None
        unet = getattr(getattr(_sampled_model(denoiser), "forge_objects", None), "unet", None)
        found = getattr(unet, "model_options", {}).get("transformer_options", {}).get("sampling_sigmas")
        return found.tolist() if isinstance(found, torch.Tensor) else None

    def tilers(self, denoiser: Any) -> Iterable[Any]:
        objects = getattr(_sampled_model(denoiser), "forge_objects", None)
        wrapper = getattr(getattr(objects, "unet", None), "model_options", {}).get("model_function_wrapper")
        return wrapper, getattr(wrapper, "__self__", None)


class Forge(WebUI):
    """Forge (backend/), reForge and Forge-Classic (ldm_patched): every host whose model has `forge_objects`."""

    kind, shared, models = ForgeGeneration, shared, sd_models

    def __init__(self) -> None:
        super().__init__(ForgePlacement(_stay, lambda: shared.sd_model.forge_objects))

    def live_unet(self, denoiser: Any | None = None) -> nn.Module:
        model = _sampled_model(denoiser) if denoiser is not None else None
        model = model if hasattr(model, "forge_objects") else shared.sd_model
        objects = getattr(model, "forge_objects", None)
        unet = getattr(getattr(objects, "unet", None), "model", None)
        return require_model(getattr(unet, "diffusion_model", None), type(model).__name__)

    def refused_name(self) -> str:
        return REFUSED.get(type(shared.sd_model).__name__, "")


def _stay() -> Stay:
    return Stay.PASS if getattr(shared.opts, "facesnap_offload", False) else Stay.ADAPTER


def _sampled_model(denoiser: Any) -> Any:
    """The model object below the denoiser's sampling wrapper."""
    return getattr(getattr(denoiser, "inner_model", None), "inner_model", None)
