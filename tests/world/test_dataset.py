"""Shards: what is in them, that they resume, and that workers do not change a byte."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesnap.cli import main
from facesnap.cli import world as command
from facesnap.errors import SettingsError
from facesnap.world import SPLITS, Dataset, Look, SyntheticPerson, caption, dataset

pytestmark = pytest.mark.usefixtures("portraits")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PEOPLE_PER_SHARD", 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("pictures")
    return folder, Dataset(7, 2, 2, size=48).write(folder)


def read(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {m.name: stream.read() for m in tar if (stream := tar.extractfile(m))}


def test_a_shard_holds_pictures_with_their_truth(written, portraits):
    folder, shards = written
    assert [s.name for s in shards] == ["people-0000007-0000008.tar"]
    files = read(shards[0])
    assert len(files) == 2 * 2 * 4
    person = SyntheticPerson.sample(8)
    look = Look.sample(1, person)
    picture = portraits.render(person, look, 48)
    stored = np.asarray(Image.open(io.BytesIO(files["0000008_001.png"])))
    np.testing.assert_array_equal(stored, picture.image)
    regions = np.asarray(Image.open(io.BytesIO(files["0000008_001.regions.png"])))
    np.testing.assert_array_equal(regions, picture.truth.regions)
    record = json.loads(files["0000008_001.json"])
    assert record["person"] == 8 and record["split"] == "train" and record["attributes"] == look.attributes()
    assert record["caption"] == files["0000008_001.txt"].decode() == caption(look)
    np.testing.assert_allclose(record["points"], picture.truth.points, atol=1e-3)
    assert record["identity"]["eye_colour"] == person.eye_colour
    assert record["view"]["yaw"] == look.view.yaw and len(record["seen"]) == 72
    manifest = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    assert manifest["people"] == 2 and manifest["regions"][1] == "skin"


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    wanted = Dataset(7, 3, 1, size=32)
    real, done = dataset.write_shard, []

    def dies_at_the_second(job):
        if done:
            job[0].with_name(f".{job[0].name}.partial").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        done.append(job[0])
        return real(job)

    monkeypatch.setattr(dataset, "write_shard", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        wanted.write(tmp_path)
    monkeypatch.setattr(dataset, "write_shard", real)
    first = done[0].stat().st_mtime_ns
    finished = []
    shards = wanted.write(tmp_path, progress=lambda shards, count: finished.append(count) or shards)
    assert finished == [2] and done[0].stat().st_mtime_ns == first and len(shards) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(s.name for s in shards), "world.json"]
    assert [len(read(s)) for s in shards] == [4, 4, 4]


@pytest.mark.usefixtures("small_shards")
def test_workers_write_the_same_bytes(written, tmp_path):
    _, (whole,) = written
    shards = Dataset(7, 2, 2, size=48).write(tmp_path, workers=2)
    apart = {name: content for shard in shards for name, content in read(shard).items()}
    assert apart == read(whole)


def test_another_dataset_is_not_mixed_in(written):
    folder, shards = written
    before = shards[0].read_bytes()
    with pytest.raises(SettingsError, match="another dataset"):
        Dataset(7, 3, 2, size=48).write(folder)
    assert shards[0].read_bytes() == before


@pytest.mark.parametrize(
    "options", [(5, 0, 1, 64), (5, 1, 0, 64), (5, 1, 1, 16), (SPLITS["train"][-1], 2, 1, 64), (-1, 1, 1, 64)]
)
def test_impossible_datasets_are_refused(options):
    with pytest.raises(SettingsError):
        Dataset(*options)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be written to"):
        Dataset(7, 1, 1, size=32).write(tmp_path / "file" / "below")


def test_the_command_writes_shards_and_a_sheet(tmp_path, capsys):
    sheet = tmp_path / "new" / "sheet.png"
    options = ["--people", "2", "--pictures", "1", "--size", "48", "--seed", "1000003"]
    assert main(["world", "--out", str(tmp_path / "out"), *options, "--sheet", str(sheet)]) == 0
    assert "2 pictures of 2 people in 1 shards" in capsys.readouterr().out
    assert Image.open(sheet).size == (96, 192)
    record = json.loads(read(next((tmp_path / "out").glob("*.tar")))["1000003_000.json"])
    assert record["split"] == "held_out"


def test_the_command_says_what_it_wants(capsys):
    assert main(["world"]) == 1 and "--out, --sheet or --measure" in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(SettingsError, match="no split"):
        command.run(parser.parse_args(["--sheet", "x.png", "--seed", "-3"]))
    with pytest.raises(SettingsError, match="Pictures of 1000 pixels"):
        command.run(parser.parse_args(["--sheet", "x.png", "--size", "1000"]))
