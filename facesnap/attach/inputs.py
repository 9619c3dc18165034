"""The inputs of one UNet call under common names, whichever host calls and however it passes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facesnap.errors import AttachError

LDM_NAMES = ("x", "timesteps", "context", "y")
DIFFUSERS_NAMES = ("sample", "timestep", "encoder_hidden_states")


@dataclass(frozen=True)
class UNetInputs:
    """The part of a UNet call that a control network needs.

    Attributes:
        x: (B, C, h, w); C is 9 for inpaint UNets, whose first 4 are the latent.
        t: (B,) timesteps.
        y: (B, adm) SDXL's vector, None for SD 1.5.
    """

    x: Tensor
    t: Tensor
    y: Tensor | None

    def rows(self, at: Tensor) -> UNetInputs:
        """The same of some rows of the batch; at: (n,) indices."""
        return UNetInputs(self.x[at], self.t[at], None if self.y is None else self.y[at])


def read_inputs(unet: nn.Module, layout: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UNetInputs:
    """Read x, t and y from the arguments of a UNet call.

    Args:
        layout: "ldm" or "diffusers" (`Topology.layout`). args, kwargs: as passed to the UNet's forward.

    Raises:
        AttachError: no latents or no timesteps are among them.
    """
    names = LDM_NAMES if layout == "ldm" else DIFFUSERS_NAMES
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, t = given.get(names[0]), given.get(names[1])
    if not isinstance(x, Tensor) or x.ndim != 4 or t is None:
        raise AttachError(
            f"The {type(unet).__name__} was called without {names[0]} or {names[1]}.",
            expected="latents (B, C, h, w) and timesteps (B,)",
            remedy="only picture UNets can be used; report the host and its version",
        )
    timesteps = torch.as_tensor(t, device=x.device).reshape(-1).expand(len(x))  # () or (1,) or (B,) -> (B,)
    y = given.get("y") if layout == "ldm" else _diffusers_vector(unet, given.get("added_cond_kwargs"))
    return UNetInputs(x, timesteps, y)


def _diffusers_vector(unet: nn.Module, added: Mapping[str, Tensor] | None) -> Tensor | None:
    """Pooled text, then the sinusoidal embeddings of the six size ids: what ldm passes as y, (B, adm)."""
    embed_ids = getattr(unet, "add_time_proj", None)  # an SD 1.5 UNet ignores added conditions, so does this
    if embed_ids is None or not added or "text_embeds" not in added or "time_ids" not in added:
        return None
    text, ids = added["text_embeds"], added["time_ids"]
    sizes = embed_ids(ids.flatten()).reshape(len(text), -1)  # (B * 6,) -> (B, 6 * e)
    return torch.cat([text, sizes.to(text.dtype)], dim=-1)
