"""The common layout of public files: two parts, and processors numbered in diffusers' order.

Processor N is attn1 of a site where N is even and attn2 where it is odd; site i in the order of IP-Adapter files
(input, output, middle last) has N = 2 i + 1. Which sites those are is not in a file. It follows from the number and
the widths of the processors: SD1.5 has 16 sites, one in each transformer; SDXL has `a` blocks in each transformer of
its second level and `b` in each of its third and in the middle, 5 a + 6 b sites (70 with a = 2, b = 10). A UNet of
another shape has to be shown (`topology`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from facesnap.attach.topology import Topology, ip_adapter_order
from facesnap.errors import CheckpointError
from facesnap.models.lora import ATTENTIONS, LAYERS, AttentionLora, LoraLayer

PARTS = {  # names of the two parts in the wild -> ours
    "image_proj": "image_proj",
    "image_proj_model": "image_proj",
    "id_adapter": "image_proj",
    "ip_adapter": "processors",
    "adapter_modules": "processors",
    "id_adapter_attn_layers": "processors",
}
DEEPEST = 4  # names above a part
PARALLEL = "module"  # what data-parallel training puts before every name
# What torch.compile, sharded training and activation checkpointing put into names, wherever a wrapped module stands.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGE = {"ema", "ema_model", "model_ema", "state_dict_ema", "ema_state_dict", "shadow", "shadow_params"}
KEYS = {"to_k_ip": "to_k", "id_to_k": "to_k", "to_v_ip": "to_v", "id_to_v": "to_v"}
MOST_PROCESSORS = 4000
_KEY = re.compile(r"(\d{1,4})\.(to_k_ip|to_v_ip|id_to_k|id_to_v)\.weight")
_LORA = re.compile(r"(\d{1,4})\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")
UNET_BLOCKS = ("down_blocks", "up_blocks", "mid_block")
_PROCESSOR = re.compile(
    r"(?:.+\.)?(?P<block>down_blocks|up_blocks|mid_block)\.(?P<site>[\w.]+)\.(?P<attention>attn[12])\.processor\.(?:module\.)?"
    r"(?P<rest>to_[kv]_ip(?:\.0)?\.weight|to_(?:q|k|v|out)_lora\.(?:down|up)\.weight)"
)
SD15_LEVELS = {"input.1": 0, "input.2": 0, "input.4": 1, "input.5": 1, "input.7": 2, "input.8": 2, "middle.0": 3,
               "output.3": 2, "output.4": 2, "output.5": 2, "output.6": 1, "output.7": 1, "output.8": 1,
               "output.9": 0, "output.10": 0, "output.11": 0}  # fmt: skip
SDXL_LEVELS = {"input.4": 1, "input.5": 1, "input.7": 2, "input.8": 2, "middle.0": 3,
               "output.0": 2, "output.1": 2, "output.2": 2, "output.3": 1, "output.4": 1, "output.5": 1}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A file's tensors under our names.

    Attributes:
        base: "sd15" or "sdxl". sites: in the order of the file.
        tensors: `projections.sites.<site>.<group>.to_k.weight` and so on. lora: where the file brings one.
    """

    base: str
    sites: tuple[str, ...]
    tensors: dict[str, Tensor]
    lora: AttentionLora | None


def split_parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]] | None:
    """{"image_proj": ..., "processors": ...} of a file that has both parts, whatever stands beside them; else None."""
    projection, processors = find_parts(state)
    return None if projection is None or processors is None else {"image_proj": projection, "processors": processors}


def in_part(name: str) -> bool:
    """Whether a tensor stands below one of the parts."""
    return _place(name) is not None


def find_parts(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]:
    """(image projection, processors) of a file, each None where it has none.

    They may stand below other names, as trainers write them (`module.`, `model.`). Of several places the one with both
    parts counts, weights before their moving average. Processors may stand in the UNet that was trained, too.
    """
    places: dict[tuple[str, ...], dict[str, dict[str, Tensor]]] = {}  # prefix -> head -> name below it -> tensor
    for name, tensor in state.items():
        if place := _place(name):
            prefix, head, rest = place
            places.setdefault(prefix, {}).setdefault(head, {})[rest] = tensor
    order = sorted(places, key=lambda prefix: (bool(_AVERAGE & set(prefix)), len(prefix), prefix))
    found = [{part: _of(places[prefix], part) for part in ("image_proj", "processors")} for prefix in order]
    whole = next((one for one in found if all(one.values())), None)
    if whole is None:
        firsts = {part: next((one[part] for one in found if one[part]), None) for part in ("image_proj", "processors")}
        whole = {**firsts, "processors": firsts["processors"] or _in_unet(state)}
    return whole["image_proj"], whole["processors"]


