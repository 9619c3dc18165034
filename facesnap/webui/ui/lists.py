"""Choices of the dropdowns, looked for at each refresh."""

from __future__ import annotations

from facesnap.errors import CheckpointError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.hosts.webui import ChosenModel
from facesnap.settings.model import SETTINGS
from facesnap.settings.words import TITLE_MARK
from facesnap.webui import process
from facesnap.weights.adapters import ListedAdapter, entries
from facesnap.weights.folders import choose_adapter, list_adapters
from facesnap.weights.identities import IdentityStore

AUTOMATIC, NO_IDENTITY = "Automatic", "None"  # the empty name as it is shown, see `controls`


def adapters(model: ChosenModel | None = None) -> list[ListedAdapter]:
    """The adapters of this machine, those that fit the checkpoint first; None: the one that the host has chosen."""
    model = process.current_host().chosen_model() if model is None else model
    return entries(process.folders(), model.base)


def adapter_names() -> list[str]:
    """Names for the adapter axis."""
    return [entry.name for entry in adapters()]


def is_adapter(name: str) -> bool:
    """Whether a setting's value is an adapter of this machine: also a hash, a copy's name, a name with its family."""
    try:
        choose_adapter(name, list_adapters(process.folders()))
    except CheckpointError:
        return False
    return True


def adapter_choices(found: list[ListedAdapter]) -> list[str]:
    """Titles for the dropdown; the part that `controls` reads is the name before its first TITLE_MARK."""
    return [AUTOMATIC, *(entry.title for entry in found)]


def adapter_named(title: str | None) -> str:
    """The name in a dropdown's title, as `Settings.adapter` has it."""
    return str(SETTINGS["adapter"].kind.read((title or "").partition(TITLE_MARK)[0], "'Adapter'"))


def viewer(title: str | None) -> FaceAnalyser:
    """The analyser to look at photos with for the adapter that is chosen in the dropdown.

    Raises:
        FaceSnapError: see `PipelineLoader.viewer`.
    """
    return process.loader().viewer(adapter_named(title), process.current_host().chosen_model().base)


def identities() -> IdentityStore:
    """The saved identities."""
    return IdentityStore(process.folders().identities)


def identity_names() -> list[str]:
    """Names for the identity axis."""
    return [entry.name for entry in identities().entries()]


def identity_choices() -> list[str]:
    """For the dropdowns."""
    return [NO_IDENTITY, *identity_names()]
