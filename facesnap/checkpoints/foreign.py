"""The kind of a file that is no adapter FaceSnap knows, by names and shapes of its tensors, for people.

A mark is one whole part of a tensor's name between dots, or several in a row: `pulid_encoder.x` is not `id_encoder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from facesnap.checkpoints import layout

CONTROLNET = ("controlnet_cond_embedding", "input_hint_block")
# The first that matches says it. Patterns of whole parts of names; a dot joins parts that follow each other.
MARKS = (
    (r"pulid_encoder|pulid_ca|pulid_ca_double|pulid_ca_single", "PuLID for FLUX, whose UNet is another one"),
    (r"double_blocks|single_blocks|single_transformer_blocks", "made for FLUX"),
    (r"joint_blocks|context_embedder", "made for Stable Diffusion 3"),
    (r"id_encoder\.qformer_perceiver", "PhotoMaker v2, which changes the prompt and is not read here"),
    (r"id_encoder", "PhotoMaker, which changes the prompt and is not read here"),
    (r"FacialEncoder", "ConsistentID, which is not read here"),
    (r"faceid_proj|faceid_adapter", "UniPortrait, which is not read here"),
    (r"text_branch|adapter_branch", "UniID, which is not read here"),
    (r"id_down_basis|id_up_basis", "HyperLoRA, which is not read here"),
    (r"lllite_\w+", "a ControlNet-LLLite"),
    (r"lora_controlnet", "a Control-LoRA"),
    ("|".join(CONTROLNET), "a ControlNet, which goes with an adapter (convert --structure)"),
    (r"lora_(unet|te\d?|transformer|prior)(_\w+)?", "a LoRA for the prompt"),
    (r"\w+_lora|lora_(up|down|mid|A|B)|lora\.(up|down)|hada_w1_\w|lokr_w\d(_\w)?|dora_scale", "a LoRA alone"),
    (r"motion_modules", "a motion module"),
    (r"model\.diffusion_model", "a Stable Diffusion model"),
    (r"first_stage_model|(encoder|decoder)\.(down|up|mid|down_blocks|up_blocks|mid_block)", "a VAE"),
    (r"vision_model|visual", "an image encoder"),
    (r"text_model|text_projection|emb_params|string_to_param", "a text encoder or an embedding of the prompt"),
    (r"down_blocks|input_blocks", "a UNet alone"),
)
_OTHER_ADAPTERS = 1 + max(n for n, (_, kind) in enumerate(MARKS) if kind.endswith("is not read here"))
_MARKS = tuple((re.compile(rf"(?:^|\.)(?:{pattern})(?:\.|$)"), kind) for pattern, kind in MARKS)
# CLIP image encoders of IP-Adapters for pictures: by the columns that take hidden states, and projected vectors.
ID_WIDTH = 512  # of a recogniser's vector, which adapters of faces take there
STATES = {1280: "ViT-H", 1664: "ViT-bigG", 1024: "ViT-L"}
PROJECTED = {1024: "ViT-H", 1280: "ViT-bigG", 768: "ViT-L"}


def has_part(names: Iterable[str], *parts: str) -> bool:
    """Whether one of the parts stands between dots in one of the names."""
    return any(part in parts for name in names for part in name.split("."))


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """The kind as a clause such as "it is a ControlNet" (meta tensors will do)."""
    projection, processors = layout.find_parts(tensors)
    if projection is not None and (picture := _for_pictures(projection)):
        return f"it is {picture}"
    if other := other_adapter(tensors):
        return f"it is {other}"
    if projection is not None or processors is not None:
        return _half(projection, processors)
    found = next((kind for mark, kind in _MARKS if any(map(mark.search, tensors))), "")
    return f"it is {found}" if found else f"its tensors begin with {', '.join(one[:60] for one in sorted(tensors)[:3])}"


def other_adapter(names: Iterable[str]) -> str:
    """The kind of adapter that FaceSnap does not read, although it may have parts of the same names as ours; or ""."""
    beside = [name for name in names if not layout.in_part(name)]
    return next((kind for mark, kind in _MARKS[:_OTHER_ADAPTERS] if any(map(mark.search, beside))), "")


def _for_pictures(projection: Mapping[str, Tensor]) -> str:
    """IP-Adapters that look at a picture through CLIP and know no recogniser; "" for others."""

    def columns(name: str) -> int:
        found = projection.get(name)
        return found.shape[1] if found is not None and found.ndim == 2 else 0

    if "proj.weight" in projection:
        kind, encoder = "an IP-Adapter for pictures", PROJECTED.get(columns("proj.weight"), "")
    elif "proj.3.weight" in projection:
        kind, encoder = "an IP-Adapter Full-Face", STATES.get(columns("proj.0.weight"), "")
    elif "proj.2.weight" in projection and columns("proj.0.weight") not in (0, ID_WIDTH):
        kind, encoder = "an IP-Adapter for pictures", f"an encoder {columns('proj.0.weight')} wide"
    elif "latents" in projection and columns("proj_in.weight") not in (0, ID_WIDTH):
        kind, encoder = "an IP-Adapter Plus for pictures", STATES.get(columns("proj_in.weight"), "")
        encoder = encoder or f"an encoder {columns('proj_in.weight')} wide"
    else:
        return ""
    return f"{kind}{f', which looks through {encoder},' if encoder else ''} without a recogniser"


def _half(projection: Mapping[str, Tensor] | None, processors: Mapping[str, Tensor] | None) -> str:
    ours = {part: [name for name, of in layout.PARTS.items() if of == part] for part in ("image_proj", "processors")}
    if projection is None:
        missing, names = "image projection", ours["image_proj"]
    elif processors is None:
        missing, names = "attention part", ours["processors"]
    else:
        return "it has the parts of an IP-Adapter, whose image projection is of no kind that FaceSnap knows"
    return f"it holds half an adapter: its {missing} is missing or empty ({' or '.join(f'{name}.*' for name in names)})"
