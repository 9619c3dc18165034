"""ldm's ControlNet names -> diffusers' names."""

from __future__ import annotations

import re

import pytest
import torch

from facesnap.errors import CheckpointError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig
from facesnap.models.ldm_names import MIDDLE, RESIDUAL_BLOCK, STEMS, to_diffusers_names

CONFIGS = {
    "sd15": FFRNetConfig.sd15(),
    "sdxl": FFRNetConfig.sdxl(),
}
# input_blocks index of each down block's layers and halving, written out from the published layouts
LDM_BLOCKS = {
    "sd15": {
        **{f"down_blocks.{i}.{j}": 1 + 3 * i + j for i in range(4) for j in range(2)},
        **{f"down_blocks.{i}.down": 3 + 3 * i for i in range(3)},
    },
    "sdxl": {
        **{f"down_blocks.{i}.{j}": 1 + 3 * i + j for i in range(3) for j in range(2)},
        **{f"down_blocks.{i}.down": 3 + 3 * i for i in range(2)},
    },
}


def ldm_name(name: str, layout: str) -> str:
    """The ldm name of a tensor of diffusers' layout, from the published tables."""
    stem, kind = name.rsplit(".", 1)
    inverse = {v: k for k, v in STEMS.items()}
    parts = {v: k for k, v in RESIDUAL_BLOCK.items()}
    if stem in inverse:
        return f"{inverse[stem]}.{kind}"
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", stem):
        return f"zero_convs.{match[1]}.0.{kind}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d))", stem):
        index = {"conv_in": 0, "conv_out": 14}.get(match[1])
        return f"input_hint_block.{2 * int(match[2]) + 2 if index is None else index}.{kind}"
    if match := re.fullmatch(r"(down_blocks\.\d)\.downsamplers\.0\.conv", stem):
        return f"input_blocks.{LDM_BLOCKS[layout][match[1] + '.down']}.0.op.{kind}"
    block, site, index, rest = re.fullmatch(
        r"(mid_block|down_blocks\.\d)\.(resnets|attentions)\.(\d)\.(.+)", stem
    ).groups()
    rest = rest if site == "attentions" else parts[rest]
    if block == "mid_block":
        return f"middle_block.{MIDDLE.index(f'{block}.{site}.{index}')}.{rest}.{kind}"
    n = LDM_BLOCKS[layout][f"{block}.{index}"]
    return f"input_blocks.{n}.{int(site == 'attentions')}.{rest}.{kind}"


def state_of(layout: str) -> dict:
    with torch.device("meta"):
        return FFRNet(CONFIGS[layout]).state_dict()


@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize("layout", CONFIGS)
def test_every_tensor_gets_its_diffusers_name(layout, prefix):
    state = state_of(layout)
    ldm = {prefix + ldm_name(name, layout): tensor for name, tensor in state.items()}
    assert len(ldm) == len(state)
    renamed = to_diffusers_names(ldm)
    assert renamed.keys() == state.keys()
    assert all(renamed[name] is tensor for name, tensor in state.items())
    assert FFRNetConfig.from_state_dict(renamed) == CONFIGS[layout]


def test_agrees_with_diffusers_own_conversion():
    from diffusers.loaders import single_file_utils

    state = state_of("sd15")
    ldm = {"control_model." + ldm_name(name, "sd15"): tensor for name, tensor in state.items()}
    config = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    theirs = single_file_utils.convert_controlnet_checkpoint(dict(ldm), config)
    ours = to_diffusers_names(ldm)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)


def test_known_names():
    names = {
        "input_blocks.0.0.weight": "conv_in.weight",
        "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "input_blocks.4.0.skip_connection.bias": "down_blocks.1.resnets.0.conv_shortcut.bias",
        "input_blocks.5.1.transformer_blocks.1.attn2.to_out.0.weight": (
            "down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_out.0.weight"
        ),
        "middle_block.2.out_layers.3.weight": "mid_block.resnets.1.conv2.weight",
        "input_hint_block.14.weight": "controlnet_cond_embedding.conv_out.weight",
    }
    ldm = {ldm_name(name, "sdxl"): tensor for name, tensor in state_of("sdxl").items()}
    renamed = to_diffusers_names(ldm)
    assert all(renamed[new] is ldm[old] for old, new in names.items())


def test_strangers_are_refused():
    with pytest.raises(CheckpointError, match="not a ControlNet in ldm"):
        to_diffusers_names({"lora_controlnet": torch.zeros(1)})
    base = {"input_blocks.0.0.weight": torch.zeros(1)}
    for name in ("input_blocks.1.0.in_layers.0.up", "middle_block.7.weight", "lora_controlnet", "weight"):
        with pytest.raises(CheckpointError, match=re.escape(name)):
            to_diffusers_names({**base, name: torch.zeros(1)})
