"""FFRNet as a LoRA on the UNet's own encoder: a small file, and no second encoder in memory.

What only FFRNet has is kept whole: its input and output convolutions, the hint networks, and the keys and values of
the ID tokens, which are no words. Every other tensor is the UNet's, borrowed for the call; beside its linear and
convolutional layers runs a low-rank change (arXiv 2106.09685), as in Control-LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from facesnap.errors import AttachError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import HINT, LANDMARK_HINT, FFRNetConfig
from facesnap.models.tensors import check_tensors, on_meta

OWN = ("conv_in.", "controlnet_down_blocks.", "controlnet_mid_block.", f"{HINT}.", f"{LANDMARK_HINT}.")
OWN_LAYERS = (".attn2.to_k.weight", ".attn2.to_v.weight")


class LowRank(nn.Module):
    """up(down(x)) of the shape of a layer's output; a fresh one gives zeros.

    Args:
        layer: linear or convolutional. rank: at most; never more than the layer's own.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            rank = min(rank, layer.in_channels, layer.out_channels)
            self.down: nn.Module = nn.Conv2d(
                layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, bias=False  # type: ignore[arg-type]
            )  # fmt: skip
            self.up: nn.Module = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            rank = min(rank, layer.in_features, layer.out_features)
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)  # type: ignore[arg-type]
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class LoraFFRNet(FFRNet):
    """An FFRNet that owns a low-rank change of a UNet's encoder; `borrow` must come before the first call.

    Args:
        config: its shape, that of the UNet's encoder. rank: of the change.

    Attributes:
        borrowed: of each tensor that is the UNet's, by name, the layer it belongs to, its name there and its shape.
    """

    def __init__(self, config: FFRNetConfig, rank: int) -> None:
        with on_meta():  # the encoder is never allocated
            super().__init__(config)
        self.rank = rank
        self.borrowed: dict[str, tuple[nn.Module, str, torch.Size]] = {}
        for name, parameter in list(self.named_parameters()):
            if not name.startswith(OWN) and not name.endswith(OWN_LAYERS):
                path, _, key = name.rpartition(".")
                owner = self.get_submodule(path)
                del owner._parameters[key]
                self.borrowed[name] = (owner, key, parameter.shape)
        for name, module in list(self.named_modules()):
            if f"{name}.weight" in self.borrowed and isinstance(module, (nn.Linear, nn.Conv2d)):
                module.lora = LowRank(module, rank)
                module.register_forward_hook(_add)

    @classmethod
    def from_unet_state_dict(  # type: ignore[override]
        cls, config: FFRNetConfig, unet: Mapping[str, Tensor], rank: int = 64
    ) -> LoraFFRNet:
        """A network to train: outputs and low-rank change fresh, input, keys and values copied from a UNet.

        Args:
            config: its shape. unet: the UNet's state dict under diffusers' names.

        Raises:
            CheckpointError: the UNet lacks a tensor of the encoder or has it in another shape.
        """
        net = cls(config, rank)
        for module in net.modules():
            own = [p for p in module._parameters.values() if p is not None]
            if own and all(p.is_meta for p in own):
                module.to_empty(device="cpu", recurse=False)
                module.reset_parameters()  # type: ignore[operator]
        copied = {n: p for n, p in net.named_parameters() if n.startswith("conv_in.") or n.endswith(OWN_LAYERS)}
        donor = {name: unet[name] for name in copied if name in unet}
        if "conv_in.weight" in donor:
            donor["conv_in.weight"] = donor["conv_in.weight"][:, : config.in_channels]
        check_tensors(copied, donor, network="UNet's encoder")
        net.controlnet_cond_embedding.draw()
        zeros = [net.controlnet_mid_block, *net.controlnet_down_blocks]
        if config.landmark_hint_channels is not None:
            zeros.append(net.landmark_cond_embedding.conv_out)
        with torch.no_grad():
            for name, parameter in copied.items():
                parameter.copy_(donor[name])
            for parameter in (p for module in zeros for p in module.parameters()):
                parameter.zero_()
        return net

    def borrow(self, unet: Mapping[str, Tensor]) -> None:
        """Use a UNet's tensors from now on, without copying them; again before each call of a UNet that may move.

        Args:
            unet: its tensors under diffusers' names.

        Raises:
            AttachError: the UNet lacks one, or its weights are quantised, unlike in shape, or on several devices.
        """
        device = self.conv_in.weight.device
        for name, (owner, key, shape) in self.borrowed.items():
            tensor = unet.get(name)
            fits = tensor is not None and tensor.shape == shape and tensor.is_floating_point()
            if tensor is None or not fits or tensor.element_size() < 2 or tensor.device != device:
                found = "none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
                raise AttachError(
                    f"This adapter's FFRNet is a LoRA on the base model, whose tensor {name} is {found}.",
                    expected=f"{tuple(shape)} in 16 or 32 bits on {device}",
                    remedy="load the base model unquantised and whole (no --lowvram), or use an adapter with a full "
                    "FFRNet",
                )
            owner.__dict__[key] = tensor.detach()

    def release(self) -> None:
        """Let go of the UNet's tensors."""
        for owner, key, _ in self.borrowed.values():
            owner.__dict__.pop(key, None)


def _add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + layer.lora(args[0])  # type: ignore[operator]
