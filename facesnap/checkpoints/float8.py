"""float8 weights: raised to a dtype that can be computed with, by the scales that some files keep beside them.

Every value of float8 is one of float16's, so nothing is lost. Files in "scaled fp8" hold `X.weight` in float8 and the
factor that it is to be multiplied by in `X.scale_weight` (ComfyUI's first form) or `X.weight_scale` (its later one).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from facesnap.errors import CheckpointError

FLOAT8 = tuple(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2"))
SCALES = ("scale_weight", "weight_scale")
ACTIVATIONS = ("scale_input", "input_scale")  # factors of what a layer is given, which is never in float8 here
MARKERS = ("scaled_fp8", "comfy_quant")
OTHER_SCALES = ("weight_scale_inv", "weight_scale_2")  # of blocks of a tensor, or of four bits


def is_marker(name: str) -> bool:
    """Whether a tensor only says that others are scaled; it may be empty."""
    return name.rpartition(".")[2] in MARKERS


def raised(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors without float8: float16 in its place, float32 where a scale is applied; scales and markers are gone.

    Tensors on the meta device keep their dtype. Other tensors are passed on as they are.

    Args:
        where: the file's name, for messages.

    Raises:
        CheckpointError: a scale whose tensor is missing or not in float8, of another shape, or of another kind.
    """
    plain = {name: tensor for name, tensor in tensors.items() if not _stands_beside(name)}
    factors = {}
    for name in tensors.keys() - plain.keys():
        layer, _, last = name.rpartition(".")
        if last in OTHER_SCALES:
            raise _odd(where, name, "a scale of blocks or of four bits")
        if last in SCALES:
            factors[f"{layer}.weight" if layer else "weight"] = name
    for weight, scale in factors.items():
        found = plain.get(weight)
        if found is None or found.dtype not in FLOAT8:
            raise _odd(where, scale, f"{weight} is {'missing' if found is None else found.dtype}")
        plain[weight] = _scaled(found, tensors[scale], where, scale)
    return {n: t.to(torch.float16) if t.dtype in FLOAT8 and not t.is_meta else t for n, t in plain.items()}


def _stands_beside(name: str) -> bool:
    return name.rpartition(".")[2] in (*SCALES, *ACTIVATIONS, *MARKERS, *OTHER_SCALES)


def _scaled(weight: Tensor, scale: Tensor, where: str, name: str) -> Tensor:
    rows = (weight.shape[0],) if weight.ndim else ()
    if scale.numel() != 1 and tuple(n for n in scale.shape if n != 1) != rows:
        raise _odd(where, name, f"it is {tuple(scale.shape)} for a weight {tuple(weight.shape)}")
    if weight.is_meta:
        return weight
    factor = scale.float().reshape(-1, *(1,) * (weight.ndim - 1)) if scale.numel() > 1 else scale.float().reshape(())
    return weight.float() * factor


def _odd(where: str, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: its scale {name[:80]} cannot be applied: {what}.",
        expected="one factor for each float8 weight, or one for each of its rows, named scale_weight or weight_scale",
        remedy="use the file in float16, bfloat16, float32 or plain float8",
    )
