"""Files of small networks: safetensors that appear whole or not at all, and networks filled from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facesnap.errors import CheckpointError
from facesnap.files import write_atomically
from facesnap.remedies import command

Network = TypeVar("Network", bound="SmallNetwork")


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, from any device, as safetensors; the file appears under its name only when it is whole."""
    # safetensors refuses tensors that share a storage, as the parts of a split one do: each gets its own.
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(file, lambda part: save_file(kept, part, metadata=metadata))


class SmallNetwork(nn.Module):
    """A network with a file of its own. `stage`: of `facesnap tiny` that writes it; `metadata`: of the file."""

    stage: ClassVar[str]
    metadata: ClassVar[dict[str, str] | None] = None

    @classmethod
    def load(cls: type[Network], file: Path) -> Network:
        """Read what `save` wrote, frozen; CheckpointError where it is missing, damaged or another network's."""
        model = cls()
        try:
            model.load_state_dict(load_file(file))
        except Exception as error:  # safetensors and torch raise many kinds
            raise CheckpointError(
                f"{file} cannot be read ({type(error).__name__}: {error}).",
                expected=f"the network that {command(f'tiny {cls.stage}')} writes.",
                remedy="train it again.",
            ) from error
        return model.eval().requires_grad_(False)

    def save(self, file: Path) -> None:
        save_tensors(self.state_dict(), file, self.metadata)


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})
