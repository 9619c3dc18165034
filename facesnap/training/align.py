"""Sampling during the training, PuLID's alignment stage (arXiv 2404.16022).

A picture is sampled in few steps with the identity; a recogniser may judge its face. For L_align a second sampling
begins at the same noise with the same prompt and without the identity: the adapter should leave to the prompt what is
the prompt's. In the last step the queries of the UNet's cross-attentions are compared: what the words attend to
(semantic) and the queries themselves (layout). The gradient goes through the last steps, as many as are asked for. The
base model should be one that samples well in few steps (Lightning, LCM, Hyper): the adapter of the former stages goes
on from its checkpoint on such a base.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.training import losses
from facesnap.training.config import AlignmentConfig
from facesnap.training.wiring import Inputs

Queries = dict[str, Tensor]


class FeatureReader:
    """Reads queries, and the keys of the text, at every site of a UNet while it is `reading`."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.queries: Queries = {}
        self.keys: Queries = {}

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hooks are on for the calls inside the block, and off before a backward pass that runs blocks again."""
        self.queries, self.keys = {}, {}
        with contextlib.ExitStack() as hooks:
            for site in self.topology.sites:
                places: tuple[tuple[Any, Queries], ...] = ((site.to_q, self.queries), (site.module.to_k, self.keys))
                for layer, kept in places:
                    hook = lambda m, a, out, kept=kept, name=site.name: kept.__setitem__(name, out)  # noqa: E731
                    hooks.enter_context(layer.register_forward_hook(hook))
            yield


def semantic_loss(with_id: Tensor, without: Tensor, keys: Tensor, heads: int) -> Tensor:
    """|softmax(K Q_id^T / sqrt d) Q_id - softmax(K Q^T / sqrt d) Q|^2, the mean of each sample; (B,).

    Args:
        with_id, without: queries (B, N, C). keys: of the text, (B, L, C). heads: of the site.
    """

    def gathered(queries: Tensor) -> Tensor:  # each word's mean of the queries that it attends to
        q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys))  # (B, heads, N or L, d)
        return torch.nn.functional.scaled_dot_product_attention(k, q, q)  # (B, heads, L, d)

    return (gathered(with_id) - gathered(without)).square().flatten(1).mean(1)


def layout_loss(with_id: Tensor, without: Tensor) -> Tensor:
    """|Q_id - Q|^2 of queries (B, N, C), the mean of each sample; (B,)."""
    return (with_id.float() - without.float()).square().flatten(1).mean(1)


def timesteps(count: int, trained: int) -> list[int]:
    """The timesteps of a sampling of few steps, the last of each equal part: 999, 749, 499, 249 for 4 of 1000."""
    return [round(trained * (count - i) / count) - 1 for i in range(count)]


def ddim_step(kind: str, prediction: Tensor, x: Tensor, now: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """(x at the next alpha_bar, the estimate of x0) of latents (B, C, h, w); now, after: alpha_bar, ()."""
    clean = losses.clean_of(kind, prediction, x, now.expand(len(x)))
    noise = (x - now.sqrt() * clean) / (1 - now).sqrt()
    return after.sqrt() * clean + (1 - after).sqrt() * noise, clean


class Alignment:
    """The two samplings and their comparison; kind: what the UNet predicts, alpha_bar: of the schedule, (T,)."""

    def __init__(self, kind: str, alpha_bar: Tensor, topology: Topology) -> None:
        self.kind, self.alpha_bar, self.reader = kind, alpha_bar, FeatureReader(topology)

    def __call__(
        self, module: Any, bare: Any, inputs: Inputs, noise: Tensor, wanted: AlignmentConfig
    ) -> Mapping[str, Tensor]:
        """The terms of each sample, and the last estimate of x0 with the identity.

        Args:
            module: inputs -> Output, the trainable adapter, as the accelerator wraps it. bare: inputs -> prediction
                of the UNet alone. inputs: of the people and prompts; latents and timesteps are replaced.
            noise: (B, C, h, w), where both samplings begin.

        Returns:
            "clean" (B, C, h, w), the picture's latents; with weight on any of them "semantic" and "layout" (B,), the
            means over the sites.
        """
        compared = wanted.semantic > 0 or wanted.layout > 0
        if compared:
            with torch.no_grad():
                self._sample(bare, inputs, noise, wanted.steps, 0)
        without, keys = self.reader.queries, self.reader.keys
        clean = self._sample(lambda one: module(one).prediction, inputs, noise, wanted.steps, wanted.through)
        if not compared:
            return {"clean": clean}
        with_id, sites = self.reader.queries, self.reader.topology.sites
        semantic = [semantic_loss(with_id[s.name], without[s.name], keys[s.name], s.heads) for s in sites]
        layout = [layout_loss(with_id[s.name], without[s.name]) for s in sites]
        return {"semantic": torch.stack(semantic).mean(0), "layout": torch.stack(layout).mean(0), "clean": clean}

    def _sample(self, predict: Any, inputs: Inputs, noise: Tensor, steps: int, through: int) -> Tensor:
        """The last estimate of x0; the last step is read, and the last `through` steps may have a gradient."""
        x = clean = noise
        times = timesteps(steps, len(self.alpha_bar))
        for number, t in enumerate(times):
            last = number + 1 == steps
            one = dataclasses.replace(
                inputs, latents=x.to(inputs.latents.dtype),
                timesteps=torch.full((len(x),), t, device=x.device, dtype=torch.long),
            )  # fmt: skip
            after = self.alpha_bar.new_ones(()) if last else self.alpha_bar[times[number + 1]]
            with contextlib.nullcontext() if steps - number <= through else torch.no_grad():
                with self.reader.reading() if last else contextlib.nullcontext():
                    prediction = predict(one).float()
                x, clean = ddim_step(self.kind, prediction, x, self.alpha_bar[t], after)
        return clean
