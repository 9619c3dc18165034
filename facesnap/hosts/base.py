"""The owner of a UNet, and the parts that are attached to it in one sampling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from facesnap.attach import Conditioning, ControlConditioning, Speed, Topology
from facesnap.attach.lora import LoraPart
from facesnap.hosts.memory import Placement


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


class Host(Protocol):
    """The owner of the UNet, as a generation sees it.

    Attributes:
        placement: where networks compute.
        running: the generations whose sampling is under way, the innermost last.
    """

    placement: Placement
    running: list[Any]

    @abstractmethod
    def live_unet(self, denoiser: Any | None = None) -> nn.Module:
        """The UNet that the host samples with now.

        Args:
            denoiser: the host's CFGDenoiser, where a sampling is under way.

        Raises:
            HostError: no checkpoint is loaded, or a compiled engine takes the UNet's place.
        """

    @abstractmethod
    def interrupted(self) -> bool:
        """Whether the user has interrupted or skipped the running job."""

    @abstractmethod
    def whole(self, p: Any) -> Any:
        """The processing object that makes the picture: `p` itself, but for ADetailer's face pass another."""

    @abstractmethod
    def set_whole(self, p: Any) -> None:
        """The picture of `p` is sampled now: face passes that follow paint over it."""

    @abstractmethod
    def note(self, p: Any, note: str) -> None:
        """Say something about this generation: in the log, below the picture and in its infotext."""
