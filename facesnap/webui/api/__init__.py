"""FaceSnap's own routes beside the WebUI's API, under /facesnap/v1; for `script_callbacks.on_app_started`.

They exist only where the host serves its own API (--api or --nowebui), and ask for the host's --api-auth credentials.
The UI never calls them. FastAPI is imported here and nowhere else in the package.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter

from facesnap.webui.api import faces, identities, information
from facesnap.webui.api.guard import credentials, guarded
from facesnap.webui.api.service import Service

logger = logging.getLogger(__name__)

PREFIX = "/facesnap/v1"


def register(demo: Any, app: Any) -> None:
    """Add the routes to the host's FastAPI app. demo: Gradio's Blocks, None with --nowebui; not used."""
    from modules import call_queue, shared

    from facesnap.webui.process import current_host, folders, loader

    if not (getattr(shared.cmd_opts, "api", False) or getattr(shared.cmd_opts, "nowebui", False)):
        return
    service = Service(shared.opts, folders, current_host, loader, call_queue.queue_lock)
    app.include_router(router(service, getattr(shared.cmd_opts, "api_auth", None)))
    logger.debug("routes under %s", PREFIX)


def router(service: Service, api_auth: str | None = None) -> APIRouter:
    """All routes. api_auth: as the host's --api-auth has it."""
    made = APIRouter(prefix=PREFIX, tags=["FaceSnap"], route_class=guarded(credentials(api_auth)))
    for part in (information, identities, faces):
        part.add(made, service)
    return made
