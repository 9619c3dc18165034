"""The frozen text encoders' states of captions, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from facesnap.pipeline.cache import ContentCache

CACHE_BYTES = 512 << 20  # in the CPU's memory: about 20,000 captions of the tiny base, 4,500 of SD1.5 in half precision


class TextStates:
    """Hidden states of captions by a diffusers pipeline.

    Every caption is encoded on its own: a batch of others would change the last bits, and so what a resumed run or
    another number of processes computes.
    """

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self.pipeline, self.device = pipeline, device
        self._cache = ContentCache(CACHE_BYTES)

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """(B, L, context), and SDXL's pooled vectors (B, 1280)."""
        size = lambda states: sum(tensor.nbytes for tensor in states)  # noqa: E731
        found = [self._cache.get(caption, partial(self._encode, caption), size) for caption in captions]
        joined = [torch.cat(parts).to(self.device) for parts in zip(*found, strict=True)]
        return joined[0], joined[1] if len(joined) > 1 else None

    @torch.no_grad()
    def _encode(self, caption: str) -> tuple[Tensor, ...]:
        found = self.pipeline.encode_prompt(
            prompt=[caption], device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        kept = found[:1] if len(found) == 2 else (found[0], found[2])  # the others are of a negative prompt
        return tuple(tensor.cpu() for tensor in kept)
