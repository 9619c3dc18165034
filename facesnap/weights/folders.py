"""Where models lie: the WebUI's folders, `--facesnap-dir`, and other extensions' folders; no copies are needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facesnap.checkpoints.adapter import FamilyMatch, WeightsFile
from facesnap.checkpoints.files import SUFFIXES
from facesnap.errors import CheckpointError, SettingsError, UnknownAdapterError
from facesnap.faces.known import OWN
from facesnap.families import registry
from facesnap.files import cached_sha256, sampled_sha256
from facesnap.settings.words import FAMILY_MARK
from facesnap.weights.catalogue import find
from facesnap.weights.headers import ADAPTER, FAMILY, NOTHING, Header, read_header

OTHERS = ("ControlNet", "ipadapter", "ip_adapter", "instantid", "pulid")  # below models/, of other extensions
# Names of folders below models/ as repositories and their copies are called: InstantID-main, "instantid (1)".
UNPACKED = re.compile(
    r"(?<![a-z])(facesnap|controlnet|ip[-_. ]?adapters?|instant[-_. ]?id|pulid|face[-_. ]?id)(?![a-z])", re.IGNORECASE
)
HIDDEN = ".identities"  # a dot-folder: Gradio's /file= refuses to serve it
_HASH = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)


@dataclass(frozen=True)
class ModelFile:
    """A weight file that can be chosen.

    Attributes:
        name: how people choose it: its name without extension, with its folder before it where two share a name.
        path: the file. header: what it says about itself. size: bytes.
        copies: other files of the same content, whose names choose it, too.
    """

    name: str
    path: Path
    header: Header
    size: int
    copies: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Folders:
    """The folders of one WebUI.

    Attributes:
        models: its models folder (`modules.paths.models_path`).
        own: --facesnap-dir or models/FaceSnap: searched first, and where FaceSnap writes.
        extra: further folders, from the settings page.
    """

    models: Path
    own: Path
    extra: tuple[Path, ...] = ()

    @classmethod
    def of(cls, models: Path | str, facesnap_dir: Path | str | None = None, extra: str = "") -> Folders:
        """From what the host knows; `extra` has one folder a line, as the settings page has it."""
        models = Path(models)
        own = Path(facesnap_dir).expanduser() if facesnap_dir else models / OWN
        lines = (line.strip() for line in extra.splitlines())
        return cls(models, own, tuple(Path(line).expanduser() for line in lines if line))

    @property
    def adapters(self) -> list[Path]:
        """Searched for adapters, in this order."""
        named = [self.own, *self.extra, self.models / OWN, *(self.models / name for name in OTHERS)]
        below = sorted(self.models.iterdir()) if self.models.is_dir() else []
        return list(dict.fromkeys([*named, *(one for one in below if UNPACKED.search(one.name) and one.is_dir())]))

    @property
    def packs(self) -> list[str]:
        """For `facesnap.faces.packs`: folders of models, in this order (it looks into their insightface/ and so on)."""
        return [str(folder) for folder in dict.fromkeys([self.own, *self.extra, self.models])]

    @property
    def identities(self) -> Path:
        """Where saved identities lie."""
        return self.own / HIDDEN


def list_adapters(folders: Folders) -> list[ModelFile]:
    """Every adapter, ours and public ones, by name; known by the content, not by the file's name.

    Those that cannot be used are listed too, and their header has the problem: damaged ones, what a download left in
    the place of weights, and in FaceSnap's own folder whatever cannot be read. Files of the same content are one
    adapter.
    """
    listed = (ADAPTER, FAMILY, NOTHING)
    headers = {
        path: header
        for path, header in _files(folders.adapters)
        if header.kind in listed or (header.problem and path.is_relative_to(folders.own))
    }
    groups = _by_content({path: header for path, header in headers.items() if header.kind in (ADAPTER, FAMILY)})
    groups += [[path] for path, header in headers.items() if header.kind not in (ADAPTER, FAMILY)]
    names = _names([group[0] for group in groups])
    files = [
        ModelFile(name, first, headers[first], first.lstat().st_size, tuple(copies))
        for name, (first, *copies) in zip(names, groups, strict=True)
    ]
    return sorted(files, key=lambda file: file.name.lower())


def _by_content(headers: Mapping[Path, Header]) -> list[list[Path]]:
    """Files of one content together; the first is that of which most is known, of several the first that was found."""
    by_size: dict[int, list[Path]] = {}
    for path in headers:
        by_size.setdefault(path.stat().st_size, []).append(path)
    groups: dict[tuple[int, str], list[Path]] = {}
    for size, paths in by_size.items():
        for path in paths:
            content = sampled_sha256(path) if len(paths) > 1 else ""  # no file is opened that has no equal
            groups.setdefault((size, content), []).append(path)
    return [one for group in groups.values() for one in _by_family(group, headers)]


def _by_family(paths: list[Path], headers: Mapping[Path, Header]) -> list[list[Path]]:
    """Copies of one file by the family that names and neighbours give them; those that leave it open with the others,
    unless these are of several."""
    matches = {path: _match(path, headers[path]) if len(paths) > 1 else FamilyMatch("", "") for path in paths}
    families = {match.family for match in matches.values() if match.family}
    groups: dict[str, list[Path]] = {}
    # Those with a companion (IdentityNet) beside them first, those that leave the family open last.
    for path in sorted(paths, key=lambda one: (not matches[one].family, matches[one].structure is None)):
        family = matches[path].family or (next(iter(families)) if len(families) == 1 else "")
        groups.setdefault(family, []).append(path)
    return list(groups.values())


def _match(path: Path, header: Header) -> FamilyMatch:
    try:
        return registry.decide(header.families, WeightsFile(path)) if header.families else FamilyMatch("", "")
    except CheckpointError:
        return FamilyMatch("", "")


def _names(paths: Sequence[Path]) -> list[str]:
    """For each file the shortest name that no other has: its stem, or its name below one or more of its folders."""
    stems = Counter(path.stem.lower() for path in paths)
    found = []
    for path in paths:
        name, parts, used = path.stem, path.parts, 1
        rivals = [other for other in paths if other != path and other.stem.lower() == path.stem.lower()]
        if stems[path.stem.lower()] > 1:
            while used < len(parts) and (used < 2 or any(_ends(other, parts[-used:]) for other in rivals)):
                used += 1
            name = "/".join(parts[-used:])
        found.append(name)
    return found


def _ends(path: Path, parts: Sequence[str]) -> bool:
    return [part.lower() for part in path.parts[-len(parts) :]] == [part.lower() for part in parts]


def choose_adapter(name: str, files: Iterable[ModelFile]) -> tuple[ModelFile, str]:
    """(file, family) of an adapter's name as settings have it; family: the user's word, "" where the name has none.

    Raises:
        UnknownAdapterError, CheckpointError: as `find_adapter`.
    """
    files = list(files)
    try:
        return find_adapter(name, files), ""
    except UnknownAdapterError:
        bare, mark, family = name.rpartition(FAMILY_MARK)
        if not mark:
            raise
        return find_adapter(bare, files), family.strip().lower()


def find_adapter(name: str, files: Iterable[ModelFile]) -> ModelFile:
    """One of the adapters by name with or without extension, below its folders or alone, or by the beginning of its
    hash. Case and the direction of slashes make no difference.

    Raises:
        UnknownAdapterError: there is none of that name. CheckpointError: there are several.
    """
    files = list(files)
    wanted = name.strip().lower().replace("\\", "/")
    for fits in (lambda file: file.name.lower() == wanted, lambda file: any(_is_called(p, wanted) for p in _all(file))):
        found = [file for file in files if fits(file)]
        if len(found) > 1:
            raise CheckpointError(
                f"There are {len(found)} adapters of the name {name!r}.",
                expected=" or ".join(sorted(file.name for file in found)),
                remedy="give the name with its folder",
            )
        if found:
            return found[0]
    if _HASH.fullmatch(wanted):
        for file in files:
            if cached_sha256(file.path).startswith(wanted):
                return file
    raise UnknownAdapterError(
        f"There is no adapter {name!r}.",
        expected=f"one of {', '.join(file.name for file in files)}" if files else "an adapter in models/FaceSnap",
        remedy=f"correct the name, or {_get(name)} and refresh the list",
    )


def _all(file: ModelFile) -> tuple[Path, ...]:
    return file.path, *file.copies


def _is_called(path: Path, wanted: str) -> bool:
    """Whether a path, or its end from some folder on, is the name; the extension may be left out."""
    whole = (path.as_posix().lower(), path.with_suffix("").as_posix().lower())
    return bool(wanted) and any(one == wanted or one.endswith(f"/{wanted.lstrip('/')}") for one in whole)


def _get(name: str) -> str:
    """How to come by an adapter."""
    try:
        return f"run `{find(name).command}`"
    except SettingsError:
        return "put the file into models/FaceSnap"


def _files(parents: Iterable[Path]) -> Iterator[tuple[Path, Header]]:
    """Weight files below these folders, each once, hidden folders left out."""
    seen: set[Path] = set()
    for parent in parents:
        if not parent.is_dir():
            continue
        for path in sorted(parent.rglob("*")):
            inside = path.relative_to(parent).parts
            if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in inside):
                continue
            real = path.resolve()
            if real not in seen and (path.is_file() or path.is_symlink()):
                seen.add(real)
                yield path, read_header(path)
