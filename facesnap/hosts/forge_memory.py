"""FFRNet in the memory management of Forge and its forks: the host moves it, as it moves ControlNets.

A model patcher carries a copy of the network. It is registered on a clone of the UNet's patcher before every
sampling, so the host loads it together with the UNet, counts its memory, and sends it away when it needs the room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from facesnap.errors import HostError
from facesnap.hosts.memory import Placement, Stay, computing
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig
from facesnap.models.tensors import copied_to

CPU = torch.device("cpu")
ROOTS = (  # Forge; reForge and Forge-Classic
    ("backend.memory_management", "backend.patcher.base"),
    ("ldm_patched.modules.model_management", "ldm_patched.modules.model_patcher"),
)


class FFRNetCarrier(nn.Module):
    """Copy of a network, moved by the host's memory manager. Back on the CPU it shares the original's tensors again
    where the dtypes agree, so that the weights lie in memory once.

    Attributes:
        net: the copy. patcher: the host's model patcher of this carrier; the host forgets patchers that are not held.
    """

    def __init__(self, original: FFRNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.net: Any = copied_to(original, CPU, dtype)
        self.patcher: Any = None
        self._original: tuple[FFRNet, ...] = (original,)  # in a tuple: no submodule

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FFRNetCarrier:
        super()._apply(fn, recurse)
        agree = all(self.net.dtype == original.dtype for original in self._original)
        if agree and all(one.device == CPU for one in self.net.parameters()):
            self.give_up()
        return self

    def give_up(self) -> None:
        """Hold no memory of its own: take the original's tensors, whatever their dtype."""
        for original in self._original:
            for mine, own in zip(self.net.parameters(), original.parameters(), strict=True):
                mine.data = own.detach()

    def end(self) -> None:
        """Let go of both networks. The host's patcher and the objects that it puts on this module hold it, and it them:
        what stays until Python's collector comes is a shell."""
        self._original = ()
        self.net = nn.Module()
        self.patcher = None


class ForgePlacement(Placement):
    """Networks are moved by the host's memory manager.

    Args:
        stay: see `Placement`; the host may send them away earlier.
        objects: gives the `forge_objects` of the model that the host samples with now.
    """

    def __init__(self, stay: Callable[[], Stay], objects: Callable[[], Any]) -> None:
        super().__init__(stay)
        self._objects = objects
        self._registered: list[tuple[Any, Any, int]] = []  # (UNet's patcher, ours, bytes preserved)

    def expect(self, networks: Sequence[FFRNet], shape: Sequence[int]) -> None:
        objects = self._objects()
        known = {id(patcher) for patcher in objects.unet.extra_model_patchers_during_sampling}
        model = objects.unet.model
        declared = [getattr(model, name, None) for name in ("computation_dtype", "manual_cast_dtype")]
        dtype = computing(*declared, model.get_dtype() if hasattr(model, "get_dtype") else None)
        carriers = [self._carrier(net, dtype) for net in networks]
        new = [carrier for carrier in carriers if id(carrier.patcher) not in known]
        if not new:
            return
        unet = objects.unet.clone()  # the next pass starts from the host's own again
        for carrier in new:
            memory = _needed(carrier, shape, unet.load_device)
            unet.add_extra_model_patcher_during_sampling(carrier.patcher)
            unet.add_extra_preserved_memory_during_sampling(memory)
            self._registered.append((unet, carrier.patcher, memory))
        objects.unet = unet

    def at(self, net: FFRNet, x: Tensor) -> FFRNet:
        carrier = self._carrier(net, computing(x.dtype))
        if any(parameter.device != x.device for parameter in carrier.net.parameters()):
            # A refiner's UNet has no extra patchers, and the host may have needed the room in the meantime.
            unet, (memory, _) = self._objects().unet, _tools()
            memory.load_models_gpu([unet, carrier.patcher], memory_required=unet.memory_required(list(x.shape)))
            # Short of room, some forks load a part only. FFRNet has no layers that fetch their weights one by one.
            carrier.net.to(x.device)
        return carrier.net

    def leave(self) -> None:
        while self._registered:
            unet, patcher, memory = self._registered.pop()
            patchers = unet.extra_model_patchers_during_sampling
            patchers[:] = [one for one in patchers if one is not patcher]
            unet.extra_preserved_memory_during_sampling -= memory
        super().leave()

    def drop(self, net: FFRNet) -> None:
        carrier = self.copies.pop(net)
        carrier.give_up()
        memory, _ = _tools()
        loaded = memory.current_loaded_models
        for i in reversed(range(len(loaded))):
            if loaded[i].model is carrier.patcher:
                loaded.pop(i).model_unload()
        carrier.end()
        memory.soft_empty_cache()

    def _carrier(self, net: FFRNet, dtype: torch.dtype) -> FFRNetCarrier:
        if net in self.copies and self.copies[net].net.dtype != dtype:
            self.drop(net)
        carrier: FFRNetCarrier | None = self.copies.pop(net, None)
        if carrier is None:
            _, patchers = _tools()
            carrier = FFRNetCarrier(net, dtype)
            carrier.patcher = patchers.ModelPatcher(carrier, self._objects().unet.load_device, CPU)
        self.copies[net] = carrier  # the one used last
        return carrier


def _tools() -> tuple[Any, Any]:
    """The host's modules of memory management and of the model patcher."""
    for management, patcher in ROOTS:
        try:
            return import_module(management), import_module(patcher)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != management.split(".")[0]:
                raise
    raise HostError(
        "This fork of Forge has its memory management in an unknown place, and FFRNet cannot be moved by it.",
        expected="one of the modules " + ", ".join(management for management, _ in ROOTS),
        remedy="set the structure strength to 0 to use the ID tokens alone, and report the fork's name",
    )


def _needed(carrier: FFRNetCarrier, shape: Sequence[int], device: torch.device) -> int:
    """Bytes that a sampling needs beside the UNet's own and the loaded models: the residuals, those of the call
    before too, and the network itself where it is not there yet: Forge decides about the UNet first. FFRNet's other
    activations are gone before the UNet computes, and smaller than the UNet's."""
    weights = [parameter for parameter in carrier.net.parameters() if parameter.device != device]
    size = sum(parameter.numel() * parameter.element_size() for parameter in weights)
    rows, _, height, width = shape
    return size + 2 * 2 * rows * _residuals(carrier.net.config, height, width) * carrier.net.dtype.itemsize


def _residuals(config: FFRNetConfig, height: int, width: int) -> int:
    """Numbers in the residuals of one row."""
    numbers = config.channels[0] * height * width
    for level, (channels, layers) in enumerate(zip(config.channels, config.depth, strict=True)):
        numbers += channels * height * width * len(layers)
        if level < len(config.channels) - 1:
            height, width = -(-height // 2), -(-width // 2)
            numbers += channels * height * width
    return numbers + config.channels[-1] * height * width
