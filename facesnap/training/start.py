"""The adapter that training begins with: fresh, or a checkpoint with what it lacks added."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facesnap.attach.topology import Topology, read_topology
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.errors import IdentityMismatchError, SettingsError
from facesnap.faces.recognisers import require_named
from facesnap.families.registry import load_adapter
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_lite import SDXL_LITE, lite_state_dict
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from facesnap.models.projections import IDProjections
from facesnap.training.config import AdapterConfig
from facesnap.training.encoder_shape import config_of

STAGE2_WIDTH = {"sd15": 768, "sdxl": 1280}
ID_WIDTH, HIDDEN = 512, 1024


def starting_adapter(wanted: AdapterConfig, unet: Any, head: dict[str, Any], seed: int = 0) -> Adapter:
    """Build it.

    Args:
        wanted: the configuration's section. unet: diffusers' UNet. head: of the prepared data.
        seed: of fresh weights; the generators of torch are left as they were.

    Raises:
        IdentityMismatchError: the checkpoint belongs to another recogniser or encoder than the data.
        SettingsError: the data lack hidden states that the mixer needs. CheckpointError: it does not fit the UNet.
    """
    topology = read_topology(unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = wanted.start == "scratch"
        adapter = fresh_adapter(wanted, topology, head) if fresh else _from_checkpoint(wanted, topology, head)
        if wanted.ffrnet == "none":
            adapter = dataclasses.replace(adapter, ffrnet=None, ffrnet_spec=None, digest="")
        elif adapter.ffrnet is None:
            adapter = dataclasses.replace(adapter, ffrnet=_fresh_ffrnet(wanted, unet, topology), digest="")
        elif isinstance(adapter.ffrnet, LoraFFRNet) != (wanted.ffrnet == "lora"):
            raise SettingsError(
                f"adapter.ffrnet is {wanted.ffrnet}, and the FFRNet of {wanted.start} is of another kind.",
                expected="lora where the checkpoint's FFRNet is a LoRA, full or lite where it is not",
                remedy="ask for the checkpoint's kind, or start from one without FFRNet",
            )
    missing = [level for level in adapter.mixer.config.clip_levels if level not in head["settings"]["levels"]]
    if missing:
        raise SettingsError(
            f"The data lack the CLIP hidden states {missing}.",
            expected=f"the levels {list(adapter.mixer.config.clip_levels)}",
            remedy="prepare the photos again with --levels " + " ".join(map(str, adapter.mixer.config.clip_levels)),
        )
    for module in (adapter.mixer, adapter.projections, adapter.ffrnet):
        if module is not None:
            module.float().requires_grad_(False)
    return adapter


def fresh_adapter(wanted: AdapterConfig, topology: Topology, head: dict[str, Any]) -> Adapter:
    """Both stages of the mixer and, where they are asked for, ID projections; FFRNet is not among them.

    Raises:
        SettingsError: the UNet's width is not known, or the data lack the states of an image encoder.
    """
    context, clip = topology.sites[0].context, 0 if wanted.sees == "vector" else int(head["clip_width"])
    if wanted.sees == "image" and not clip:
        raise SettingsError(
            "The adapter is to see image tokens alone, and the data hold none.",
            expected="data prepared with an image encoder",
            remedy="prepare the photos again with --encoder",
        )
    if context is None:
        raise SettingsError(
            "The width of the UNet's cross-attention is not known.",
            expected="linear layers",
            remedy="load the model without quantisation",
        )
    stage1 = Stage1Config(ID_WIDTH, HIDDEN, wanted.tokens, context)
    if clip:
        stage1 = dataclasses.replace(
            stage1, clip_width=clip, depth=wanted.depth, inner=context, ff=4 * context, shortcut=True
        )
    width = wanted.width or STAGE2_WIDTH[topology.base]
    groups = (("h", context), *((("x", clip),) if clip else ()))
    stage2 = Stage2Config(ID_WIDTH, width, wanted.queries, wanted.depth, width, 4 * width, context, groups)
    levels = tuple((level, 64) for level in wanted.levels) if clip else ()
    mixer = FacialAttributeMixer(MixerConfig(stage1, stage2, levels, wanted.dim_head))
    for name in ("stage1.proj.0.weight", "stage2.proj_in.weight"):
        # f_id has length 1, not sqrt(512): torch's own weights would leave less of it than of the biases.
        nn.init.normal_(mixer.get_parameter(name))
    sites = {site.name: site.width or 0 for site in topology.sites}
    projections = IDProjections(sites, {"id": False, "mix": True}, context)
    for name, parameter in projections.named_parameters():
        if name.endswith("to_v.weight"):
            nn.init.zeros_(parameter)  # a fresh adapter changes nothing
        elif name.endswith("mix.gate"):
            nn.init.constant_(parameter, 0.5)  # v is zero already: a gate of 0 on top would stop both gradients
    spec = AdapterSpec(
        topology.base, recogniser=head["recogniser"], recogniser_name=head["recogniser_name"],
        encoder=head["encoder"] if clip else "", encoder_name=head["encoder_name"] if clip else "",
        id_vector="none" if wanted.sees == "image" else "normed", shortcut=bool(clip), dim_head=wanted.dim_head,
        strength=float(wanted.projections), name=wanted.name, licence=wanted.licence or head["licence"],
    )  # fmt: skip
    return Adapter(spec, mixer, projections)


def _from_checkpoint(wanted: AdapterConfig, topology: Topology, head: dict[str, Any]) -> Adapter:
    adapter = load_adapter(Path(wanted.start), topology=topology)
    spec = adapter.spec
    if spec.recogniser and spec.recogniser != head["recogniser"]:
        raise IdentityMismatchError(
            f"The data were prepared with the recogniser {head['recogniser_name']}.",
            expected=f"{spec.recogniser_name or spec.recogniser}, which {spec.name!r} was trained with",
            remedy="prepare the photos with its pack",
        )
    if not spec.recogniser:  # public files name theirs only
        require_named("the prepared data", head["recogniser"], head["pack"], spec.recogniser_name)
    adapter.check_encoder(head["encoder"], head["encoder_name"])
    spec = dataclasses.replace(
        spec, recogniser=head["recogniser"], encoder=head["encoder"] if adapter.mixer.config.clip_width else "",
        name=wanted.name, licence=wanted.licence or spec.licence,
    )  # fmt: skip
    return dataclasses.replace(adapter, spec=spec, digest="", lora=None)


def _fresh_ffrnet(wanted: AdapterConfig, unet: Any, topology: Topology) -> FFRNet:
    if wanted.ffrnet == "lite" and topology.base != "sdxl":
        raise SettingsError(
            "A lite FFRNet was asked for on an SD1.5 model.",
            expected="full or none: SD1.5's network has one transformer block a layer already",
            remedy="set adapter.ffrnet to full",
        )
    config, state = config_of(unet, wanted.hint), {k: v.float() for k, v in unet.state_dict().items()}
    if wanted.ffrnet == "lora":
        return LoraFFRNet.from_unet_state_dict(config, state, wanted.rank)
    net = FFRNet.from_unet_state_dict(config, state)
    if wanted.ffrnet == "full":
        return net
    c = net.config
    return FFRNet.from_state_dict(
        lite_state_dict(net.state_dict(), SDXL_LITE), heads=c.heads, head_dim=c.head_dim, norm_groups=c.norm_groups
    )
