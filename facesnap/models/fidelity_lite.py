"""The lite FFRNet: fewer transformer blocks in the deep stages, where nearly all parameters are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from facesnap.errors import CheckpointError
from facesnap.models.tensors import count_indices

SDXL_LITE = (0, 2, 2, 2)  # depth of each level and of the middle: 0.42 B instead of 1.25 B parameters

_BLOCK = re.compile(r"(.+\.attentions\.\d+\.transformer_blocks\.)(\d+)(\..+)")


def lite_state_dict(full: Mapping[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """Keep evenly spaced transformer blocks of a full FFRNet: a start for residual distillation.

    Of n blocks cut to m, block ``floor(k * n / m)`` becomes block k: from 10 to 2, blocks 0 and 5. All
    other tensors stay, so the result is a smaller FFRNet of the same layout.

    Args:
        full: state dict of the full network; its tensors are shared, not copied.
        depths: transformer blocks to keep in each level, shallow to deep, the middle's last; for a level
            without attention the number is ignored.

    Returns:
        the state dict of the lite network.

    Raises:
        CheckpointError: another number of depths than levels + 1, or a depth of 0 or above the full one's
            where there is attention.
    """
    levels = count_indices(full, "down_blocks.")
    if len(depths) != levels + 1:
        raise CheckpointError(
            f"{len(depths)} depths were given for a lite FFRNet.",
            expected=f"{levels + 1}: one per level and the middle's.",
            remedy=f"For SDXL use {SDXL_LITE}.",
        )
    lite: dict[str, Tensor] = {}
    for name, tensor in full.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            lite[name] = tensor
            continue
        prefix, index, rest = match.groups()
        blocks = count_indices(full, prefix)
        level = levels if prefix.startswith("mid_block.") else int(prefix.split(".")[1])
        kept = _kept_blocks(blocks, depths[level], prefix)
        if int(index) in kept:
            lite[f"{prefix}{kept.index(int(index))}{rest}"] = tensor
    return lite


def _kept_blocks(blocks: int, depth: int, prefix: str) -> list[int]:
    if not 1 <= depth <= blocks:
        raise CheckpointError(
            f"{prefix} has {blocks} transformer blocks; {depth} cannot be kept.",
            expected=f"1 to {blocks}.",
            remedy="Ask for fewer blocks, but at least one where the full network has attention.",
        )
    return [k * blocks // depth for k in range(depth)]