def _place(name: str) -> tuple[tuple[str, ...], str, str] | None:
    """(names above, name of the part, name below it) of a part's tensor; the innermost, where a trainer calls the
    whole adapter by a part's name."""
    names = unwrapped(name).split(".")
    at = max((i for i, one in enumerate(names[: DEEPEST + 1]) if one in PARTS), default=None)
    if at is None or at == len(names) - 1:
        return None
    below = names[at + 1 :]
    return tuple(names[:at]), names[at], ".".join(below[1:] if below[0] == PARALLEL and len(below) > 1 else below)


def unwrapped(name: str) -> str:
    """The name of a tensor as it was before its modules were wrapped for training."""
    return ".".join(one for one in name.split(".") if one not in WRAPPERS)


def _of(heads: Mapping[str, dict[str, Tensor]], part: str) -> dict[str, Tensor] | None:
    """The tensors of a part under the first of its names that is there."""
    return next((heads[head] for head, of in PARTS.items() if of == part and head in heads), None)


def _in_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Processors under the names of diffusers' modules, numbered as the trainers number them."""
    found: dict[tuple[int, ...], dict[str, dict[str, Tensor]]] = {}
    for name, tensor in state.items():
        if m := _PROCESSOR.fullmatch(unwrapped(name)):
            site = (UNET_BLOCKS.index(m["block"]), *map(int, re.findall(r"\d+", m["site"])))
            found.setdefault(site, {}).setdefault(m["attention"], {})[m["rest"].replace(".0.", ".")] = tensor
    crossed = sorted(site for site, attentions in found.items() if "attn2" in attentions)
    return {
        f"{2 * i + ATTENTIONS.index(attention)}.{rest}": tensor
        for i, site in enumerate(crossed)
        for attention, tensors in found[site].items()
        for rest, tensor in tensors.items()
    } or None


def sd15_sites() -> tuple[str, ...]:
    """The 16 sites of SD1.5 in the order of IP-Adapter files."""
    return ip_adapter_order(tuple(f"{block}.1.0" for block in SD15_LEVELS))


def sdxl_sites(second: int = 2, third: int = 10) -> tuple[str, ...]:
    """The sites of SDXL, 70 with its own depths, in the order of IP-Adapter files."""
    depth = {1: second, 2: third, 3: third}
    return ip_adapter_order(tuple(f"{b}.1.{k}" for b, level in SDXL_LEVELS.items() for k in range(depth[level])))


