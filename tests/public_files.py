"""Files of exactly the public layouts (names, shapes, containers), random, in any width; written from the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
ID, RANK = 512, 8
FACEID = ("faceid", "faceid-plus", "faceid-plusv2")
FAMILIES = (*FACEID, "portrait", "portrait-unnorm", "instantid", "pulid-v1", "pulid-v1.1")
NAMES = {
    "faceid": "ip-adapter-faceid_{base}",
    "faceid-plus": "ip-adapter-faceid-plus_{base}",
    "faceid-plusv2": "ip-adapter-faceid-plusv2_{base}",
    "portrait": "ip-adapter-faceid-portrait_{base}",
    "portrait-unnorm": "ip-adapter-faceid-portrait_{base}_unnorm",
    "instantid": "ip-adapter_instant_id_{base}",
    "pulid-v1": "pulid_v1",
    "pulid-v1.1": "pulid_v1.1",
}


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _perceiver(prefix: str, width: int, depth: int) -> Shapes:
    out: Shapes = {}
    for i in range(depth):
        p = f"{prefix}layers.{i}."
        out |= _norm(p + "0.norm1", width) | _norm(p + "0.norm2", width)
        out |= _linear(p + "0.to_q", width, width, False) | _linear(p + "0.to_kv", 2 * width, width, False)
        out |= _linear(p + "0.to_out", width, width, False) | _norm(p + "1.0", width)
        out |= _linear(p + "1.1", 4 * width, width, False) | _linear(p + "1.3", width, 4 * width, False)
    return out


def faceid_shapes(context: int, tokens: int = 4, hidden: int = 1024) -> Shapes:
    return _linear("proj.0", hidden, ID) | _linear("proj.2", tokens * context, hidden) | _norm("norm", context)


def plus_shapes(context: int, hidden: int = 1024, clip: int = 1280) -> Shapes:
    p = "perceiver_resampler."
    own = _linear(p + "proj_in", context, clip) | _linear(p + "proj_out", context, context)
    return faceid_shapes(context, 4, hidden) | own | _norm(p + "norm_out", context) | _perceiver(p, context, 4)


def resampler_shapes(context: int, width: int = 1280) -> Shapes:
    own = {"latents": (1, 16, width)} | _linear("proj_in", width, ID) | _linear("proj_out", context, width)
    return own | _norm("norm_out", context) | _perceiver("", width, 4)


def _map(name: str, inputs: int, hidden: int, outputs: int) -> Shapes:
    first = _linear(f"{name}.0", hidden, inputs) | _norm(f"{name}.1", hidden)
    return (
        first
        | _linear(f"{name}.3", hidden, hidden)
        | _norm(f"{name}.4", hidden)
        | _linear(f"{name}.6", outputs, hidden)
    )


def pulid_v1_shapes(context: int, hidden: int = 1024, vit: int = 1024, vector: int = 768) -> Shapes:
    out = _map("body", ID + vector, hidden, 5 * context)
    for i in range(5):
        out |= _map(f"mapping_{i}", vit, hidden, context) | _map(f"mapping_patch_{i}", vit, hidden, context)
    return out


def pulid_v11_shapes(
    context: int, width: int = 1024, hidden: int = 1024, vit: int = 1024, vector: int = 768, queries: int = 32
) -> Shapes:
    out: Shapes = {"latents": (1, queries, width), "proj_out": (width, context)}
    out |= _perceiver("", width, 10) | _map("id_embedding_mapping", ID + vector, hidden, 5 * width)
    for i in range(5):
        out |= _map(f"mapping_{i}", vit, hidden, width)
    return out


SMALL = {"hidden": 96, "clip": 80, "vit": 64, "vector": 40, "width": 64, "queries": 12}


def projection_shapes(family: str, context: int, small: bool = True) -> Shapes:
    """The image_proj part."""
    pick = (lambda *keys: {k: SMALL[k] for k in keys}) if small else (lambda *keys: {})
    hidden = ID if small and family in ("faceid", "portrait") else 2 * ID  # what diffusers' loader understands
    if family in ("faceid", "portrait"):
        return faceid_shapes(context, 16 if family == "portrait" else 4, hidden)
    if family in FACEID:
        return plus_shapes(context, hidden, **pick("clip"))
    if family == "pulid-v1":
        return pulid_v1_shapes(context, **pick("hidden", "vit", "vector"))
    if family == "pulid-v1.1":
        return pulid_v11_shapes(context, **pick("hidden", "vit", "vector", "width", "queries"))
    return resampler_shapes(context, **({"width": 128} if small else {}))


def processor_shapes(family: str, widths: Sequence[int], context: int, rank: int = RANK) -> Shapes:
    """The ip_adapter part; widths of the cross-attentions in the order of the file."""
    key, value = ("id_to_k", "id_to_v") if family.startswith("pulid") else ("to_k_ip", "to_v_ip")
    out: Shapes = {}
    for i, w in enumerate(widths):
        for n in (2 * i, 2 * i + 1):
            for layer in ("q", "k", "v", "out") if family in FACEID else ():
                inputs = context if n % 2 and layer in "kv" else w
                out |= {f"{n}.to_{layer}_lora.down.weight": (rank, inputs), f"{n}.to_{layer}_lora.up.weight": (w, rank)}
        out |= {f"{2 * i + 1}.{name}.weight": (w, context) for name in (key, value)}
    return out


def draw(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Random tensors that keep activations at a magnitude of about 1."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=g)
        if len(shape) == 1:
            out[name] = 1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise
        else:
            out[name] = noise / math.sqrt(shape[0] if name == "proj_out" else shape[-1])
    return out


def public_state(
    family: str, widths: Sequence[int], context: int, seed: int = 4, small: bool = True
) -> dict[str, dict[str, Tensor]]:
    """{"image_proj": ..., "ip_adapter": ...}; small: of few channels inside."""
    projection = draw(projection_shapes(family, context, small), seed)
    return {"image_proj": projection, "ip_adapter": draw(processor_shapes(family, widths, context), seed + 1)}


def write(state: dict[str, dict[str, Tensor]], folder: Path, family: str, base: str, suffix: str = ".bin") -> Path:
    """The file as published: nested in pickles (PuLID: flat), flat with prefixes in .safetensors."""
    path = folder / (NAMES[family].format(base=base) + suffix)
    names = {"image_proj": "image_proj", "ip_adapter": "ip_adapter"}
    if family.startswith("pulid"):
        names = {"image_proj": "id_adapter", "ip_adapter": "id_adapter_attn_layers"}
    flat = {f"{names[part]}.{k}": v.contiguous() for part, tensors in state.items() for k, v in tensors.items()}
    if suffix == ".safetensors":
        save_file(flat, path)
    else:
        torch.save(flat if family.startswith("pulid") else state, path)
    return path
