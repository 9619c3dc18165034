"""What the dropdowns offer, asked at each refresh."""

from __future__ import annotations

from facesnap.attach import read_topology
from facesnap.errors import FaceSnapError
from facesnap.webui import process
from facesnap.weights.adapters import ListedAdapter, entries
from facesnap.weights.identities import IdentityStore

AUTOMATIC, NOBODY = "Automatic", "None"  # what the empty name is shown as, see `columns`


def loaded_base() -> str | None:
    """ "sd15" or "sdxl" of the loaded model; None where none is loaded, or one that FaceSnap does not know."""
    try:
        return read_topology(process.current_host().live_unet()).base
    except FaceSnapError:
        return None


def adapters() -> list[ListedAdapter]:
    """The adapters of this machine, those that fit the loaded model first."""
    return entries(process.folders(), loaded_base())


def adapter_names() -> list[str]:
    """What the adapter axis offers."""
    return [entry.name for entry in adapters()]


def adapter_choices(found: list[ListedAdapter]) -> list[str]:
    """Titles for the dropdown; what `columns` reads of one is the name before its first TITLE_MARK."""
    return [AUTOMATIC, *(entry.title for entry in found)]


def identities() -> IdentityStore:
    """The saved identities."""
    return IdentityStore(process.folders().identities)


def identity_names() -> list[str]:
    """Names of the saved identities."""
    return [entry.name for entry in identities().entries()]


def identity_choices() -> list[str]:
    """For the dropdowns."""
    return [NOBODY, *identity_names()]
