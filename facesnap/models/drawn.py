"""Networks without training: every parameter drawn from a seed, for demonstrations, measurements and tests."""

from __future__ import annotations

import math
from typing import Any

import torch


@torch.no_grad()
def draw(module: Any, seed: int, gain: float = 1.0) -> Any:
    """Draw all parameters of a torch module so that activations keep a magnitude of about 1.

    Args:
        gain: further factor of the weights; SiLU without a norm halves what goes through it, which 1.7 makes up for.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim <= 1:
            parameter.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
        else:
            parameter.copy_(gain * noise / math.sqrt(parameter[0].numel()))
    return module.eval()
