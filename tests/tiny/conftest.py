"""Data of a handful of rendered people, and short runs on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from facesnap.tiny import stages
from facesnap.world import World
from tests.world.conftest import portraits as portraits

SIZE, STEPS = 64, 3


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory, portraits: World) -> Path:
    """A state folder with the data of five people."""
    folder = tmp_path_factory.mktemp("tiny")
    stages.run("data", work(folder))
    return folder


def work(folder: Path, **changes: object) -> stages.Workspace:
    settings = stages.Workspace(folder, people=3, held_out=2, pictures=2, size=SIZE, steps=STEPS, say=lambda _: None)
    return replace(settings, **changes)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, budget in stages.BUDGETS.items():
        monkeypatch.setitem(stages.BUDGETS, stage, replace(budget, batch=4))
