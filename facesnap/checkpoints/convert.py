"""A FaceSnap checkpoint out of public ones: it does what they do, and can be trained on from there.

Nothing changes at first: donor tensors are kept, and what is added starts at a gate or a convolution of zero.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from facesnap.checkpoints.adapter import Adapter, FFRNetSpec
from facesnap.checkpoints.files import read_file
from facesnap.errors import CheckpointError, SettingsError
from facesnap.models import ldm_names
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig, Picture
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage2Config
from facesnap.models.projections import IDProjections

LANDMARK_HINT = (3, 16, 32, 96, 256)  # channels of the hint network that is added, as ControlNet's own
QUERIES, WIDTH, DEPTH, HEAD = 16, {"sd15": 768, "sdxl": 1280}, 4, 64
SEED = 2602  # of what is added: one conversion gives one file


def with_structure(
    adapter: Adapter, path: Path, *, picture: Picture = "landmarks", strength: float | None = None
) -> Adapter:
    """The adapter with a ControlNet, of diffusers' or ldm's layout, as its FFRNet.

    Args:
        picture: what the ControlNet looks at. strength: suggested, 1 where None.

    Raises:
        CheckpointError: it is no ControlNet, or one for another base or another width of tokens.
    """
    state = read_file(path).tensors
    try:
        names = ldm_names.to_diffusers_names(state) if ldm_names.is_ldm_layout(state) else state
        net = FFRNet.from_state_dict(names, donor_picture=picture)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error.what}", expected=error.expected, remedy=error.remedy) from error
    except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise _no_fit(path, f"it cannot be read as a ControlNet ({error})") from error
    bad = next((n for n, t in names.items() if not bool(torch.isfinite(t).all())), None)
    if bad is not None:
        raise _no_fit(path, f"its tensor {bad} holds NaN or infinity")
    mixer = adapter.ffrnet_mixer
    width, vector = net.config.context_dim, net.config.adm_dim
    if width != mixer.config.context or (vector is None) != (adapter.spec.base == "sd15"):
        raise _no_fit(path, f"it takes tokens {width} wide and a vector y of {vector or 0}")
    groups = FFRNetSpec.default(mixer).groups
    return dataclasses.replace(adapter, ffrnet=net, ffrnet_spec=FFRNetSpec(groups, strength or 1.0))


def add_stage2(adapter: Adapter, *, queries: int = QUERIES, width: int | None = None, depth: int = DEPTH) -> Adapter:
    """The adapter with a fresh stage 2 whose tokens enter every site through a gate of 0.

    Args:
        queries: learned queries. width: of stage 2, a multiple of 64. depth: its layers.

    Raises:
        SettingsError: the adapter has no stage 1, or has a stage 2 already.
    """
    mixer = adapter.mixer
    if not isinstance(mixer, FacialAttributeMixer) or mixer.config.stage1 is None or mixer.config.stage2 is not None:
        raise SettingsError(
            f"A stage 2 cannot be added to {adapter.spec.name!r}.",
            expected="an adapter of FaceID's form, with stage 1 alone",
            remedy="convert it without --add-stage2",
        )
    config, w = mixer.config, width or WIDTH[adapter.spec.base]
    groups = (("h", config.context), *((("x", config.clip_width),) if config.clip_width else ()))
    stage2 = Stage2Config(config.id_width, w, queries, depth, w, 4 * w, config.context, groups)
    dtype = next(mixer.parameters()).dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        grown = FacialAttributeMixer(MixerConfig(config.stage1, stage2, config.levels, config.dim_head))
        old = adapter.projections
        projections = IDProjections(old.widths, old.groups | {"mix": True}, old.context)
    _fill(grown, mixer)
    _fill(projections, old)
    return dataclasses.replace(
        adapter, mixer=grown.to(dtype).eval(), projections=projections.to(dtype).eval(), digest=""
    )


def add_landmark_hint(adapter: Adapter) -> Adapter:
    """The adapter whose FFRNet looks at the landmark picture too, through a fresh hint network that ends in zeros.

    Raises:
        SettingsError: there is no FFRNet, or it looks at landmarks already.
    """
    net = adapter.ffrnet
    if net is None or net.config.donor_picture == "landmarks" or net.config.landmark_hint_channels is not None:
        raise SettingsError(
            f"A landmark hint cannot be added to {adapter.spec.name!r}.",
            expected="an adapter with an FFRNet that looks at the five-point picture alone (InstantID)",
            remedy="convert it without --add-landmarks",
        )
    config: FFRNetConfig = dataclasses.replace(net.config, landmark_hint_channels=LANDMARK_HINT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        grown = FFRNet(config)
    _fill(grown, net)
    return dataclasses.replace(adapter, ffrnet=grown.to(net.dtype).requires_grad_(False).eval(), digest="")


def default_name(source: Path, structure: Path | None) -> str:
    """The name shown to people where none is given."""
    return source.stem if structure is None else f"{source.stem} + {structure.stem}"


def _no_fit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: {what}.",
        expected="a ControlNet of diffusers' or ldm's layout, for the adapter's base, that takes its ID tokens",
        remedy="choose another ControlNet, or fetch it again",
    )


def _fill(grown: nn.Module, donor: nn.Module) -> None:
    """Copy every tensor of a donor; what the donor has not keeps its initial value."""
    extra = grown.load_state_dict(donor.state_dict(), strict=False).unexpected_keys
    if extra:
        raise CheckpointError(
            f"The donor's tensor {extra[0]} has no place.",
            expected="a place for every tensor",
            remedy="report this with the name of the file",
        )
