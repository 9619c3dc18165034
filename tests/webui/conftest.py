"""A browser, and a stand-in for AUTOMATIC1111 with the routes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np
    from fastapi.testclient import TestClient
    from playwright.sync_api import Browser

    from facesnap.webui.api.service import Service
    from tests.webui.standin.server import Server

# They run in the WebUIs' environments, where `make` names them: it fails if they are not collected there.
collect_ignore = [] if find_spec("gradio") and find_spec("playwright") else ["page", "canvas", "test_scene.py"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium, one for all tests: two at a time cannot be driven from one thread."""
    from tests.webui.browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stand-in for AUTOMATIC1111 with a loaded checkpoint, an untrained adapter for it and a real pack."""
    from tests.webui.standin.server import running

    with running(tmp_path_factory.mktemp("server"), face_pack) as made:
        yield made


@pytest.fixture(scope="module")
def service(server: Server) -> Service:
    """What the routes of `client` work with."""
    return server.service()


@pytest.fixture(scope="module")
def client(server: Server, service: Service) -> Iterator[TestClient]:
    """A client of our routes alone."""
    from fastapi.testclient import TestClient

    from tests.webui.standin.server import with_routes

    with TestClient(with_routes(server, service=service)) as made:
        yield made


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray) -> str:
    """A portrait as a client sends it."""
    from tests.webui.standin.pictures import png

    return png(astronaut)
