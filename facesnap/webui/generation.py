"""From the script's arguments to the host: attach, refuse or leave alone. Nothing fails silently."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from facesnap.attach import Topology, read_topology
from facesnap.errors import FaceSnapError
from facesnap.hosts.webui import Parts, WebUI
from facesnap.webui.settings import Settings, parse
from facesnap.webui.studios import Studios

logger = logging.getLogger(__name__)


def begin(host: WebUI, studios: Studios, p: Any, args: Sequence[Any]) -> Settings | None:
    """A script's `process`: never raises, because the hosts swallow it and make the picture all the same.

    Args:
        host: who owns the UNet. studios: what generations share.
        p: the host's processing object. args: what the WebUI hands the script.

    Returns:
        The settings where FaceSnap is on, else None.
    """
    try:
        settings = parse(args)
        if not settings.enabled:
            host.release(p)
            return None
        _enlist(host, studios, p, settings)
        return settings
    except FaceSnapError as error:
        host.refuse(p, error)
    except Exception as error:  # kept on p, and raised from its sampling
        logger.exception("FaceSnap failed before the sampling")
        host.refuse(p, error)
    return None


def _enlist(host: WebUI, studios: Studios, p: Any, settings: Settings) -> None:
    made: dict[tuple[str, ...], Parts] = {}

    def prepare(topology: Topology) -> Parts:
        if topology.names not in made:
            made[topology.names] = studios.parts(settings, topology)
        return made[topology.names]

    try:
        topology = read_topology(host.live_unet())
        prepare(topology)  # here, where the message comes before any work of the host's
        note = studios.unused(settings, topology)
    except FaceSnapError as error:
        if settings.on_error != "skip":
            raise
        host.release(p)
        host.note(p, f"without FaceSnap: {error.what}")
        return
    host.enlist(p, prepare, settings.hires)
    if note is not None:
        host.note(p, note)
