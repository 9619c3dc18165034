"""A server and a WebUI's folders, both empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facesnap.weights import transfer
from facesnap.weights.folders import Folders
from tests.weights.server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(transfer, "PAUSE", 0)
    with serving() as server:
        yield server


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.of(tmp_path / "models größe")
