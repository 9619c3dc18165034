"""Common to AUTOMATIC1111 and Forge: a generation for each processing object, and whose steps they are.

Both call `p.sample(...)` as an attribute of the instance, where `facesnap.hosts.generation` puts its wrapper.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from facesnap.attach import read_topology
from facesnap.errors import FaceSnapError, HostError
from facesnap.hosts.base import Prepare
from facesnap.hosts.face_pass import is_face_pass
from facesnap.hosts.generation import Generation
from facesnap.hosts.memory import Placement

logger = logging.getLogger(__name__)

NOTE = "FaceSnap note"  # key of the infotext


class WebUI(ABC):
    """A host of the WebUI family, the owner of the UNet. One object serves all generations of a process; they run one
    after the other, or nested (an extension that samples a picture of its own inside another's sampling).

    Attributes:
        kind: of its generations.
        placement: where networks compute.
        running: the generations whose sampling is under way, the innermost last.
    """

    kind: type[Generation]

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.running: list[Generation] = []
        self._whole: weakref.ref[Any] | None = None  # the p whose picture ADetailer's face passes paint over

    @abstractmethod
    def live_unet(self, denoiser: Any | None = None) -> nn.Module:
        """The UNet that the host samples with now.

        Args:
            denoiser: the host's CFGDenoiser, where a sampling is under way.

        Raises:
            HostError: no checkpoint is loaded, or a compiled engine takes the UNet's place.
        """

    def interrupted(self) -> bool:
        """Whether the user has interrupted or skipped the running job."""
        from modules.shared import state

        return bool(state.interrupted or state.skipped or getattr(state, "stopping_generation", False))

    def loaded_base(self) -> str | None:
        """ "sd15" or "sdxl" of the loaded model; None where none is loaded, or one that FaceSnap cannot use."""
        try:
            return read_topology(self.live_unet()).base
        except FaceSnapError:
            return None

    def enlist(
        self, p: Any, prepare: Prepare, passes: str = "both", on_failure: Callable[[Exception], None] | None = None
    ) -> Generation:
        """Attach people around the sampling of `p`; to be called from a script's `process`, as often as it comes.

        Args:
            p: the host's processing object.
            prepare: see `Prepare`.
            passes: "both", "first" or "second": the passes of a hires generation that have the people in them.
            on_failure: called with the error that ends a sampling, before it is raised.
        """
        generation = self._of(p)
        generation.prepare, generation.passes, generation.error = prepare, passes, None
        generation.on_failure = on_failure
        generation.wrap()
        return generation

    def adopt(self, p: Any) -> Generation | None:
        """Attach the people of a picture to ADetailer's pass over it, prepared as they are; to be called from a
        script's `process`. Returns None where the picture has none."""
        outer = getattr(self.whole(p), "facesnap_generation", None)
        if outer is None or outer.p is p or outer.prepare is None:
            return None
        generation = self._of(p)
        generation.prepare = outer.prepare
        generation.wrap()
        return generation

    def refuse(self, p: Any, error: Exception) -> Generation:
        """Let the sampling of `p` raise this error instead of making a picture without FaceSnap."""
        generation = self._of(p)
        generation.prepare, generation.error = None, error
        generation.wrap()
        return generation

    def release(self, p: Any) -> None:
        """Let `p` sample as if FaceSnap were not there."""
        self._whole = None
        self.own(p)
        generation = getattr(p, "facesnap_generation", None)
        if generation is not None:
            generation.prepare = generation.error = None
        self.free()

    def free(self) -> None:
        """Let no network of ours stay in the GPU's memory: FaceSnap is off, or the model has been switched (the
        host's on_model_loaded callback)."""
        if not self.running:
            self.placement.clear()

    def before_sampling(self, p: Any, x: torch.Tensor | None) -> None:
        """The host's process_before_every_sampling: a pass of `p` is about to sample latents x, (B, C, h, w)."""
        for generation in self.running:
            if generation.p is p and x is not None:
                generation.before_pass(tuple(x.shape))

    def own(self, p: Any) -> None:
        """Cut the ties of a shallow copy with what it was copied from (X/Y/Z plots; ADetailer hands copies to
        `process` that are never sampled); to be called before anything is noted on `p`."""
        known = getattr(p, "facesnap_generation", None)
        if known is not None and known.p is not p:
            known.unwrap_copy(p)
            p.extra_generation_params = dict(p.extra_generation_params)
            p.facesnap_generation = None

    def note(self, p: Any, note: str) -> None:
        """Say something about this generation: in the log, below the picture and in its infotext."""
        p = self.whole(p)
        notes = p.extra_generation_params.get(NOTE, "")
        if note in notes:
            return
        p.extra_generation_params[NOTE] = f"{notes}; {note}" if notes else note
        self.warn(p, note)

    def warn(self, p: Any, text: str) -> None:
        """Write a line for the user to the log and below the picture."""
        logger.warning("%s", text)
        if hasattr(p, "comment"):
            p.comment(text)

    def whole(self, p: Any) -> Any:
        """The processing object that makes the picture: `p` itself, but for ADetailer's face pass another."""
        whole = self._whole() if self._whole is not None and is_face_pass(p) else None
        return p if whole is None else whole

    def set_whole(self, p: Any) -> None:
        """The picture of `p` is sampled now: face passes that follow paint over it."""
        self._whole = weakref.ref(p)

    def before_step(self, params: Any) -> None:
        """The host's on_cfg_denoiser callback: the next UNet calls are those of `params.denoiser.p`."""
        for generation in self.running:
            if generation.p is params.denoiser.p:
                generation.step(params)
            else:
                generation.plan.idle = True

    def _of(self, p: Any) -> Generation:
        if not is_face_pass(p):
            self._whole = None
        self.own(p)
        if getattr(p, "facesnap_generation", None) is None:
            p.facesnap_generation = self.kind(self, p)
        return p.facesnap_generation


def require_model(unet: Any, found: str) -> nn.Module:
    """The UNet as a module, or a HostError that says what was found."""
    if isinstance(unet, nn.Module):
        return unet
    raise HostError(
        f"The host has no UNet loaded ({found}).",
        expected="a loaded SD1.5 or SDXL checkpoint",
        remedy="choose a checkpoint at the top of the page and wait until it is loaded",
    )
