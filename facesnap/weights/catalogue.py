"""Everything that `facesnap download` fetches: the families' adapters, then encoders and packs."""

from __future__ import annotations

from pathlib import PurePosixPath

from facesnap.errors import SettingsError
from facesnap.faces.known import DOWNLOADS, Item, plain
from facesnap.families.registry import PUBLIC
from facesnap.remedies import remedy

# Adapters for SD1.5 before those for SDXL, each in the families' order.
ADAPTERS = sorted(((item, family) for family in PUBLIC for item in family.downloads), key=lambda pair: pair[0].base)
CATALOGUE: tuple[Item, ...] = (*(item for item, _ in ADAPTERS), *DOWNLOADS)


def item_of_file(name: str) -> Item | None:
    """The item that a file of this name belongs to; None where it is none's, or several have one."""
    found = [item for item in CATALOGUE if any(PurePosixPath(file.to).name == name for file in item.files)]
    return found[0] if len(found) == 1 else None


def find(name: str) -> Item:
    """An item by its name, by that of its file, or with `_` for `-`; case is ignored.

    Raises:
        SettingsError: there is none.
    """
    wanted = plain(name)
    for item in CATALOGUE:
        stems = {PurePosixPath(file.to).name for file in item.files if item.kind == "adapter"}
        if wanted in {plain(item.name), *map(plain, stems), *(plain(PurePosixPath(stem).stem) for stem in stems)}:
            return item
    raise SettingsError(
        f"The catalogue has no {name!r}.",
        expected=", ".join(item.name for item in CATALOGUE),
        remedy=f"choose one of these; {remedy('see what can be downloaded')}",
    )
