"""ControlNet files in ldm's layout -> diffusers' tensor names (a renaming; no tensor is touched)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from facesnap.errors import CheckpointError
from facesnap.models.tensors import count_indices

PREFIXES = ("control_model.", "model.diffusion_model.", "")
RESIDUAL_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
STEMS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block_out.0": "controlnet_mid_block",
}
MIDDLE = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
BLOCK_PART = re.compile(r"((?:in|out|emb)_layers\.\d+|skip_connection)\.(weight|bias)")


def is_ldm_layout(names: Mapping[str, object]) -> bool:
    """True for the encoder names of ldm and sgm, with or without a checkpoint's prefix."""
    return any(prefix + "input_blocks.0.0.weight" in names for prefix in PREFIXES)


def to_diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ControlNet, or the encoder and middle of a UNet, from ldm's to diffusers' names.

    Args:
        state: ``input_blocks.*``, ``middle_block.*``, ``zero_convs.*``, ``middle_block_out.*``,
            ``input_hint_block.*``, ``time_embed.*``, ``label_emb.*``, bare or below ``control_model.`` or
            ``model.diffusion_model.``. Of a whole checkpoint everything without that prefix is left out,
            and so are a UNet's decoder and output layers.

    Returns:
        the same tensors under the names of diffusers' ControlNetModel.

    Raises:
        CheckpointError: it is not in ldm's layout, or a name belongs to no known layer.
    """
    if not is_ldm_layout(state):
        raise CheckpointError(
            "The file is not a ControlNet in ldm's layout.",
            expected="tensors named input_blocks.0.0.weight and so on.",
            remedy="Choose a ControlNet file; files in diffusers' layout need no renaming.",
        )
    prefix = next(p for p in PREFIXES if p + "input_blocks.0.0.weight" in state)
    bare = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    blocks = _input_block_names(bare)
    hints = _hint_names(bare)
    decoder = ("output_blocks.", "out.")
    return {_renamed(name, blocks, hints): tensor for name, tensor in bare.items() if not name.startswith(decoder)}


def _input_block_names(bare: Mapping[str, Tensor]) -> dict[str, str]:
    """``input_blocks.N.M`` -> ``down_blocks.i.resnets.j``, ``.attentions.j`` or ``.downsamplers.0.conv``."""
    names, level, layer = {}, 0, 0
    for n in range(1, count_indices(bare, "input_blocks.")):
        if f"input_blocks.{n}.0.op.weight" in bare:
            names[f"input_blocks.{n}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, layer = level + 1, 0
        else:
            names[f"input_blocks.{n}.0"] = f"down_blocks.{level}.resnets.{layer}"
            names[f"input_blocks.{n}.1"] = f"down_blocks.{level}.attentions.{layer}"
            layer += 1
    return names


def _hint_names(bare: Mapping[str, Tensor]) -> dict[str, str]:
    """The hint network is a sequence with SiLU between: its convolutions have the even indices."""
    last = count_indices(bare, "input_hint_block.") - 1
    names = {f"input_hint_block.{i}": f"controlnet_cond_embedding.blocks.{i // 2 - 1}" for i in range(2, last, 2)}
    return {
        **names,
        "input_hint_block.0": "controlnet_cond_embedding.conv_in",
        f"input_hint_block.{last}": "controlnet_cond_embedding.conv_out",
    }


def _renamed(name: str, blocks: Mapping[str, str], hints: Mapping[str, str]) -> str:
    stem, _, kind = name.rpartition(".")
    for table in (STEMS, hints, blocks):
        if stem in table:
            return f"{table[stem]}.{kind}"
    parts = name.split(".")
    if parts[0] == "zero_convs" and len(parts) == 4:
        return f"controlnet_down_blocks.{parts[1]}.{kind}"
    if parts[0] == "middle_block" and parts[1] in ("0", "1", "2"):
        return _in_block(MIDDLE[int(parts[1])], ".".join(parts[2:]), name)
    if ".".join(parts[:3]) in blocks:
        return _in_block(blocks[".".join(parts[:3])], ".".join(parts[3:]), name)
    raise _unknown(name)


def _in_block(block: str, part: str, name: str) -> str:
    """Inside a transformer both layouts use the same names; a residual block's parts are renamed."""
    if ".attentions." in block:
        return f"{block}.{part}"
    match = BLOCK_PART.fullmatch(part)
    if match is None or match[1] not in RESIDUAL_BLOCK:
        raise _unknown(name)
    return f"{block}.{RESIDUAL_BLOCK[match[1]]}.{match[2]}"


def _unknown(name: str) -> CheckpointError:
    return CheckpointError(
        f"The ControlNet's tensor {name} belongs to no known layer.",
        expected="the layers of an SD 1.5 or SDXL encoder, its zero convolutions and its hint network.",
        remedy="Choose a ControlNet of that kind; T2I adapters and Control-LoRAs are other networks.",
    )
