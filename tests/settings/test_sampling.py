"""Seeds and counts: the same ranges in every door, refused before anything is loaded or made."""

from __future__ import annotations

from pathlib import Path

import pytest

from facesnap.cli import main
from facesnap.errors import SettingsError
from facesnap.hosts.diffusers import Sampling
from facesnap.settings.sampling import LAST_SEED, counted, first_seed
from facesnap.training.prepare import PrepareSettings

REFUSED = {
    "--batch 0": "a whole number from 1 to 64",
    "--batch -1": "a whole number from 1 to 64",
    "--batch 65": "a whole number from 1 to 64",
    "--count 0": "a whole number from 1",
    "--count -3": "a whole number from 1",
    "--seed -2": "a whole number from -1 to 4294967295",
    "--seed 4294967296": "a whole number from -1 to 4294967295",
    "--seed 4294967294 --count 3": "--seed up to 4294967293",
    "--steps 0": "1 to 1000",
    "--cfg nan": "0 to 50",
    "--size 100x512": "multiples of 8",
}


@pytest.mark.parametrize("given", REFUSED)
def test_the_command_line_refuses_before_it_loads_anything(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["generate", "--base", "absent", "--adapter", "absent", "--reference", "absent.png", "--prompt", "x"]
    assert main([*command, "--out", str(out), *given.split()]) == 1
    said = capsys.readouterr().err
    assert REFUSED[given] in said and given.split()[0].strip("-") in said.lower() and "Remedy" in said
    assert not out.exists()


@pytest.mark.parametrize("below", ("", "new/folder"))
def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_loaded(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    out = str(tmp_path / "notes.txt" / below)
    who = ["--base", "absent", "--adapter", "absent", "--reference", "absent.png", "--prompt", "x"]
    for command in (["generate", *who, "--out", out], ["prepare", "absent", out, "--base", "absent"]):
        assert main(command) == 1
        assert "notes.txt is a file" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_python_refuses_the_same() -> None:
    for wrong in ({"count": 0}, {"count": 65}, {"seed": -1}, {"seed": 2**32}, {"seed": LAST_SEED, "count": 2}):
        with pytest.raises(SettingsError):
            Sampling("x", **wrong)  # type: ignore[arg-type]
    assert Sampling("x", seed=LAST_SEED).seed == LAST_SEED and Sampling("x", seed=LAST_SEED - 1, count=2).count == 2
    for seed in (-1, 2**32):
        with pytest.raises(SettingsError, match="seed"):
            PrepareSettings(seed=seed)
    for pair in ((True, 1), (1, 2.0), (10**9, 1)):
        with pytest.raises(SettingsError):
            counted(*pair)  # type: ignore[arg-type]


def test_a_random_seed_leaves_room_for_all_pictures() -> None:
    drawn = {first_seed(-1) for _ in range(20)}
    assert len(drawn) > 10 and all(0 <= seed <= LAST_SEED for seed in drawn)
    assert first_seed(-1, count=LAST_SEED + 1) == 0 and first_seed(7, 3) == 7
