"""The LoRA that FaceID files carry beside their ID projections, for every self- and cross-attention of the UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from facesnap.errors import CheckpointError

ATTENTIONS = ("attn1", "attn2")
LAYERS = ("to_q", "to_k", "to_v", "to_out")
PREFIX = "lora."


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """layer(x) + strength * up(down(x)); down (rank, inputs), up (outputs, rank)."""

    down: Tensor
    up: Tensor

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or self.down.shape[0] != self.up.shape[1]:
            raise CheckpointError(
                f"A LoRA layer has down {tuple(self.down.shape)} and up {tuple(self.up.shape)}.",
                expected="(rank, inputs) and (outputs, rank)",
                remedy="the file is damaged or of another kind; fetch it again",
            )


@dataclass(frozen=True, eq=False)
class AttentionLora:
    """Layers by canonical name `input.4.1.0.attn1.to_q`: site, attention, layer."""

    layers: Mapping[str, LoraLayer]

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(layer.down.shape[0] for layer in self.layers.values())

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(layer.down.numel() + layer.up.numel() for layer in self.layers.values())

    def tensors(self) -> dict[str, Tensor]:
        """Named as in our own files: `lora.input_4_1_0.attn1.to_q.down`."""
        out: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            site, attention, part = name.rsplit(".", 2)
            key = f"{PREFIX}{site.replace('.', '_')}.{attention}.{part}"
            out |= {f"{key}.down": layer.down, f"{key}.up": layer.up}
        return out

    @classmethod
    def split(cls, tensors: Mapping[str, Tensor]) -> tuple[AttentionLora | None, dict[str, Tensor]]:
        """(the LoRA among the tensors of one of our files, or None; all other tensors).

        Raises:
            CheckpointError: half a layer, or a name of no attention.
        """
        halves: dict[str, dict[str, Tensor]] = {}
        others = {}
        for name, tensor in tensors.items():
            if not name.startswith(PREFIX):
                others[name] = tensor
                continue
            key, _, half = name[len(PREFIX) :].rpartition(".")
            halves.setdefault(key, {})[half] = tensor
        layers = {}
        for key, parts in halves.items():
            site, _, rest = key.partition(".")
            known = rest in {f"{a}.{layer}" for a in ATTENTIONS for layer in LAYERS}
            if set(parts) != {"down", "up"} or not known or not all(t.is_floating_point() for t in parts.values()):
                raise CheckpointError(
                    f"The LoRA's layer {key} has the parts {sorted(parts)}.",
                    expected="down and up, floating point, of to_q, to_k, to_v or to_out of attn1 or attn2",
                    remedy="the file is damaged or of another kind; fetch or convert it again",
                )
            layers[f"{site.replace('_', '.')}.{rest}"] = LoraLayer(parts["down"], parts["up"])
        return (cls(layers) if layers else None), others
