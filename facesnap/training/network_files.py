"""Files of small networks: safetensors that appear whole or not at all, and networks filled from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facesnap.errors import CheckpointError
from facesnap.files import write_atomically

Network = TypeVar("Network", bound=nn.Module)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, from any device, as safetensors; the file appears under its name only when it is whole."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(file, lambda part: save_file(kept, part, metadata=metadata))


def save_network(model: nn.Module, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a network's tensors, as `load_frozen` reads them."""
    save_tensors(model.state_dict(), file, metadata)


def load_frozen(model: Network, file: Path, stage: str) -> Network:
    """Fill a network from what `save_network` wrote, for use alone.

    Args:
        stage: of `facesnap tiny` that writes such a file, for the message.

    Raises:
        CheckpointError: the file is missing, damaged or another network's.
    """
    try:
        model.load_state_dict(load_file(file))
    except Exception as error:  # safetensors and torch raise many kinds
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}: {error}).",
            expected=f"the network that `facesnap tiny {stage}` writes.",
            remedy="train it again.",
        ) from error
    return model.eval().requires_grad_(False)


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})
