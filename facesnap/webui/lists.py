"""What the dropdowns offer, asked at each refresh."""

from __future__ import annotations

from facesnap.attach import read_topology
from facesnap.errors import FaceSnapError
from facesnap.webui import hosting
from facesnap.webui.identities import IdentityStore
from facesnap.webui.model_list import Entry, entries

AUTOMATIC, NOBODY = "Automatic", "None"  # what the empty name is shown as, see `columns`


def loaded_base() -> str | None:
    """ "sd15" or "sdxl" of the loaded model; None where none is loaded, or one that FaceSnap does not know."""
    try:
        return read_topology(hosting.current_host().live_unet()).base
    except FaceSnapError:
        return None


def adapters() -> list[Entry]:
    """The adapters of this machine, those that fit the loaded model first."""
    return entries(hosting.folders(), loaded_base())


def adapter_names() -> list[str]:
    """What the adapter axis offers."""
    return [entry.name for entry in adapters()]


def adapter_choices(found: list[Entry]) -> list[tuple[str, str]]:
    """(title, name) for the dropdown."""
    return [(AUTOMATIC, AUTOMATIC), *((entry.title, entry.name) for entry in found)]


def identities() -> IdentityStore:
    """The saved identities."""
    return IdentityStore(hosting.folders().identities)


def identity_names() -> list[str]:
    """Names of the saved identities."""
    return [entry.name for entry in identities().entries()]


def identity_choices() -> list[str]:
    """For the dropdowns."""
    return [NOBODY, *identity_names()]
