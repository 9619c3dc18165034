"""Configurations: the ready-made ones hold, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from facesnap.cli import main
from facesnap.errors import SettingsError
from facesnap.training.config import load_config, parse, ready_made

LEAST = {
    "base": {"model": "m"}, "data": {"folder": "d"}, "output": "o",
    "stages": [{"name": "one", "steps": 3, "lr": {"mixer": 1e-4}}, {"name": "two", "steps": 2, "lr": {"ffrnet": 1e-4}}],
}  # fmt: skip


def test_every_ready_made_one_is_valid() -> None:
    assert set(ready_made()) == {"tiny-cpu", "sd15-12GB", "sd15-24GB", "sdxl-24GB", "sdxl-multi-gpu"}
    for name in ready_made():
        assert load_config(name).steps > 0


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("speed", 1, "speed"),
        ("data.other_photo", 2, "data.other_photo"),
        ("precision", "fp4", "precision"),
        ("optimiser.batch", "many", "optimiser.batch"),
        ("base.model", None, "base.model"),
        ("stages", [], "stages"),
        ("stages", [{"name": "x", "steps": 1, "lr": {"unet": 1e-4}}], "stages.0.lr.unet"),
        ("recogniser", None, "recogniser"),
        ("drops", {"text": 0.6, "identity": 0.6}, "drops"),
    ],
)
def test_wrong_keys_are_named(key: str, value: object, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_config("tiny-cpu", {key: value})


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("a: [", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    for name, words in (("odd.yaml", "not YAML"), ("list.yaml", "no sections"), ("none.yaml", "tiny-cpu")):
        with pytest.raises(SettingsError, match=words):
            load_config(tmp_path / name)


def test_keys_of_a_stage_can_be_set() -> None:
    config = load_config("tiny-cpu", {"stages.0.steps": 5, "stages.1.losses.identity": 0.0, "adapter.rank": 3})
    assert (config.stages[0].steps, config.stages[1].losses.identity, config.adapter.rank) == (5, 0.0, 3)
    for key in ("stages.2.steps", "stages.-1.steps", "stages.x.steps", "stages.0", "precision.x"):
        with pytest.raises(SettingsError, match="cannot be set"):
            load_config("tiny-cpu", {key: 5})


def test_stages_follow_each_other() -> None:
    config = parse(LEAST, "test")
    assert [config.stage_at(step) for step in range(5)] == [(0, 0, 3)] * 3 + [(1, 3, 5)] * 2


@pytest.mark.parametrize("pair", ("stages.0.lr={mixer: 1", "adapter.name='x", "adapter.name"))
def test_what_set_cannot_read_is_named(capsys: pytest.CaptureFixture[str], pair: str) -> None:
    assert main(["train", "tiny-cpu", "--print", "--set", pair]) == 1
    told = capsys.readouterr().err
    assert f"--set {pair}" in told and "Remedy" in told
