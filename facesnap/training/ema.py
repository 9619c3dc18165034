"""Averaged weights: an exponential moving average in float32, warmed up so that the start is soon forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """The average of a module's parameters.

    Args:
        decay: 0..1; at step n the smaller of it and (1 + n) / (10 + n) counts.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = {name: p.detach().float().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in module.named_parameters():
            self.average[name].lerp_(parameter.float(), 1 - decay)

    def load(self, average: dict[str, Tensor], updates: int) -> None:
        """Go on from saved ones."""
        for name, tensor in average.items():
            self.average[name].copy_(tensor)
        self.updates = updates

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights; its own come back at the end."""
        own = {name: p.detach().clone() for name, p in module.named_parameters()}
        try:
            module.load_state_dict(self.average, strict=False)  # parameters alone, no buffers
            yield
        finally:
            module.load_state_dict(own, strict=False)
