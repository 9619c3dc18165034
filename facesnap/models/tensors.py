"""State dicts as checked input: every tensor that does not fit is named before anything is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facesnap.errors import CheckpointError

NAMED_AT_MOST = 6
M = TypeVar("M", bound=nn.Module)


class _Undrawn(TorchFunctionMode):
    """Leaves out torch.nn.init, whose steps a meta tensor takes one by one and for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Networks that are built inside lie on the meta device, for tensors to be loaded into them."""
    with torch.device("meta"), _Undrawn():
        yield


def count_indices(names: Mapping[str, object], prefix: str) -> int:
    """Number of numbered children below ``prefix``: highest index in ``{prefix}{index}.`` plus one.

    Gaps are counted too, so that a file that lost a middle block is refused by its missing tensors
    instead of being read as a shorter network.
    """
    indices = (name[len(prefix) :].split(".", 1)[0] for name in names if name.startswith(prefix))
    count = max((int(index) + 1 for index in indices if index.isdecimal()), default=0)
    return min(count, len(names))  # a damaged name must not make anyone build a billion blocks


def shape_of(state: Mapping[str, Tensor], name: str, *ranks: int, network: str) -> tuple[int, ...]:
    """The shape of a tensor that fixes a size.

    Args:
        ranks: the numbers of dimensions that it may have. network: the network's name, for the message.

    Raises:
        CheckpointError: it is missing, or has another number of dimensions.
    """
    if name not in state or state[name].ndim not in ranks:
        found = tuple(state[name].shape) if name in state else "missing"
        raise CheckpointError(
            f"The {network}'s tensor {name} is {found}.",
            expected=f"a tensor of {' or '.join(map(str, ranks))} dimensions",
            remedy="the file is damaged or of another kind; fetch or convert it again",
        )
    return tuple(state[name].shape)


def check_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], *, network: str) -> None:
    """Compare names and shapes of two state dicts.

    Args:
        expected: the state dict of the network to be filled (a network on the meta device will do).
        given: the state dict of the file. network: the network's name, for the message.

    Raises:
        CheckpointError: names every missing, extra and wrongly shaped tensor with its shapes (the first
            six of each kind).
    """
    missing = [f"{name} {tuple(t.shape)}" for name, t in expected.items() if name not in given]
    extra = [f"{name} {tuple(t.shape)}" for name, t in given.items() if name not in expected]
    wrong = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(t.shape)}"
        for name, t in expected.items()
        if name in given and given[name].shape != t.shape
    ]
    kinds = (("missing", missing), ("not part of the network", extra), ("of another shape", wrong))
    faults = [f"{len(found)} {kind}: {_listed(found)}" for kind, found in kinds if found]
    if faults:
        raise CheckpointError(
            f"The tensors of the {network} do not fit. {'; '.join(faults)}.",
            expected=f"exactly the {len(expected)} tensors of its layout, with their shapes.",
            remedy="Download or convert the file again, or choose a checkpoint of this kind.",
        )


def of_one_dtype(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the widest of their floating-point dtypes: a network computes in one. Those in it are shared."""
    dtypes = {t.dtype for t in state.values() if t.is_floating_point()}
    if len(dtypes) < 2:
        return dict(state)
    widest = reduce(torch.promote_types, dtypes)
    return {name: t.to(widest) if t.is_floating_point() else t for name, t in state.items()}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, network: str) -> None:
    """Check ``state`` against ``module`` and only then let the module take over its tensors.

    The tensors are assigned, not copied: the module gets their dtype and device, and a module built on
    the meta device needs no second allocation.
    """
    check_tensors(module.state_dict(), state, network=network)
    module.load_state_dict(dict(state), strict=True, assign=True)


def copied_to(module: M, device: torch.device, dtype: torch.dtype) -> M:
    """A copy of a network to compute with; the network itself is left alone.

    Tensors that are on the device in the dtype are shared, not copied, and the others go there one by one: no second
    set of weights lies on the CPU meanwhile.
    """
    moved: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():  # hosts sample in inference mode, whose tensors cannot leave it
        for tensor in chain(module.parameters(), module.buffers()):
            there = tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype)
            moved[id(tensor)] = nn.Parameter(there, False) if isinstance(tensor, nn.Parameter) else there
        return copy.deepcopy(module, moved)


def _listed(found: list[str]) -> str:
    more = len(found) - NAMED_AT_MOST
    return ", ".join(found[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
