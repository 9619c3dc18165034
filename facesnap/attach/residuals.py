"""FFRNet's residuals on a live UNet: run on the UNet's own inputs, added at the middle and at every skip.

A forward hook on the last layer of the middle block adds the middle residual; a forward pre-hook on the first
layer of every output block adds the skip's residual to the last channels of the concatenated input. That is what
diffusers does with `down_block_additional_residuals`, without touching any forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from facesnap.attach.control import ControlConditioning, ControlView, Speed
from facesnap.attach.crop import Crop, cut, paste, plan_crop
from facesnap.attach.inputs import UNetInputs
from facesnap.attach.networks import Networks
from facesnap.attach.residual_cache import ResidualCache
from facesnap.attach.rows import Row, RowPlan, Tile
from facesnap.attach.topology import Topology
from facesnap.errors import AttachError, SettingsError
from facesnap.models.fidelity import FFRNet, skip_widths
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.ldm_names import to_diffusers_names
from facesnap.models.unet_blocks import KeyValue

LATENT_PIXELS = 8


@dataclass(frozen=True)
class RowResiduals:
    """Residuals for some rows of the batch: shallow to deep, the middle's last."""

    rows: tuple[int, ...]
    maps: tuple[Tensor, ...]


class ResidualInjection:
    """The FFRNets of any number of people, put on one UNet.

    Args:
        topology: of the UNet.
        controls: one each. speed: how much is computed. networks: where they compute; None: where they lie.
        unet: whose encoder the networks that are LoRAs borrow.

    Raises:
        SettingsError: an FFRNet of another layout than the UNet's, or Speed.FAST without a face's box.
    """

    def __init__(
        self,
        topology: Topology,
        controls: Sequence[ControlConditioning],
        speed: Speed = Speed.BALANCED,
        networks: Networks | None = None,
        unet: nn.Module | None = None,
    ) -> None:
        self.topology, self.controls, self.speed, self.unet = topology, tuple(controls), speed, unet
        self.networks = networks or Networks()
        for control in self.controls:
            _check_fit(topology, control, speed)
        self.reuse: ResidualCache[list[RowResiduals]] = ResidualCache()
        self._pending: list[RowResiduals] = []
        self._batch = 0
        self._fired: set[str] = set()
        self._hints: dict[tuple[Any, ...], Tensor] = {}
        self._kvs: dict[tuple[Any, ...], list[KeyValue]] = {}
        self._maps: dict[tuple[Any, ...], Tensor] = {}

    def install(self) -> Iterator[RemovableHandle]:
        """Put the hooks on one after the other, yielding each handle as soon as it is on; none without controls."""
        if not self.controls:
            return
        yield self.topology.middle_last.register_forward_hook(self._add_middle)
        skips = len(self.topology.output_first)
        for block, layer in enumerate(self.topology.output_first):
            hook = self._add_skip(block, skips - 1 - block)  # the first output block takes the deepest skip
            yield layer.register_forward_pre_hook(hook)

    @property
    def pending(self) -> bool:
        """Whether the running call takes residuals."""
        return bool(self._pending)

    def begin(self, inputs: UNetInputs, rows: tuple[Row, ...], plan: RowPlan) -> None:
        """Compute, or take again, the residuals of the UNet call that begins.

        Args:
            inputs: of the call. rows: the roles of its B rows. plan: says where in the sampling it is.
        """
        self._fired.clear()
        self._batch = len(inputs.x)
        work = [
            (i, at) for i, c in enumerate(self.controls) if c.active(plan.progress) for at in self._row_sets(c, rows)
        ]
        if not work:
            self._pending = []
        elif self.speed is Speed.EXACT:
            self._pending = self._compute(work, inputs, rows)
        else:
            kind = (tuple(rows), tuple(inputs.x.shape), tuple(sorted({i for i, _ in work})))
            t = tuple(float(value) for value in inputs.t.tolist())
            self._pending = self.reuse.get(kind, t, plan, lambda: self._compute(work, inputs, rows))

    def end(self) -> set[str]:
        """Finish the call; returns the places that should have taken a residual and did not."""
        expected = {"middle", *(f"output.{i}" for i in range(len(self.topology.output_first)))}
        missing = expected - self._fired if self._pending else set()
        self._pending = []
        return missing

    def clear(self) -> None:
        """Forget the call and everything kept for reuse."""
        self._pending = []
        self.reuse.forget()

    def free(self) -> None:
        """Forget all that lies on the UNet's device, what the next call would need too."""
        self.clear()
        for net in (control.net for control in self.controls if isinstance(control.net, LoraFFRNet)):
            net.release()
        for kept in (self._hints, self._kvs, self._maps):
            kept.clear()

    def _row_sets(self, control: ControlConditioning, rows: tuple[Row, ...]) -> list[tuple[int, ...]]:
        """Rows that concern the person, in sets of one tile with the same number of tokens."""
        sets: dict[tuple[int, Tile | None], list[int]] = {}
        for i, row in enumerate(rows):
            kvs = self._row_kv(control, row)
            if kvs is not None and (control.pictures is None or row.picture in control.pictures):
                sets.setdefault((kvs[0][0].shape[2], row.tile), []).append(i)
        return [tuple(at) for at in sets.values()]

    def _row_kv(self, control: ControlConditioning, row: Row) -> Sequence[KeyValue] | None:
        if row.cond:
            return control.cond
        return control.uncond if self.speed is Speed.EXACT else None

    def _kv(self, index: int, rows: list[Row], net: FFRNet) -> list[KeyValue]:
        """K and V of these rows per site, each (1 or B, heads, T, head dim), as the network wants them; kept."""
        roles, like = tuple(row.cond for row in rows), net.conv_in.weight
        key = (index, roles, like.device, like.dtype)
        if key not in self._kvs:
            per_row = [kvs for kvs in (self._row_kv(self.controls[index], row) for row in rows) if kvs is not None]
            alike = len(set(roles)) == 1  # all rows share one person's tokens: broadcast them
            sites = zip(*per_row[: 1 if alike else None], strict=True)
            self._kvs[key] = [
                (torch.cat([k for k, _ in site]).to(like), torch.cat([v for _, v in site]).to(like)) for site in sites
            ]
        return self._kvs[key]

    def _compute(
        self, work: list[tuple[int, tuple[int, ...]]], inputs: UNetInputs, rows: tuple[Row, ...]
    ) -> list[RowResiduals]:
        """All people's residuals, summed where they concern the same rows."""
        sums: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
        try:
            for index, at in work:
                picked = inputs if len(at) == len(rows) else inputs.rows(torch.tensor(at, device=inputs.x.device))
                maps = self._run(index, picked, [rows[i] for i in at])
                before = sums.get(at)
                sums[at] = maps if before is None else tuple(a + b for a, b in zip(before, maps, strict=True))
        finally:
            self.networks.rest()
        return [RowResiduals(at, maps) for at, maps in sums.items()]

    def _run(self, index: int, inputs: UNetInputs, rows: list[Row]) -> tuple[Tensor, ...]:
        """One person's residuals for these rows, weighed by strength, region and the crop's feathered edge."""
        control = self.controls[index]
        net = self.networks.at(control.net, inputs.x)
        if isinstance(net, LoraFFRNet):
            assert self.unet is not None
            lent: dict[str, Tensor] = dict(self.unet.named_parameters())  # as they are now: a host may have moved them
            net.borrow(lent if self.topology.layout == "diffusers" else to_diffusers_names(lent))
        latent = (inputs.x.shape[-2], inputs.x.shape[-1])
        tile = rows[0].tile or Tile(latent, 0, 0)
        crop = _crop_of(control, latent, tile) if self.speed is Speed.FAST else None
        x = inputs.x[:, : net.config.in_channels]  # inpaint UNets append mask and masked picture
        kv = self._kv(index, rows, net)
        hint = self._hint(index, net, latent, tile, crop)
        down, middle = net(x if crop is None else cut(x, crop), inputs.t, kv, hint, inputs.y)
        maps = [*down, middle]
        if crop is not None:
            maps = [paste(r, crop, latent) for r in maps]
        if control.region is not None:
            maps = [r * self._region(index, latent, tile, r) for r in maps]
        return tuple(maps if control.strength == 1.0 else (r * control.strength for r in maps))

    def _hint(self, index: int, net: FFRNet, latent: tuple[int, int], tile: Tile, crop: Crop | None) -> Tensor:
        """The hint embedding of a piece of the picture, kept: it depends on the landmark picture only."""
        if crop is not None and crop.enlarge > 1:
            return self._embed(index, net, _enlarged_view(tile, crop))
        h, w = (n * LATENT_PIXELS for n in tile.frame)
        hint = _piece(self._embed(index, net, ControlView((h, w), 0, 0, h, w)), tile, latent)
        return hint if crop is None else cut(hint, crop)

    def _embed(self, index: int, net: FFRNet, view: ControlView) -> Tensor:
        key = (index, view, net.conv_in.weight.device, net.dtype)
        if key not in self._hints:
            pictures = self.controls[index].draw(view)
            self._hints[key] = net.embed_hint(pictures.landmarks, pictures.five_points)
        return self._hints[key]

    def _region(self, index: int, latent: tuple[int, int], tile: Tile, like: Tensor) -> Tensor:
        """The person's soft map at one level, (1, 1, H, W)."""
        size = (like.shape[-2], like.shape[-1])
        key = (index, latent, tile, size, like.device, like.dtype)
        if key not in self._maps:
            region = self.controls[index].region
            assert region is not None
            weights = _piece(F.adaptive_avg_pool2d(region.float()[None, None], tile.frame), tile, latent)
            while weights.shape[-2] > size[0] or weights.shape[-1] > size[1]:
                weights = F.avg_pool2d(weights, 2, ceil_mode=True, count_include_pad=False)
            self._maps[key] = weights.to(like)
        return self._maps[key]

    def _add_middle(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self._pending:
            return None
        self._fired.add("middle")
        for residuals in self._pending:
            output = self._add(output, residuals.rows, residuals.maps[-1], "the middle block")
        return output

    def _add_skip(self, block: int, skip: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not self._pending:
                return None
            self._fired.add(f"output.{block}")
            h = args[0]
            for residuals in self._pending:
                h = self._add(h, residuals.rows, residuals.maps[skip], f"output block {block}")
            return (h, *args[1:])

        return hook

    def _add(self, h: Tensor, rows: tuple[int, ...], residual: Tensor, place: str) -> Tensor:
        """h with the residual added to the last channels of these rows; h itself is left alone."""
        channels = residual.shape[1]
        if len(h) != self._batch or h.shape[1] < channels:
            raise AttachError(
                f"The input of {place} is {tuple(h.shape)}, FFRNet's residual {tuple(residual.shape)}.",
                expected=f"{self._batch} rows with at least {channels} channels",
                remedy="switch off the extension that splits the batch inside the UNet, or use another FFRNet",
            )
        if residual.shape[-2:] != h.shape[-2:]:  # an extension resized the hidden states
            residual = F.interpolate(residual.float(), h.shape[-2:], mode="bilinear", align_corners=False)
        residual = residual.to(h)
        out = h.clone()
        if len(rows) == len(h):
            out[:, -channels:] += residual
        else:
            out[torch.tensor(rows, device=h.device), -channels:] += residual
        return out


def _crop_of(control: ControlConditioning, latent: tuple[int, int], tile: Tile) -> Crop | None:
    """The square around the face inside a tile."""
    assert control.face is not None
    (h, w), (left, top, right, bottom) = tile.frame, control.face
    return plan_crop((left * w - tile.left, top * h - tile.top, right * w - tile.left, bottom * h - tile.top), latent)


def _piece(whole: Tensor, tile: Tile, latent: tuple[int, int]) -> Tensor:
    return whole[..., tile.top : tile.top + latent[0], tile.left : tile.left + latent[1]]


def _enlarged_view(tile: Tile, crop: Crop) -> ControlView:
    """The square as a piece of a frame that is enlarged with it, in pixels."""
    scale = LATENT_PIXELS * crop.enlarge
    h, w = (n * scale for n in tile.frame)
    top, left, side = (n * scale for n in (tile.top + crop.top, tile.left + crop.left, crop.side))
    return ControlView((h, w), top, left, side, side)


def _check_fit(topology: Topology, control: ControlConditioning, speed: Speed) -> None:
    skips, blocks = len(skip_widths(control.net.config)), len(topology.output_first)
    if skips != blocks:
        raise SettingsError(
            f"The FFRNet makes {skips} skip residuals, the UNet takes {blocks}.",
            expected=f"an FFRNet made for this {topology.base} UNet",
            remedy="choose another adapter or another base model",
        )
    if speed is Speed.FAST and control.face is None:
        raise SettingsError(
            "The speed setting 'fast' needs to know where the face is.",
            expected="a box of the face in the generated picture",
            remedy="give the face's box, or use 'balanced'",
        )
