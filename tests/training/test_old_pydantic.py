"""Environments with pydantic 1, such as the WebUIs', are told what training needs."""

from __future__ import annotations

import pydantic
import pytest

from facesnap.cli import main


@pytest.mark.skipif(not pydantic.VERSION.startswith("1."), reason="only of an environment with pydantic 1")
def test_training_names_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny-cpu"]) == 1
    assert "pydantic 2" in capsys.readouterr().err