def find_sites(widths: Sequence[int], topology: Topology | None = None) -> tuple[str, tuple[str, ...]]:
    """(base, sites) of the processors of these widths, in the order of the file.

    Args:
        widths: of the sites. topology: of the UNet that the file is for, where it is of another shape than SD1.5
            and SDXL.

    Raises:
        CheckpointError: they are not those of SD1.5 or SDXL, or of the UNet.
    """
    if topology is not None:
        names = ip_adapter_order(topology.names)
        if len(names) == len(widths):
            return topology.base, names
    elif _fits(sd15_sites(), SD15_LEVELS, widths):
        return "sd15", sd15_sites()
    else:
        n = len(widths)
        found = [(a, (n - 5 * a) // 6) for a in range(1, n // 5 + 1) if n > 5 * a and (n - 5 * a) % 6 == 0]
        found = [depths for depths in found if _fits(sdxl_sites(*depths), SDXL_LEVELS, widths)]
        if len(found) == 1 and widths[0] != widths[-1]:  # with one width all over, any depths would fit
            return "sdxl", sdxl_sites(*found[0])
    raise CheckpointError(
        f"The adapter has {len(widths)} cross-attentions of the widths {sorted(set(widths))}.",
        expected="the 16 of SD1.5 or the 70 of SDXL" if topology is None else f"the {len(topology.names)} of this UNet",
        remedy="choose an adapter made for the base model; DiT models (SD3, FLUX) have adapters of their own",
    )


def _fits(sites: Sequence[str], levels: Mapping[str, int], widths: Sequence[int]) -> bool:
    """Whether every level has one width."""
    if len(sites) != len(widths):
        return False
    pairs = {(levels[".".join(site.split(".")[:2])], width) for site, width in zip(sites, widths, strict=True)}
    return len(pairs) == len(set(levels.values()))


def base_of(state: Mapping[str, Tensor], where: str) -> str:
    """The base model, "sd15" or "sdxl", by the shapes of a file's attention part (meta tensors will do).

    Raises:
        CheckpointError: as `read_processors`.
    """
    found = split_parts(state)
    return read_processors(found["processors"], where, "id").base if found else ""


def read_processors(
    processors: Mapping[str, Tensor], where: str, group: str, topology: Topology | None = None
) -> Layout:
    """Keys, values and LoRA of the processors under our names.

    Args:
        where: the file's name, for messages. group: token group that the keys and values belong to.

    Raises:
        CheckpointError: an unknown name, a gap, or shapes that do not fit together.
    """
    keys: dict[int, dict[str, Tensor]] = {}
    halves: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in processors.items():
        if m := _KEY.fullmatch(name):
            keys.setdefault(int(m[1]), {})[KEYS[m[2]]] = tensor
        elif m := _LORA.fullmatch(name):
            halves.setdefault((int(m[1]), m[2]), {})[m[3]] = tensor
        else:
            raise _bad(where, f"its attention part holds the tensor {name[:80]}")
    numbers = [2 * i + 1 for i in range(len(keys))]
    if sorted(keys) != numbers or len(keys) > MOST_PROCESSORS or any(len(kv) != 2 for kv in keys.values()):
        raise _bad(where, f"it has keys and values for the processors {sorted(keys)[:4]}... ({len(keys)})")
    shapes = [(tuple(keys[n]["to_k"].shape), tuple(keys[n]["to_v"].shape)) for n in numbers]
    context = shapes[0][0][-1] if shapes[0][0] else 0
    wrong = [n for n, (k, v) in zip(numbers, shapes, strict=True) if k != v or len(k) != 2 or k[1] != context]
    if wrong:
        raise _bad(where, f"processor {wrong[0]} has keys and values {shapes[wrong[0] // 2]}")
    base, sites = find_sites([k[0] for k, _ in shapes], topology)
    tensors = {
        f"projections.sites.{site.replace('.', '_')}.{group}.{key}.weight": keys[n][key]
        for n, site in zip(numbers, sites, strict=True)
        for key in ("to_k", "to_v")
    }
    return Layout(base, sites, tensors, _read_lora(halves, sites, shapes, context, where) if halves else None)


def _read_lora(
    halves: Mapping[tuple[int, str], Mapping[str, Tensor]],
    sites: Sequence[str],
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    context: int,
    where: str,
) -> AttentionLora:
    """All layers of all processors, or an error: half a LoRA would be half a training."""
    layers = {}
    for n in range(2 * len(sites)):
        width = shapes[n // 2][0][0]
        for layer in LAYERS:
            inputs = context if n % 2 and layer in ("to_k", "to_v") else width
            parts = halves.get((n, layer), {})
            down, up = parts.get("down"), parts.get("up")
            fit = down is not None and up is not None and down.ndim == up.ndim == 2
            if not fit or down.shape[1] != inputs or up.shape[0] != width or up.shape[1] != down.shape[0]:  # type: ignore
                found = {half: tuple(t.shape) for half, t in parts.items()}
                raise _bad(
                    where, f"the LoRA of processor {n}, {layer}, has {found}, not (r, {inputs}) and ({width}, r)"
                )
            layers[f"{sites[n // 2]}.{ATTENTIONS[n % 2]}.{layer}"] = LoraLayer(down, up)  # type: ignore[arg-type]
    if len(halves) != len(layers):
        raise _bad(where, f"its LoRA has {len(halves)} layers for {len(layers)} places")
    return AttentionLora(layers)


def _bad(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: {what}.",
        expected="N.to_k_ip.weight and N.to_v_ip.weight for N = 1, 3, 5, ..., and LoRA for every N or none",
        remedy="the file is damaged or of another kind; fetch it again",
    )
