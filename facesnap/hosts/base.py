"""The owner of a UNet, as a generation sees it, and the parts that are attached in one sampling."""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from facesnap.attach import Conditioning, ControlConditioning, Speed, Topology
from facesnap.attach.lora import LoraPart
from facesnap.errors import HostError
from facesnap.hosts.memory import Placement

logger = logging.getLogger(__name__)

NOTE = "FaceSnap note"  # key of the infotext


@dataclass(frozen=True, eq=False)
class Parts:
    """Everything attached to a UNet in one sampling; see `facesnap.attach.attach`.

    All of it lies on the CPU: keys, values and LoRAs follow the UNet's tensors at the call, networks are placed by
    the host (`Host.placement`).

    Attributes:
        owners: for each control the index of its person; without it, controls come in the order of the people.
    """

    people: Sequence[Conditioning] = ()
    controls: Sequence[ControlConditioning] = ()
    speed: Speed = Speed.BALANCED
    loras: Sequence[LoraPart] = ()
    owners: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not self.owners:
            object.__setattr__(self, "owners", tuple(range(len(self.controls))))

    @property
    def count(self) -> int:
        """Number of people."""
        return max(len(self.people), *(owner + 1 for owner in self.owners), 0)

    @property
    def needs_place(self) -> bool:
        """Whether it matters which piece of the picture the UNet sees."""
        regions = [person.region for person in self.people] + [lora.region for lora in self.loras]
        return bool(self.controls) or any(region is not None for region in regions)


Prepare = Callable[[Topology], Parts]
"""Makes the parts for a UNet; raises a FaceSnapError where they do not fit it. Called again where the host changes
the UNet in the middle of a sampling."""


class Host(ABC):
    """The owner of the UNet.

    Attributes:
        shared: the host's `modules.shared`.
        placement: where networks compute.
        running: the generations whose sampling is under way, the innermost last.
    """

    shared: Any

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.running: list[Any] = []
        self._whole: weakref.ref[Any] | None = None  # the p whose picture ADetailer's face passes paint over

    @abstractmethod
    def live_unet(self, denoiser: Any | None = None) -> nn.Module:
        """The UNet that the host samples with now.

        Args:
            denoiser: the host's CFGDenoiser, where a sampling is under way.

        Raises:
            HostError: no checkpoint is loaded, or a compiled engine takes the UNet's place.
        """

    def refused_name(self) -> str:
        """Name of the loaded model where it is one that FaceSnap cannot use, for messages; "" where unknown."""
        return ""

    def interrupted(self) -> bool:
        """Whether the user has interrupted or skipped the running job."""
        state = self.shared.state
        return bool(state.interrupted or state.skipped or getattr(state, "stopping_generation", False))

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


def require_model(unet: Any, found: str) -> nn.Module:
    """The UNet as a module, or a HostError that says what was found."""
    if isinstance(unet, nn.Module):
        return unet
    raise HostError(
        f"The host has no UNet loaded ({found}).",
        expected="a loaded SD1.5 or SDXL checkpoint",
        remedy="choose a checkpoint at the top of the page; where it is still being loaded, wait for that",
    )


def is_face_pass(p: Any) -> bool:
    """Whether a processing object is one of ADetailer's own."""
    return bool(getattr(p, "_ad_inner", False))
