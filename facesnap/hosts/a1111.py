"""AUTOMATIC1111: who owns the UNet, and which rows of its calls are cond.

The denoiser puts the cond rows first, image by image with the sub-prompts of AND side by side, then the uncond rows,
and only afterwards decides into how many calls it splits them (prompt lengths, batch_cond_uncond, NGMS). So the rows
are listed when the step begins, and a hook on the wrapped model, called once per chunk, walks along the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from modules import devices, sd_models, sd_unet, shared
from torch import nn
from torch.utils.hooks import RemovableHandle

from facesnap.attach import Row
from facesnap.errors import AttachError, HostError
from facesnap.hosts.base import Host, require_model
from facesnap.hosts.generation import Generation, rows_of
from facesnap.hosts.memory import OwnPlacement, Stay
from facesnap.hosts.webui import WebUI


class A1111Generation(Generation):
    """The rows of one `p`."""

    def __init__(self, host: Host, p: Any) -> None:
        super().__init__(host, p)
        self._rows: tuple[Row, ...] = ()
        self._cursor = 0
        self._chunk: tuple[Row, ...] | None = None
        self._model: nn.Module | None = None
        self._model_handles: list[RemovableHandle] = []

    def announce(self, params: Any) -> None:
        cond, uncond = len(_cross(params.text_cond)), len(_cross(params.text_uncond))
        rows = [*rows_of(_repeats(params.denoiser, cond, uncond), True)]
        copies = max((len(params.x) - cond) // uncond, 1)  # InstructPix2Pix has the uncond rows twice
        self._rows = (*rows, *(list(rows_of([1] * uncond, False)) * copies))
        self._cursor, self._chunk = 0, None
        self.plan.idle = True  # until a chunk begins
        self._hook_model(params.denoiser.inner_model)

    def pattern(self, x: torch.Tensor, kwargs: dict[str, Any]) -> Sequence[Row] | None:
        return self._chunk

    def tilers(self, denoiser: Any) -> Iterable[Any]:
        methods = (denoiser.inner_model.forward, getattr(shared.sd_model, "apply_model", None))
        return (getattr(method, "__self__", None) for method in methods)

    def _waiting(self) -> bool:
        return self._chunk is not None

    def _hook_model(self, model: Any) -> None:
        if model is self._model:
            return
        self._unhook_model()
        if not isinstance(model, nn.Module):
            raise AttachError(
                f"The denoiser's model is a {type(model).__name__}.",
                expected="a torch module, whose calls can be seen",
                remedy="switch off the extension that replaces the sampler, or report its name",
            )
        self._model_handles.append(model.register_forward_pre_hook(self._begin_chunk))
        self._model_handles.append(model.register_forward_hook(self._end_chunk))
        self._model = model

    def _begin_chunk(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        rows = self._rows[self._cursor : self._cursor + len(args[0])]
        self._cursor += len(rows)
        if len(rows) != len(args[0]):
            raise AttachError(
                f"The denoiser called the model with {len(args[0])} rows, {len(rows)} of {len(self._rows)} were left.",
                expected="the cond rows, then the uncond rows, each once",
                remedy="switch off the extension that adds rows to the batch, or report its name",
            )
        self._chunk = rows

    def _end_chunk(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._chunk = None
        self.plan.idle = True

    def _unhook_model(self) -> None:
        while self._model_handles:
            self._model_handles.pop().remove()
        self._model = None

    def _detach(self) -> None:
        self._unhook_model()
        self._rows, self._chunk, self._cursor = (), None, 0
        super()._detach()


class A1111(WebUI):
    """AUTOMATIC1111 1.6 and newer.

    Its low-memory modes move its own model only, so FFRNet's place is ours: with --medvram it leaves the GPU after
    each pass. With --lowvram, which has one block of the UNet on the GPU at a time, it is there for its own
    computation only, before the UNet's first block; it comes as a whole, 0.7 GB for SD1.5 and 2.5 GB for SDXL.
    """

    kind, shared, models = A1111Generation, shared, sd_models

    def __init__(self) -> None:
        super().__init__(OwnPlacement(_stay, lambda: getattr(devices, "dtype_unet", None)))

    def live_unet(self, denoiser: Any | None = None) -> nn.Module:
        if sd_unet.current_unet is not None:
            option = getattr(sd_unet, "current_unet_option", None)
            name = getattr(option, "label", None) or type(sd_unet.current_unet).__name__
            raise HostError(
                f"The UNet is replaced by {name} (Settings, Stable Diffusion, SD Unet).",
                expected="the checkpoint's own UNet: nothing can be attached to a compiled engine such as TensorRT",
                remedy='set "SD Unet" to None',
            )
        model = shared.sd_model
        return require_model(getattr(getattr(model, "model", None), "diffusion_model", None), type(model).__name__)


def _stay() -> Stay:
    flags, sdxl = shared.cmd_opts, hasattr(shared.sd_model, "conditioner")
    if getattr(flags, "lowvram", False):
        return Stay.CALL
    medvram = getattr(flags, "medvram", False) or (sdxl and getattr(flags, "medvram_sdxl", False))
    return Stay.PASS if medvram or getattr(shared.opts, "facesnap_offload", False) else Stay.ADAPTER


def _cross(text: Any) -> torch.Tensor:
    """The context of a conditioning: SDXL's is a dict with the entry "crossattn"."""
    return text["crossattn"] if isinstance(text, dict) else text


def _repeats(denoiser: Any, cond: int, uncond: int) -> list[int]:
    """Number of cond rows of each picture (AND): from the sampler's own conditioning, else in equal shares.

    Raises:
        AttachError: the shares are not known.
    """
    extra = getattr(getattr(denoiser, "sampler", None), "sampler_extra_args", None) or {}
    batch = getattr(extra.get("cond"), "batch", None)
    if batch is not None and len(batch) == uncond and sum(map(len, batch)) == cond:
        return [len(prompts) for prompts in batch]
    if uncond and cond % uncond == 0:
        return [cond // uncond] * uncond
    raise AttachError(
        f"A step has {cond} cond rows and {uncond} uncond rows, and whose they are is not known.",
        expected="the same number of sub-prompts in every picture of the batch",
        remedy="use a batch size of 1 with AND, or switch off the extension that changes the conditioning",
    )
