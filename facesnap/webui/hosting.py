"""Which WebUI this process is, and what the script shares from one generation to the next."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from facesnap.hosts.webui import WebUI
from facesnap.webui.folders import Folders
from facesnap.webui.studios import Studios


def is_forge() -> bool:
    """Whether this is Forge or a fork of it: all have the package modules_forge."""
    return find_spec("modules_forge") is not None


@lru_cache(maxsize=1)
def current_host() -> WebUI:
    """The adapter of this process's WebUI."""
    if is_forge():
        from facesnap.hosts.forge import Forge

        return Forge()
    from facesnap.hosts.a1111 import A1111

    return A1111()


@lru_cache(maxsize=1)
def studios() -> Studios:
    """Adapters, packs, encoders and identities of this process."""
    return Studios(folders)


def folders() -> Folders:
    """The folders of models, as the command line and the settings page have them."""
    from modules import paths, shared

    named = getattr(shared.cmd_opts, "facesnap_dir", None)
    return Folders.of(paths.models_path, named, getattr(shared.opts, "facesnap_folders", "") or "")
