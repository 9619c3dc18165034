"""A second device without its hardware: tensors that say where they lie, and calls that refuse to mix places.

All values are computed on the CPU and are right. A mode over torch's whole Python API keeps, beside each tensor, the
device that it would be on, answers `.device` with it, and raises as torch does where two devices meet.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DEVICE, DATA = torch.Tensor.device.__get__, torch.Tensor.data.__set__
ACROSS = (torch.Tensor.copy_, torch._has_compatible_shallow_copy_type)  # may see two devices


class Elsewhere(torch.Tensor):
    """A tensor that is not on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Devices(TorchFunctionMode):
    """While it is on, tensors may be sent to GPU.

    Attributes:
        uploads: (shape, dtype) of each tensor of one or more dimensions that has come to GPU from the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[tuple[tuple[int, ...], torch.dtype]] = []
        self._there: list[weakref.ref[Tensor]] = []

    def __enter__(self) -> Devices:
        gc.freeze()  # what is older lies on the CPU: on_gpu need not look through all of torch each time
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        gc.unfreeze()

    def on_gpu(self) -> list[Tensor]:
        """All tensors that are alive there, views too."""
        gc.collect()
        self._there = [ref for ref in self._there if ref() is not None]
        return list({id(t): t for ref in self._there if (t := ref()) is not None and place(t) == GPU}.values())

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == DEVICE:
            return place(args[0])
        if func == DATA:  # parameter.data = tensor
            func(*args)
            self._mark(args[0], place(args[1]))
            return None
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return self._to(args[0], CPU)
        if getattr(func, "__name__", "") == "__get__" and not isinstance(value := func(*args), Tensor):
            return value  # a shape, a dtype
        given: list[Tensor] = []
        tensors(args, given)
        if kwargs:
            tensors(kwargs.values(), given)
        places = {there for t in given if (there := place(t)) != CPU or t.ndim}
        if func in ACROSS:
            places = {place(given[0])}
        if len(places) > 1:
            found = ", ".join(f"{tuple(t.shape)} on {place(t)}" for t in given)
            raise RuntimeError(f"{func.__name__}: expected all tensors to be on the same device, found {found}")
        there = places.pop() if places else CPU
        if kwargs.get("device") is not None:
            there, kwargs["device"] = normal(kwargs["device"]), "cpu"
        return self._results(func(*args, **kwargs), there, {id(t) for t in given})

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            there, dtype = place(args[0]), args[0].dtype
        else:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
            there = place(tensor) if device is None else normal(device)
        out = tensor if dtype is None or dtype == tensor.dtype else tensor.to(dtype)
        if there == place(tensor) and out is tensor and not kwargs.get("copy"):
            return tensor
        if there == GPU and place(tensor) == CPU and tensor.ndim:
            self.uploads.append((tuple(tensor.shape), out.dtype))
        return self._results(out.clone() if out is tensor else out, there, set())

    def _results(self, result: Any, there: torch.device, given: set[int]) -> Any:
        if isinstance(result, Tensor):
            if id(result) in given and place(result) == there:  # in place
                return result
            own = result.clone() if id(result) in given else result
            return own.as_subclass(torch.Tensor) if there == CPU else self._mark(own.as_subclass(Elsewhere), there)
        if isinstance(result, (tuple, list)):
            parts = [self._results(one, there, given) for one in result]
            return type(result)(parts) if type(result) in (tuple, list) else parts
        return result

    def _mark(self, tensor: Tensor, there: torch.device) -> Tensor:
        tensor.lies = there
        if there == GPU:
            self._there.append(weakref.ref(tensor))
        return tensor


def place(tensor: Tensor) -> torch.device:
    return getattr(tensor, "lies", CPU)


def normal(device: Any) -> torch.device:
    device = torch.device(device)
    return GPU if device.type == "cuda" else device


def tensors(tree: Iterable[Any], found: list[Tensor]) -> None:
    """Add all tensors in nested tuples, lists and dicts."""
    for one in tree:
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, (tuple, list)):
            tensors(one, found)
        elif isinstance(one, dict):
            tensors(one.values(), found)


def places(module: nn.Module) -> set[torch.device]:
    return {place(parameter) for parameter in module.parameters()}
