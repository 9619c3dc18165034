"""InstantID: the resampler (stage 2 of the mixer) with its ID projections, and IdentityNet, a ControlNet, beside it.

IdentityNet is FFRNet with a single hint network that looks at the five-point picture; its cross-attention sees the 16
ID tokens. The two files are one adapter: the second is found beside the first.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.checkpoints import build as parts
from facesnap.checkpoints import layout
from facesnap.checkpoints.adapter import Adapter, FFRNetSpec
from facesnap.checkpoints.detection import FamilyMatch, Hint, WeightsFile, choose
from facesnap.checkpoints.files import read_file
from facesnap.errors import CheckpointError
from facesnap.families import faceid
from facesnap.families.recipes import RECIPES
from facesnap.models import ldm_names
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import Picture

logger = logging.getLogger(__name__)

FAMILIES = ("instantid", "portrait-unnorm")
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# Files that are IdentityNet by their name, in the folder of the adapter or one of these below or beside it.
NETWORK_NAME = re.compile(r"identity[-_ ]?net|(?=.*instant[-_ ]?id)(?=.*control)", re.IGNORECASE)
FOLDERS = ("ControlNetModel", "controlnet", "IdentityNet", "instantid")
FOLDER_FILE = re.compile(r"diffusion_pytorch_model(\.fp16)?", re.IGNORECASE)
HINTS = (
    Hint(r"instant[-_ ]?id", "instantid"),
    Hint(r"unnorm", "portrait-unnorm"),
    Hint(r"portrait", "portrait-unnorm"),
    Hint(r"^ip-adapter\.bin$", "instantid"),
)


def families_of(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """InstantID and FaceID-Portrait in its unnormalised form, which look alike; empty where it is neither."""
    found = layout.split_parts(state)
    if found is None or "latents" not in found["image_proj"]:
        return ()
    projection = found["image_proj"]
    vector = projection.get("proj_in.weight")
    if vector is None or vector.ndim != 2 or "id_embedding_mapping.0.weight" in projection:
        return ()
    if vector.shape[1] == 1280 and "proj_in.bias" in projection and "mapping_0.0.weight" not in projection:
        return ()  # IP-Adapter Plus, which looks at CLIP tokens and knows no recogniser
    return FAMILIES


def decide(options: Sequence[str], source: WeightsFile) -> FamilyMatch:
    """Which of the two, and IdentityNet's file where it lies beside InstantID.

    Raises:
        CheckpointError: neither the user nor the name nor a file beside it tells which.
    """
    beside = find_identitynet(source.path)
    named = any(re.search(hint.pattern, source.path.name.lower()) for hint in HINTS)
    if beside is not None and not source.family and not named:
        return FamilyMatch("instantid", f"its IdentityNet lies beside it ({beside.name})", beside)
    detection = choose(options, source, hints=HINTS)
    return dataclasses.replace(detection, structure=beside if detection.family == "instantid" else None)


def load(
    state: Mapping[str, Tensor], source: WeightsFile, detection: FamilyMatch, topology: Topology | None = None
) -> Adapter:
    """The adapter, with IdentityNet as its FFRNet where that was found.

    Raises:
        CheckpointError: tensors missing, extra, of a wrong shape or not finite, in either file.
    """
    found = layout.split_parts(state)
    assert found is not None
    where = source.path.name
    read = layout.read_processors(found["processors"], where, "mix", topology)
    tensors = {f"mixer.stage2.{name}": tensor for name, tensor in found["image_proj"].items()} | read.tensors
    spec = faceid.spec_of(RECIPES[detection.family], detection.family, read.base, source)
    adapter = parts.build(tensors, spec, None, None, where, source.sha256, detection)
    if detection.structure is not None:
        return with_structure(adapter, detection.structure)
    if detection.family == "instantid":
        logger.warning(
            "%s: its IdentityNet is not beside it, so structure and pose are off. `facesnap download instantid` "
            "fetches both files; or put ControlNetModel/diffusion_pytorch_model.safetensors beside it.", where,
        )  # fmt: skip
    return adapter


def with_structure(adapter: Adapter, path: Path, *, picture: Picture | None = None) -> Adapter:
    """The adapter with a ControlNet, of diffusers' or ldm's layout, as its FFRNet.

    Args:
        picture: what the ControlNet looks at; five points for InstantID, else the landmark picture.

    Raises:
        CheckpointError: it is no ControlNet, or one for another base or another width of tokens.
    """
    state = read_file(path).tensors
    of_instantid = adapter.spec.family == "instantid"
    try:
        names = ldm_names.to_diffusers_names(state) if ldm_names.is_ldm_layout(state) else state
        net = FFRNet.from_state_dict(names, donor_picture=picture or ("five_points" if of_instantid else "landmarks"))
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error.what}", expected=error.expected, remedy=error.remedy) from error
    except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise _no_fit(path, f"it cannot be read as a ControlNet ({error})") from error
    bad = next((n for n, t in names.items() if not bool(torch.isfinite(t).all())), None)
    if bad is not None:
        raise _no_fit(path, f"its tensor {bad} holds NaN or infinity")
    context = adapter.mixer.config.context
    if net.config.context_dim != context or (net.config.adm_dim is None) != (adapter.spec.base == "sd15"):
        raise _no_fit(
            path, f"it takes tokens {net.config.context_dim} wide and a vector y of {net.config.adm_dim or 0}"
        )
    group = "mix" if "mix" in adapter.mixer.config.token_counts else "id"
    strength = RECIPES["instantid"].structure if of_instantid else 1.0
    return dataclasses.replace(adapter, ffrnet=net, ffrnet_spec=FFRNetSpec((group,), strength or 1.0))


def find_identitynet(adapter: Path) -> Path | None:
    """IdentityNet's file beside an adapter's: by its name, and its tensors where those are cheap to read."""
    return next((path for path in _candidates(adapter) if _is_network(path)), None)


def _candidates(adapter: Path) -> Iterator[Path]:
    here = adapter.parent
    wanted = {folder.casefold() for folder in FOLDERS}
    folders = [here]
    for parent in (here, here.parent):
        if parent.is_dir():
            folders += [f for f in sorted(parent.iterdir()) if f.is_dir() and f.name.casefold() in wanted and f != here]
    for folder in folders:
        own = folder.name.casefold() in {"controlnetmodel", "identitynet"}
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            by_name = NETWORK_NAME.search(file.stem) or (own and FOLDER_FILE.fullmatch(file.stem))
            if by_name and file != adapter and file.suffix.lower() in SUFFIXES and file.is_file():
                yield file


def _is_network(path: Path) -> bool:
    """Whether a .safetensors header lists a ControlNet's hint network; other files are believed by their name, damaged
    ones too: loading them says what is wrong, where passing them over would leave the structure out."""
    if path.suffix.lower() != ".safetensors":
        return True
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, 32 << 20))
    try:
        names = json.loads(header)
    except ValueError:
        return True
    return isinstance(names, dict) and any("controlnet_cond_embedding" in n or "input_hint_block" in n for n in names)


def _no_fit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: {what}.",
        expected="a ControlNet of diffusers' or ldm's layout, for the adapter's base, that takes its ID tokens",
        remedy="choose another ControlNet, or fetch it again",
    )
