"""The parts of an adapter as tensors: `mixer.*`, `projections.*`; `control_mixer.*`, `ffrnet.*`, `lora.*` if any."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from facesnap.checkpoints.adapter import Adapter, AdapterSpec, FamilyMatch, FFRNetSpec
from facesnap.errors import CheckpointError, FaceSnapError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig, Picture
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.lora import AttentionLora
from facesnap.models.mixers import Mixer, empty_mixer
from facesnap.models.projections import IDProjections
from facesnap.models.tensors import load_strictly, of_one_dtype, on_meta

PARTS = ("mixer", "projections", "control_mixer", "ffrnet")
FETCH_AGAIN = "the file is damaged or of another kind; fetch or convert it again"
# What FFRNet's tensors leave open, with the types that JSON gives.
LARGEST, DEEPEST = 65536, 1000  # widths and transformer blocks that a file may ask for
_FFRNET_FIELDS: dict[str, tuple[type, ...]] = {
    "groups": (list,),
    "strength": (int, float),
    "donor_picture": (str,),
    "heads": (int, type(None)),
    "head_dim": (int, type(None)),
    "norm_groups": (int,),
}


def state_dict(adapter: Adapter) -> dict[str, Tensor]:
    """All tensors of an adapter, each below the name of its part."""
    modules = {part: getattr(adapter, part) for part in PARTS}
    tensors = {f"{part}.{k}": v for part, m in modules.items() if m is not None for k, v in m.state_dict().items()}
    return tensors | (adapter.lora.tensors() if adapter.lora else {})


def build(
    state: Mapping[str, Tensor],
    spec: AdapterSpec,
    stated_counts: Mapping[str, Any] | None,
    ffrnet: Mapping[str, Any] | None,
    where: str,
    digest: str = "",
    detection: FamilyMatch | None = None,
) -> Adapter:
    """An adapter from tensors named as `state_dict` names them.

    Args:
        stated_counts: "levels" and "tokens" as the metadata states them; they must agree with the tensors. None: the
            file has no metadata.
        ffrnet: what `ffrnet_metadata` wrote, or None where the file has no FFRNet.
        where: name of the source, for messages.

    Raises:
        CheckpointError: tensors missing, extra, of a wrong shape, or not finite; parts that contradict each other.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{where}: {name} ({tensor.dtype}) holds NaN, infinity or no floating-point numbers.",
                expected="finite floating-point numbers",
                remedy="the training diverged or the file is damaged; use another checkpoint",
            )
    lora, state = AttentionLora.split(state)
    tensors = _split(state, where)
    if (ffrnet is None) != (not tensors["ffrnet"]):
        raise CheckpointError(
            f"{where} has {len(tensors['ffrnet'])} tensors named ffrnet.*; its metadata speak of "
            f"{'no FFRNet' if ffrnet is None else 'an FFRNet'}.",
            expected="both or neither",
            remedy=FETCH_AGAIN,
        )
    try:
        mixer = empty_mixer(tensors["mixer"], shortcut=spec.shortcut, dim_head=spec.dim_head)
        control = tensors["control_mixer"]
        control_mixer = empty_mixer(control, shortcut=spec.shortcut, dim_head=spec.dim_head) if control else None
        projections = IDProjections.from_state_dict(tensors["projections"])
        net, net_spec = _ffrnet(tensors["ffrnet"], ffrnet) if ffrnet is not None else (None, None)
    except FaceSnapError as error:
        raise CheckpointError(f"{where}: {error.what}", expected=error.expected, remedy=error.remedy) from error
    for part, module in zip(PARTS, (mixer, projections, control_mixer, net), strict=True):
        if module is not None:
            whole = of_one_dtype(tensors[part]) if part == "ffrnet" else tensors[part]  # others are raised when used
            load_strictly(module.eval(), whole, network=f"{part} of {where}")
    _check_counts(mixer, projections, counts(mixer) if stated_counts is None else stated_counts, where)
    if net is not None and net_spec is not None:
        _check_ffrnet(net, net_spec, mixer if control_mixer is None else control_mixer, spec, where)
        net.requires_grad_(False)
    return Adapter(spec, mixer, projections, digest, net, net_spec, lora, detection, control_mixer)


def counts(mixer: Mixer) -> dict[str, Any]:
    """The CLIP levels that a mixer needs and the tokens of each group it makes, which the metadata repeat."""
    return {"levels": list(mixer.config.clip_levels), "tokens": dict(mixer.config.token_counts)}


def ffrnet_metadata(adapter: Adapter) -> dict[str, Any]:
    """The facts that FFRNet's tensors leave open; a LoRA's leave the encoder's shape open, too."""
    assert adapter.ffrnet is not None and adapter.ffrnet_spec is not None
    config = adapter.ffrnet.config
    stated: dict[str, Any] = {
        "groups": list(adapter.ffrnet_spec.groups),
        "strength": adapter.ffrnet_spec.strength,
        "donor_picture": config.donor_picture,
        "heads": config.heads,
        "head_dim": config.head_dim,
        "norm_groups": config.norm_groups,
    }
    if isinstance(adapter.ffrnet, LoraFFRNet):
        shape = {key: value for key, value in dataclasses.asdict(config).items() if key not in stated}
        stated["lora"] = {"rank": adapter.ffrnet.rank, **shape}
    return stated


