"""The state of this process: which WebUI it is, and everything shared from one generation to the next."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from facesnap.hosts.webui import WebUI
from facesnap.pipeline.pipeline import CACHE_BYTES
from facesnap.webui import options as page
from facesnap.webui.generation.loader import PipelineLoader
from facesnap.weights.folders import Folders


@lru_cache(maxsize=1)
def current_host() -> WebUI:
    """The adapter of this process's WebUI."""
    if find_spec("modules_forge") is not None:  # Forge and all of its forks have it
        from facesnap.hosts.forge import Forge

        return Forge()
    from facesnap.hosts.a1111 import A1111

    return A1111()


@lru_cache(maxsize=1)
def loader() -> PipelineLoader:
    """Adapters, packs, encoders and identities of this process."""
    from modules import shared

    megabytes = getattr(shared.cmd_opts, "facesnap_cache", None)
    cache_bytes = CACHE_BYTES if megabytes is None else max(int(megabytes), 0) << 20
    return PipelineLoader(folders, options, cache_bytes, on_replaced=lambda: current_host().free())


def options() -> dict[str, Any]:
    """The settings page's options by key, checked; see `facesnap.webui.options.values`."""
    from modules import shared

    return page.values(shared.opts)


def folders() -> Folders:
    """The folders of models, as the command line and the settings page have them."""
    from modules import paths, shared

    named = getattr(shared.cmd_opts, "facesnap_dir", None)
    return Folders.of(paths.models_path, named, getattr(shared.opts, "facesnap_folders", "") or "")
