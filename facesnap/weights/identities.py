"""Saved identities: biometric data, in a dot-folder, under file names of our own making."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from facesnap.errors import CheckpointError, NameTakenError, SettingsError, UnknownIdentityError
from facesnap.faces.identity import Identity
from facesnap.settings.field_types import Text
from facesnap.weights.headers import IDENTITY, read_header

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
_NAME = Text(longest=80)
_WRITING = threading.Lock()  # two clients that save one name at once


@dataclass(frozen=True)
class SavedIdentity:
    """A saved identity, by its header alone. references: of how many photos; alias: its recogniser's pack."""

    name: str
    path: Path
    references: int
    alias: str


class IdentityStore:
    """The identities of one folder. Names are free text for people; files are named at random.

    Args:
        folder: made when the first identity is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def entries(self) -> list[SavedIdentity]:
        """All of them, by name; files of another kind are passed over."""
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []:
            header = read_header(path)
            count = str(header.metadata.get("references", ""))
            if header.kind == IDENTITY and count.isdigit():
                name, alias = header.metadata.get("name", ""), header.metadata.get("alias", "")
                found.append(SavedIdentity(str(name), path, int(count), str(alias)))
        return sorted(found, key=lambda entry: entry.name.casefold())

    def load(self, name: str) -> Identity:
        """The identity of a name; case counts only where two names differ by nothing else.

        Raises:
            UnknownIdentityError: there is none. CheckpointError: its file is damaged.
        """
        return Identity.load(self._entry(name).path)

    def digests(self) -> dict[str, str]:
        """Name -> digest of all, for infotexts; each file is read once, and damaged ones are left out."""
        found = {}
        for entry in self.entries():
            try:
                found[entry.name] = _digest(entry.path, entry.path.stat().st_mtime_ns)
            except (CheckpointError, OSError) as error:
                logger.warning("%s", error)
        return found

    def save(self, identity: Identity, replace: bool = False) -> SavedIdentity:
        """Keep an identity under its name.

        Raises:
            SettingsError: the name is empty or not one line. NameTakenError: it is taken and `replace` is false.
        """
        with _WRITING:
            name = self.checked_name(identity.name, replace)
            taken = self._taken(name)
            identity = dataclasses.replace(identity, name=name)
            path = self.folder / f"{secrets.token_hex(16)}{SUFFIX}"
            identity.save(path)
            for entry in taken:
                entry.path.unlink(missing_ok=True)
        return SavedIdentity(name, path, identity.references, identity.alias)

    def checked_name(self, name: str, replace: bool = False) -> str:
        """A name as `save` will write it. Raises what `save` raises, before any work is done for it."""
        name = _NAME.read(name, "the identity's name")
        if not name or name.lower() == "none":
            raise SettingsError("The identity has no name.", expected="one line of text", remedy="give it a name")
        for entry in () if replace else self._taken(name):
            raise NameTakenError(
                f"There is an identity '{entry.name}' already.",
                expected="a new name",
                remedy="choose another name, or delete the old identity first",
            )
        return name

    def _taken(self, name: str) -> list[SavedIdentity]:
        return [entry for entry in self.entries() if _key(entry.name) == _key(name)]

    def delete(self, name: str) -> None:
        """Remove an identity's file. Raises UnknownIdentityError where there is none of that name."""
        with _WRITING:
            self._entry(name).path.unlink(missing_ok=True)

    def _entry(self, name: str) -> SavedIdentity:
        entries = self.entries()
        for same in (lambda a: a == name, lambda a: _key(a) == _key(name.strip())):
            for entry in entries:
                if same(entry.name):
                    return entry
        raise UnknownIdentityError(
            f"There is no saved identity '{name[:80]}'.",
            expected=f"one of {', '.join(entry.name for entry in entries)}" if entries else "a saved identity",
            remedy="correct the name, refresh the list, or give reference photos",
        )


def _key(name: str) -> str:
    """The form in which two names that people take for the same are equal."""
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=1024)
def _digest(path: Path, mtime_ns: int) -> str:
    return Identity.load(path).digest