def check_ffrnet_metadata(values: Any) -> None:
    """Raise TypeError or ValueError, for the reader of the metadata to report, unless every field is well formed."""
    if not isinstance(values, dict) or set(values) - {"lora"} != set(_FFRNET_FIELDS):
        raise TypeError(f"ffrnet is {values!r}, not {sorted(_FFRNET_FIELDS)}")
    for name, kinds in _FFRNET_FIELDS.items():
        if type(values[name]) not in kinds:
            raise TypeError(f"ffrnet's {name} is {values[name]!r}")
    if not all(isinstance(group, str) for group in values["groups"]):
        raise TypeError(f"ffrnet's groups are {values['groups']!r}")
    if values["donor_picture"] not in get_args(Picture):
        raise ValueError(f"ffrnet's donor_picture is {values['donor_picture']!r}")


def _lora_net(stated: Mapping[str, Any], overrides: Mapping[str, Any]) -> LoraFFRNet:
    """A LoRA FFRNet on the meta device, of the shape and rank that the metadata state."""
    names = {field.name for field in dataclasses.fields(FFRNetConfig)} - set(overrides) | {"rank"}
    numbers = [n for value in stated.values() for n in _numbers(value)] if isinstance(stated, dict) else []
    bounded = all(type(n) is int and 0 <= n <= LARGEST for n in numbers)
    if not isinstance(stated, dict) or set(stated) != names or not bounded:
        raise CheckpointError(
            f"The metadata say {str(stated)[:120]} of FFRNet's LoRA.",
            expected=f"numbers named {', '.join(sorted(names))}",
            remedy=FETCH_AGAIN,
        )
    shape = {key: _tuples(value) for key, value in stated.items() if key != "rank"}
    try:
        config = FFRNetConfig(**shape, **overrides)
        if len(config.attention_widths()) > DEEPEST:
            raise ValueError(f"{len(config.attention_widths())} transformer blocks")
        with on_meta():
            return LoraFFRNet(config, stated["rank"])
    except (TypeError, ValueError, ZeroDivisionError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"The metadata of FFRNet's LoRA do not fit together ({error}).", expected="an encoder's shape",
            remedy=FETCH_AGAIN,
        ) from error  # fmt: skip


def _numbers(value: Any) -> Iterator[Any]:
    """Every number of nested lists; None and bool, where the format has them, are left out."""
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner)
    elif value is not None and type(value) is not bool:
        yield value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def check_types(spec: Any, defaults: Any) -> None:
    """Raise TypeError unless the fields of a dataclass have the types that another one of its kind has."""
    for f in dataclasses.fields(spec):
        value, like = getattr(spec, f.name), getattr(defaults, f.name)
        number = type(like) is float and type(value) in (int, float)
        if type(value) is not type(like) and not number:
            raise TypeError(f"{f.name} is {value!r}")


def _split(state: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    tensors: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part not in tensors:
            raise CheckpointError(
                f"{where} holds the tensor {name}, {tuple(tensor.shape)}.",
                expected=f"only tensors named {', '.join(f'{p}.*' for p in PARTS)}",
                remedy="update FaceSnap if the file is newer, else fetch it again",
            )
        tensors[part][rest] = tensor
    return tensors


def _ffrnet(state: Mapping[str, Tensor], stated: Mapping[str, Any]) -> tuple[FFRNet, FFRNetSpec]:
    """The network on the meta device, its sizes read off the tensors, and its use."""
    spec = FFRNetSpec(tuple(stated["groups"]), float(stated["strength"]))
    overrides = {name: stated[name] for name in ("heads", "head_dim", "norm_groups", "donor_picture")}
    if "lora" in stated:
        return _lora_net(stated["lora"], overrides), spec
    config = FFRNetConfig.from_state_dict(state, **overrides)
    with on_meta():
        return FFRNet(config), spec


def _check_ffrnet(net: FFRNet, use: FFRNetSpec, mixer: Mixer, spec: AdapterSpec, where: str) -> None:
    made = set(counts(mixer)["tokens"])
    vector = "no vector y" if spec.base == "sd15" else "a vector y"
    for ok, found, expected in (
        (set(use.groups) <= made, f"FFRNet sees the token groups {list(use.groups)}", f"some of {sorted(made)}"),
        (
            net.config.context_dim == mixer.config.context,
            f"FFRNet takes tokens of width {net.config.context_dim}",
            f"{mixer.config.context}, the width of its mixer's tokens",
        ),
        (
            (net.config.adm_dim is None) == (spec.base == "sd15"),
            f"FFRNet takes a vector y of width {net.config.adm_dim or 0}",
            f"{vector}, as {spec.base} has",
        ),
    ):
        if not ok:
            raise CheckpointError(f"{where}: its {found}.", expected=expected, remedy=FETCH_AGAIN)


def _check_counts(mixer: Mixer, projections: IDProjections, stated_counts: Mapping[str, Any], where: str) -> None:
    found = counts(mixer)
    groups = set(found["tokens"])
    for stated, read, what in (
        (stated_counts["levels"], found["levels"], "CLIP levels"),
        (stated_counts["tokens"], found["tokens"], "token counts"),
        (sorted(projections.groups), sorted(groups), "token groups of the projections"),
        (projections.context, mixer.config.context, "context width of the projections"),
    ):
        if stated != read:
            raise CheckpointError(
                f"{where}: its {what} are {stated}, those of its mixer {read}.",
                expected="metadata, mixer and projections that agree",
                remedy=FETCH_AGAIN,
            )
