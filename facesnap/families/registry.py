"""Any file that holds an adapter: FaceSnap's own, or one of the public families.

The families are those of the modules of this package: each binds `FAMILIES` to its own.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from facesnap import families as package
from facesnap.attach.topology import Topology
from facesnap.checkpoints import foreign
from facesnap.checkpoints.adapter import Adapter, FamilyMatch, WeightsFile
from facesnap.checkpoints.downloads import fault_of
from facesnap.checkpoints.files import read_file
from facesnap.errors import CheckpointError
from facesnap.families.base import NATIVE, Family
from facesnap.files import sha256_of, without_copy_marks
from facesnap.remedies import remedy
from facesnap.settings.words import FAMILY_MARK

logger = logging.getLogger(__name__)
WEBUI_FOLDERS = ("facesnap", "controlnet", "ipadapter", "ip_adapter", "instantid", "pulid")  # below its models/


def _discovered() -> dict[str, Family]:
    """Key -> family, FaceSnap's own first, then by module."""
    found: list[Family] = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda one: one.name):
        if module.name != __name__.rpartition(".")[2]:
            found += getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "FAMILIES", ())
    return {one.key: one for one in sorted(found, key=lambda one: one.key != NATIVE)}


BY_KEY: Mapping[str, Family] = _discovered()
FAMILIES = tuple(BY_KEY)  # keys
PUBLIC = tuple(one for one in BY_KEY.values() if one.key != NATIVE)


def find(key: str) -> Family:
    """The family of a key, such as `AdapterSpec.family`; FaceSnap's own where the key names no public one."""
    return BY_KEY.get(key, BY_KEY[NATIVE])


def load_adapter(path: Path | str, family: str | None = None, topology: Topology | None = None) -> Adapter:
    """Load an adapter of whatever kind; `Adapter.detection` says which it is, and why that was chosen.

    Args:
        path: .safetensors, .bin, .pt or .pth.
        family: one of FAMILIES where tensors and name leave a choice, or None to find out.
        topology: of the UNet, only needed for UNets of another shape than SD1.5's and SDXL's.

    Raises:
        CheckpointError: no such file, damaged, hostile, of an unknown kind, or a choice is left open.
    """
    path = Path(path)
    if family is not None and family not in FAMILIES:
        raise CheckpointError(
            f"There is no family {family!r}.", expected=", ".join(FAMILIES), remedy="choose one of these"
        )
    if path.is_file() and (fault := fault_of(path)):
        raise CheckpointError(
            f"{path.name} cannot be used: {fault.reason}.",
            expected="a whole file of weights",
            remedy=fault.adapter_remedy,
        )
    file = read_file(path)
    source = WeightsFile(path, sha256_of(path), family or "")
    marked = family_of_metadata(file.metadata)
    match = (
        FamilyMatch(marked, "by its metadata") if marked else decide(families_of(file.tensors), source, file.tensors)
    )
    owner = find(match.family)
    try:
        adapter = owner.load(file, source, match, topology)
    except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError) as error:  # odd sizes refused by torch
        raise CheckpointError(
            f"{path.name} looks like {owner.title}, but it cannot be built ({error}).",
            expected="the tensors of that family, with sizes that fit together",
            remedy="the file is damaged; fetch it again",
        ) from error
    mixes = find(adapter.spec.family)
    if not isinstance(adapter.mixer, mixes.mixer_type):
        raise CheckpointError(
            f"{path.name} names the family {mixes.title}, its mixer is a {type(adapter.mixer).__name__}.",
            expected=f"a {mixes.mixer_type.__name__}",
            remedy="the file is damaged; fetch or convert it again",
        )
    logger.info("%s: %s (%s), %s", path.name, owner.title, adapter.spec.base, match.why)
    return adapter


def family_of_metadata(metadata: Iterable[str]) -> str:
    """The family that .safetensors metadata mark beyond doubt by one of their keys, or ""."""
    return next((one.key for one in BY_KEY.values() if one.metadata_key and one.metadata_key in metadata), "")


def families_of(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The public families that tensors can be of, by names and shapes alone (meta tensors will do).

    One; several that look alike, among which `decide` chooses; or none.
    """
    return tuple(sorted(one.key for one in PUBLIC if one.matches(tensors)))


def decide(options: Sequence[str], source: WeightsFile, tensors: Mapping[str, Tensor] | None = None) -> FamilyMatch:
    """Which of the families that `families_of` allows a file is.

    The first of these decides: the user's word, the tensors alone, a known hash, the file's name (of several that it
    hints at the one whose hint is longest), the companion file beside it, the name of its folder.

    Args:
        tensors: of the file, to say what else it may be where there is no option.

    Raises:
        CheckpointError: no family, an open choice, or the user's word contradicts the tensors.
    """
    name = source.path.name
    if not options:
        raise CheckpointError(
            f"{name} is no adapter that FaceSnap knows: {foreign.kind_of(tensors or {})}.",
            expected="FaceSnap's own, or " + ", ".join(one.title for one in PUBLIC),
            remedy=remedy("see what a file is"),
        )
    if source.family and source.family not in options:
        raise CheckpointError(
            f"{name} was called {source.family}, its tensors are those of {' or '.join(options)}.",
            expected=" or ".join(options),
            remedy="leave the family out, or give the right one",
        )
    key, why = _choice([BY_KEY[one] for one in options], source)
    if not key:
        raise CheckpointError(
            f"{name} can be {' or '.join(options)}: their tensors are alike, and its name leaves it open.",
            expected="a name that says which, as the published files have",
            remedy=remedy("say the family", one=options[0], other=options[-1], name=source.path.stem, mark=FAMILY_MARK),
        )
    return FamilyMatch(key, why, BY_KEY[key].find_companion(source.path))


def _choice(options: Sequence[Family], source: WeightsFile) -> tuple[str, str]:
    """(key, reason), or two empty strings."""
    if source.family:
        return source.family, "you said so"
    if len(options) == 1:
        return options[0].key, "by its tensors"
    for one in options:
        prefix = next((prefix for prefix in one.sha256 if source.sha256.startswith(prefix)), None)
        if prefix is not None:
            return one.key, f"by its content: sha256 {prefix}... is the published file"
    stem = without_copy_marks(source.path.stem)
    key, hint = _hinted({one.key: one.hints for one in options}, [f"{stem}{source.path.suffix}"])
    if key:
        return key, f"by its name, which has {hint!r}"
    for one in options:
        beside = one.find_companion(source.path)
        if beside is not None:
            return one.key, f"its {one.companion} lies beside it ({beside.name})"
    key, hint = _hinted({one.key: one.folder_hints for one in options}, _folders_of(source.path))
    return (key, f"by its folder, whose name has {hint!r}") if key else ("", "")


def _hinted(hints: Mapping[str, Sequence[str]], names: Sequence[str]) -> tuple[str, str]:
    """(key, what was found) of the longest hint in the first of the names that has one; or two empty strings."""
    for name in map(str.lower, names):
        found = {key: m[0] for key, some in hints.items() for hint in some[::-1] if (m := re.search(hint, name))}
        if found:
            return max(found.items(), key=lambda one: len(one[1]))
    return "", ""


def _folders_of(path: Path) -> list[str]:
    """Names of the three folders that may say what a file is, the nearest first; of a WebUI's own folders no more than
    those, since the WebUI's name does not matter."""
    above = [folder.name for folder in path.absolute().parents[:3]]
    of_webui = [name.lower() for name in above[:2]] in [[name, "models"] for name in WEBUI_FOLDERS]
    return above[:2] if of_webui else above
