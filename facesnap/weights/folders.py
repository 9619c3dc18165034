"""Where models lie: the WebUI's folders, `--facesnap-dir`, and other extensions' folders; no copies are needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from facesnap.checkpoints.files import SUFFIXES
from facesnap.errors import CheckpointError, SettingsError, UnknownAdapterError
from facesnap.faces.known import OWN
from facesnap.files import cached_sha256
from facesnap.weights.catalogue import find
from facesnap.weights.headers import ADAPTER, FAMILY, Header, read_header

OTHERS = ("ControlNet", "ipadapter", "ip_adapter", "instantid", "pulid")  # below models/, of other extensions
HIDDEN = ".identities"  # a dot-folder: Gradio's /file= refuses to serve it
_HASH = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)


@dataclass(frozen=True)
class ModelFile:
    """A weight file that can be chosen.

    Attributes:
        name: how people choose it: its name without extension, with its folder before it where two share a name.
        path: the file. header: what it says about itself. size: bytes.
    """

    name: str
    path: Path
    header: Header
    size: int


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
        return list(dict.fromkeys(named))

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

    Damaged ones are listed too: their header has the problem.
    """
    found = [(path, header) for path, header in _files(folders.adapters) if header.kind in (ADAPTER, FAMILY)]
    stems = [path.stem.lower() for path, _ in found]
    files = []
    for path, header in found:
        own = stems.count(path.stem.lower()) == 1
        name = path.stem if own else f"{path.parent.name}/{path.name}"
        files.append(ModelFile(name, path, header, path.stat().st_size))
    return sorted(files, key=lambda file: file.name.lower())


def find_adapter(name: str, files: Iterable[ModelFile]) -> ModelFile:
    """One of the adapters by name with or without extension, or by the beginning of its hash.

    Raises:
        UnknownAdapterError: there is none of that name. CheckpointError: there are several.
    """
    files = list(files)
    wanted = name.strip().lower()
    for names in (
        lambda file: {file.name.lower(), str(file.path).lower()},
        lambda file: {file.path.name.lower(), file.path.stem.lower()},
    ):
        found = [file for file in files if wanted in names(file)]
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
            if real not in seen and path.is_file():
                seen.add(real)
                yield path, read_header(path)
