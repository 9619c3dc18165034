"""Every family makes the picture that it made, through the command line, with real face models on a real photo."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.frozen import doors, filefacts, inputs
from tests.frozen.store import PICTURES, differences, load, masked

RUNS = list(load("reports"))
MOST = 2  # of 255, in every sample
LANDMARKS = [file.stem for file in sorted(PICTURES.glob("*-landmarks.png"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, face_pack: Path, components: Path) -> SimpleNamespace:
    """All pictures, and what the command line reported of each."""
    folder = tmp_path_factory.mktemp("frozen")
    inputs.build(folder / "in", face_pack, components)
    runs = inputs.runs(folder / "in", folder / "out")
    return SimpleNamespace(
        folder=folder / "out", reports={name: filefacts.report(arguments) for name, arguments in runs.items()}
    )


def _pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def _text(file: Path) -> str:
    with Image.open(file) as image:
        return str(image.text["parameters"])


def _parts(file: Path) -> tuple[list[str], dict[str, str]]:
    """Prompts and parameters in any order, in the words of today; a region mask had no hash."""
    text = masked(_text(file)).replace("mask [HASH]", "mask")
    for before, now in (("LoRA region: masked", "lora in region: true"), ("FaceSnap LoRA:", "FaceSnap lora:")):
        text = text.replace(before, now)
    return text.split("\n")[:-1], doors.parse_parameters(text)


def test_every_family_is_there() -> None:
    assert set(inputs.FAMILIES) <= set(RUNS)
    assert sorted(load("commands")["generate"]["--family"]["choices"]) == sorted(inputs.FAMILIES)


@pytest.mark.parametrize("name", RUNS)
def test_the_same_picture_is_made(made: SimpleNamespace, name: str) -> None:
    now, before = _pixels(inputs.picture(made.folder, name)), _pixels(PICTURES / f"{name}.png")
    assert now.shape == before.shape == (64, 64, 3)
    assert np.abs(now - before).max() <= MOST, np.abs(now - before).mean()


@pytest.mark.parametrize("name", RUNS)
def test_the_same_text_and_report_are_written(made: SimpleNamespace, name: str) -> None:
    now, before = (_parts(file) for file in (inputs.picture(made.folder, name), PICTURES / f"{name}.png"))
    if not name.startswith(("facesnap", "instantid")):  # no landmarks: the text said so, as if it had been asked for
        assert before[1].pop("FaceSnap structure") == "0"
    assert now == before
    found = differences(made.reports[name], load("reports")[name], near=2e-3)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", LANDMARKS)
def test_the_same_landmarks_are_drawn(made: SimpleNamespace, name: str) -> None:
    now = _pixels(made.folder / name.removesuffix("-landmarks") / "landmarks.png")
    assert np.abs(now - _pixels(PICTURES / f"{name}.png")).max() <= MOST


@pytest.mark.parametrize("name", RUNS)
def test_texts_inside_pictures_are_read_as_before(name: str) -> None:
    """By the extension, whoever wrote them."""
    found = differences(doors.read_infotext(_text(PICTURES / f"{name}.png")), load("pasted")[name])
    assert not found, "\n".join(found)


def test_pictures_tell_the_settings_apart() -> None:
    """A picture that does not depend on its adapter would freeze nothing."""
    pictures = {name: _pixels(PICTURES / f"{name}.png") for name in RUNS}
    near = [(a, b) for a in RUNS for b in RUNS if a < b and np.abs(pictures[a] - pictures[b]).mean() < 5]
    assert not near
