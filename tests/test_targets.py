"""Targets of the Makefile that the workflow, .ci/run and the documents call are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
CALLERS = [ROOT / ".ci" / "run", *(ROOT / ".github" / "workflows").glob("*.yml"), *ROOT.glob("*.md"),
           *(ROOT / "docs").glob("*.md")]  # fmt: skip
CALL = re.compile(r"(?:^|`|run: )make((?: [a-z][a-z-]*)+)(?= [A-Z]|`|$)", re.MULTILINE)


def called(text: str) -> set[str]:
    return {target for words in CALL.findall(text) for target in words.split()}


@pytest.mark.parametrize("file", CALLERS, ids=lambda file: file.name)
def test_every_target_that_is_called_is_there(file: Path) -> None:
    assert called(file.read_text("utf-8")) <= TARGETS


def test_calls_are_seen() -> None:
    assert called((ROOT / ".ci" / "run").read_text("utf-8")) == {"test"}
    assert called('      - run: make test-main test-lab TORCH="torch==2"\nand `make demo`') == {
        "test-main", "test-lab", "demo",
    }  # fmt: skip
    assert "test-training" not in TARGETS and {"lint", "nightly", "test-newer"} <= TARGETS
