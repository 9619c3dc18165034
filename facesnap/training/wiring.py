"""A trainable adapter on a frozen diffusers UNet, row by row: every row of the batch is a person of its own.

The same two hooks a site as the inference attachment (`facesnap.attach.tokens`) has, with keys and values that carry
gradients. They stay on the UNet between forward and backward: under gradient checkpointing the UNet's blocks run
again during backward, and must then see the same keys and values.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from facesnap.attach.attention import RowsKV, id_output
from facesnap.attach.conditioning import Rule
from facesnap.attach.topology import Site, Topology, read_topology
from facesnap.checkpoints.adapter import Adapter, FFRNetSpec
from facesnap.errors import AttachError, SettingsError
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.layers import TokenGroup
from facesnap.models.mixer import FacialAttributeMixer
from facesnap.models.projections import GroupProjection, IDProjections, module_key
from facesnap.models.unet_blocks import ResBlock, SpatialTransformer

PARTS = ("mixer", "projections", "ffrnet")


@dataclass(frozen=True, eq=False)
class Inputs:
    """One batch as the networks see it.

    Attributes:
        latents: (B, C, h, w), noised. timesteps: (B,). text: (B, L, context) of the prompts.
        f_id: (B, R, 512). hidden: {level: (B, R, P, W)}.
        landmarks, five_points: (B, 3, 8h, 8w) RGB 0..1, those that FFRNet looks at.
        pooled, time_ids: SDXL's (B, 1280) and (B, 6).
    """

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    f_id: Tensor
    hidden: Mapping[int, Tensor]
    landmarks: Tensor | None = None
    five_points: Tensor | None = None
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def of(self, rows: Tensor) -> Inputs:
        """Those of some samples; rows: (n,) places in the batch."""
        chosen: dict[str, Any] = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, hidden={level: h[rows] for level, h in self.hidden.items()}, **chosen)


@dataclass(frozen=True, eq=False)
class Output:
    """The UNet's prediction (B, C, h, w), and FFRNet's residuals: those of the skips, then the middle's."""

    prediction: Tensor
    residuals: tuple[Tensor, ...] = ()


