"""Common to AUTOMATIC1111 and Forge: a generation for each processing object, and whose steps they are.

Both call `p.sample(...)` as an attribute of the instance, where `facesnap.hosts.generation` puts its wrapper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from facesnap.attach import Topology, read_topology
from facesnap.checkpoints.base_models import read_base_model
from facesnap.errors import FaceSnapError
from facesnap.hosts.base import Host, Prepare, is_face_pass
from facesnap.hosts.generation import Generation, other_latent


@dataclass(frozen=True)
class ChosenModel:
    """The checkpoint that is chosen at the top of the page; Forge and Neo load it with the first picture.

    Attributes:
        name: of its file, without the extension; "" where none is chosen.
        base: "sd15" or "sdxl", else the name of a kind that FaceSnap cannot use; None where the kind is not known.
        topology: of its UNet; None where it is not loaded, or where nothing can be attached to it.
    """

    name: str = ""
    base: str | None = None
    topology: Topology | None = field(default=None, compare=False, repr=False)


class WebUI(Host):
    """A host of the WebUI family. One object serves all generations of a process; they run one after the other, or
    nested (an extension that samples a picture of its own inside another's sampling).

    Attributes:
        kind: of its generations. models: the host's `modules.sd_models`.
    """

    kind: type[Generation]
    models: Any

    def chosen_model(self, title: str = "") -> ChosenModel:
        """The checkpoint that the next picture is made with, as far as it is known. Loads nothing.

        Args:
            title: as the host's list of checkpoints has it; the host's own choice where empty.
        """
        info = self.models.get_closet_checkpoint_match(title or getattr(self.shared.opts, "sd_model_checkpoint", ""))
        loaded = self.models.model_data.sd_model  # AUTOMATIC1111's shared.sd_model would load it
        known = getattr(loaded, "sd_checkpoint_info", None)
        if known is not None and (info is None or known.filename == info.filename):
            return self._loaded_model(Path(known.filename).stem)
        if info is None:
            return ChosenModel()
        kind = read_base_model(Path(info.filename))
        return ChosenModel(Path(info.filename).stem, kind.base or kind.other or None)

    def _loaded_model(self, name: str) -> ChosenModel:
        try:
            unet = self.live_unet()
            topology = read_topology(unet)
        except FaceSnapError:
            return ChosenModel(name, self.refused_name() or None)
        other = other_latent(unet, self.refused_name())
        return ChosenModel(name, other) if other else ChosenModel(name, topology.base, topology)

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
        generation.refuse(error)
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
        """Let no network of ours stay in the GPU's memory: FaceSnap is off, another adapter is about to be read, or the
        model has been switched (the host's on_model_loaded callback). Nothing is done while one is attached."""
        if all(generation.attachment is None for generation in self.running):
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
