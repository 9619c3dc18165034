"""Place and stay of FFRNet inside a WebUI: the host's memory, not ours.

An adapter's own network stays on the CPU, bit for bit as its file has it. What computes is a copy of it, whose
tensors are made where the UNet computes, at the first UNet call that needs them, and dropped when the host's settings
ask for it. So nothing has to be carried back, and the CPU holds the weights once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from facesnap.attach import Networks
from facesnap.models.fidelity import FFRNet
from facesnap.models.tensors import copied_to

COMPUTED_IN = (torch.float16, torch.bfloat16, torch.float32)


class Stay(Enum):
    """Stay of a network on the UNet's device.

    ADAPTER: until another adapter is used, the model is switched or FaceSnap is switched off. PASS: until the pass is
    over. CALL: until FFRNet has computed for one call of the UNet. It always comes and goes as a whole.
    """

    ADAPTER = "adapter"
    PASS = "pass"
    CALL = "call"


class Placement(Networks, ABC):
    """The networks of a host's generations. One object serves all of them; between generations it keeps one network
    at most.

    Args:
        stay: gives the longest stay of networks, by the host's settings as they are now.

    Attributes:
        copies: original -> what computes, the one used last at the end.
    """

    def __init__(self, stay: Callable[[], Stay]) -> None:
        self.stay = stay
        self.copies: dict[FFRNet, Any] = {}

    def enter(self, networks: Sequence[FFRNet]) -> None:
        """A pass begins that may use these networks, and no others: those leave. Nothing is moved yet."""
        for net in [net for net in self.copies if net not in networks]:
            self.drop(net)

    @abstractmethod
    def expect(self, networks: Sequence[FFRNet], shape: Sequence[int]) -> None:
        """These networks will compute in the sampling that begins. May be called again.

        Args:
            shape: (B, C, h, w) of its latents.
        """

    def leave(self) -> None:
        """The pass is over, however it ended. May be called again."""
        kept = list(self.copies)
        for net in kept if self.stay() is not Stay.ADAPTER else kept[:-1]:
            self.drop(net)

    def rest(self) -> None:
        if self.stay() is Stay.CALL:
            self.clear()

    def clear(self) -> None:
        """No network stays: the model is switched, or FaceSnap is off."""
        for net in list(self.copies):
            self.drop(net)

    @abstractmethod
    def drop(self, net: FFRNet) -> None:
        """Free the copy of a network."""


class OwnPlacement(Placement):
    """For hosts that manage no memory but their own model's: copies are made and dropped here.

    Args:
        stay: see `Placement`. dtype: what the host's UNet computes in, None where it does not say.
    """

    def __init__(self, stay: Callable[[], Stay], dtype: Callable[[], torch.dtype | None]) -> None:
        super().__init__(stay)
        self._dtype = dtype

    def expect(self, networks: Sequence[FFRNet], shape: Sequence[int]) -> None:
        """Nothing: the host leaves memory to whoever asks first."""

    def at(self, net: FFRNet, x: Tensor) -> FFRNet:
        wanted = (x.device, computing(self._dtype(), x.dtype))
        if _lies(net) == wanted:
            return net
        copy = self.copies.pop(net, None)
        if copy is None or _lies(copy) != wanted:
            copy = None  # free the former before the next is made
            copy = copied_to(net, *wanted)
        self.copies[net] = copy  # the one used last
        return copy

    def drop(self, net: FFRNet) -> None:
        self.copies.pop(net, None)


def computing(*dtypes: Any) -> torch.dtype:
    """The first of these dtypes that a network can compute in: weights may be stored in 8 bits or quantised, but
    nothing computes so."""
    return next((dtype for dtype in dtypes if dtype in COMPUTED_IN), torch.float16)


def _lies(net: FFRNet) -> tuple[torch.device, torch.dtype]:
    return net.conv_in.weight.device, net.dtype