class TokenWiring:
    """Hooks that add ID tokens to a UNet's cross-attention with gradients; a context manager.

    Attributes:
        rows: {site: token groups}, for the UNet calls to come and for the recomputing in their backward; None adds
            nothing.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.rows: Mapping[str, tuple[RowsKV, ...]] | None = None
        self.fired: set[str] = set()
        self._queries: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> TokenWiring:
        for site in self.topology.sites:
            self._handles.append(site.to_q.register_forward_hook(partial(self._keep, site)))
            self._handles.append(site.to_out.register_forward_pre_hook(partial(self._join, site)))
        return self

    def __exit__(self, *exc: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self.rows = None
        self._queries.clear()

    def set(self, rows: Mapping[str, tuple[RowsKV, ...]] | None) -> None:
        """Take the keys and values of the next call."""
        if not self._handles:
            raise AttachError(
                "The adapter is not on the UNet.",
                expected="its hooks on every site",
                remedy="enter the module's wiring with `with module.wiring:`",
            )
        self.rows = rows
        self.fired.clear()

    def require_fired(self) -> None:
        """Raise AttachError unless every site has run since `set`."""
        missing = sorted(set(self.rows or ()) - self.fired)
        if missing:
            raise AttachError(
                f"The UNet ran without {len(missing)} of its sites, {missing[0]} among them.",
                expected="every cross-attention to run as a Python module",
                remedy="switch torch.compile off for the UNet",
            )

    def _keep(self, site: Site, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.rows is not None:
            self._queries[site.name] = output

    def _join(self, site: Site, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.rows is None or site.name not in self.rows:
            return None
        text, q = args[0], self._queries.pop(site.name)
        self.fired.add(site.name)
        groups = [RowsKV(g.k.to(q.dtype), g.v.to(q.dtype), g.bias, 1.0) for g in self.rows[site.name]]
        return (text + id_output(q, None, groups, site.heads, Rule.ADD).to(text.dtype), *args[1:])


def project(projections: IDProjections, groups: Mapping[str, TokenGroup]) -> dict[str, tuple[RowsKV, ...]]:
    """Keys and values (B, T, width) of a batch at every site, with gradients; a gate is multiplied into v."""
    out = {}
    for site in projections.widths:
        entries = []
        for name, module in projections.sites[module_key(site)].items():  # type: ignore[operator]
            assert isinstance(module, GroupProjection)
            k, v = module(groups[name].tokens)
            if hasattr(module, "gate"):
                v = torch.tanh(module.gate) * v  # attention is linear in v
            entries.append(RowsKV(k, v, groups[name].bias, 1.0))
        out[site] = tuple(entries)
    return out


class TrainableAdapter(nn.Module):
    """Mixer, ID projections and FFRNet as one module whose forward runs the frozen UNet.

    Args:
        unet: diffusers' UNet2DConditionModel; it is frozen and does not become a submodule.
        adapter: its modules are trained in place.
        use_projections: False leaves the UNet's own cross-attention alone, as the paper does.

    Raises:
        CheckpointError: the adapter does not fit the UNet.
        SettingsError: an adapter of a kind that cannot be trained.
    """

    def __init__(self, unet: nn.Module, adapter: Adapter, *, use_projections: bool = True) -> None:
        super().__init__()
        topology = read_topology(unet)
        adapter.check_unet(topology)
        if not isinstance(adapter.mixer, FacialAttributeMixer) or adapter.spec.rule is not Rule.ADD:
            raise SettingsError(
                f"The adapter {adapter.spec.name!r} cannot be trained.",
                expected="a Facial Attribute Mixer whose ID output is added (FaceSnap, FaceID or InstantID)",
                remedy="start from scratch or from another checkpoint",
            )
        if not use_projections and adapter.ffrnet is None:
            raise SettingsError(
                "An adapter without ID projections and without FFRNet changes nothing.",
                expected="projections, FFRNet or both",
                remedy="set adapter.projections to true or adapter.ffrnet to full or lite",
            )
        self.mixer, self.projections, self.ffrnet = adapter.mixer, adapter.projections, adapter.ffrnet
        self.spec = adapter.spec
        self.ffrnet_spec = adapter.ffrnet_spec or FFRNetSpec.default(adapter.mixer)
        self.use_projections = use_projections
        self.wiring = TokenWiring(topology)
        self._unet = (unet.requires_grad_(False),)  # a tuple keeps it out of the module tree

    @property
    def unet(self) -> nn.Module:
        return self._unet[0]

    def part(self, name: str) -> nn.Module:
        """One of PARTS; SettingsError where this adapter has it not."""
        module = getattr(self, name, None)
        if module is None or (name == "projections" and not self.use_projections):
            raise SettingsError(
                f"The part {name!r} is to be trained, and the adapter has none.",
                expected="parts that the adapter section asks for",
                remedy="take it out of the stage's parts, or ask for it in the adapter section",
            )
        return module

    def adapter(self) -> Adapter:
        """The adapter as it is now, for saving and sampling."""
        return Adapter(self.spec, self.mixer, self.projections, "", self.ffrnet, self.ffrnet_spec)

    def bare(self, inputs: Inputs) -> Tensor:
        """Prediction of the UNet without the adapter, (B, C, h, w)."""
        self.wiring.set(None)
        return self._predict(inputs)

    def _predict(self, inputs: Inputs, **residuals: Any) -> Tensor:
        added = None
        if inputs.pooled is not None:
            added = {"text_embeds": inputs.pooled, "time_ids": inputs.time_ids}
        return self.unet(
            inputs.latents, inputs.timesteps, inputs.text, added_cond_kwargs=added, return_dict=False, **residuals
        )[0]

    def forward(self, inputs: Inputs) -> Output:
        """Predict. The keys and values stay in place for the backward of gradient checkpointing."""
        groups = self.mixer(inputs.f_id, inputs.hidden)
        self.wiring.set(project(self.projections, groups) if self.use_projections else None)
        residuals: dict[str, Any] = {}
        if self.ffrnet is not None:
            if isinstance(self.ffrnet, LoraFFRNet):
                self.ffrnet.borrow(dict(self.unet.named_parameters()))
            tokens = torch.cat([groups[name].tokens for name in self.ffrnet_spec.groups], dim=1)  # (B, T, D)
            hint = self.ffrnet.embed_hint(inputs.landmarks, inputs.five_points)
            y = _sdxl_vector(self.unet, inputs)
            down, middle = self.ffrnet(inputs.latents, inputs.timesteps, tokens, hint, y)
            dtype = inputs.latents.dtype
            residuals = {
                "down_block_additional_residuals": tuple(r.to(dtype) for r in down),
                "mid_block_additional_residual": middle.to(dtype),
            }
        prediction = self._predict(inputs, **residuals)
        self.wiring.require_fired()
        extra = tuple(residuals.get("down_block_additional_residuals", ()))
        return Output(prediction, (*extra, residuals["mid_block_additional_residual"]) if residuals else ())


def save_activations(module: TrainableAdapter) -> None:
    """Recompute the blocks of UNet and FFRNet in the backward pass instead of keeping their activations."""
    recomputed_blocks(module, partial(checkpoint, use_reentrant=False))


def recomputed_blocks(module: TrainableAdapter, run: Callable[..., Any]) -> bool:
    """Have every block that may be recomputed called as run(block, *inputs); whether the UNet's are, too."""
    unet: Any = module.unet
    chosen = "gradient_checkpointing_func" in inspect.signature(unet.enable_gradient_checkpointing).parameters
    unet.enable_gradient_checkpointing(*([run] if chosen else []))  # old diffusers have torch's checkpoint alone
    unet.train()  # diffusers checkpoints in training mode only; these UNets have no dropout
    for block in module.ffrnet.modules() if module.ffrnet is not None else ():
        if isinstance(block, (ResBlock, SpatialTransformer)):
            forward = type(block).forward.__get__(block)
            block.forward = partial(run, forward)  # type: ignore[method-assign]
    return chosen


def _sdxl_vector(unet: nn.Module, inputs: Inputs) -> Tensor | None:
    """y (B, 2816) as diffusers' UNet builds it of the pooled text and the six sizes; None for SD1.5."""
    if inputs.pooled is None or inputs.time_ids is None:
        return None
    sizes = unet.add_time_proj(inputs.time_ids.flatten()).unflatten(0, (len(inputs.pooled), -1))  # type: ignore[operator]
    return torch.cat((inputs.pooled, sizes.flatten(1).to(inputs.pooled)), dim=-1)  # (B, 1280), (B, 6, 256) -> (B, 2816)
