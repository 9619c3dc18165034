"""`facesnap landmarks` and `facesnap bench landmarks` on real pictures."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from facesnap.bench import landmarks as bench
from facesnap.bench import orl as orl_bench
from facesnap.cli import landmarks as command
from facesnap.errors import FaceSnapError
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import SIGMA, Detection
from tests.landmarks.faces import coefficients, project


@pytest.fixture(scope="module")
def photo(astronaut, tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


@pytest.fixture
def call(photo, face_pack, tmp_path, capsys):
    """Run the command with --json; returns its report and the picture written."""

    def run(*options: str) -> tuple[dict, np.ndarray]:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        out = tmp_path / "map.png"
        fixed = ["--reference", str(photo), "--pack", str(face_pack), "--out", str(out), "--json"]
        assert command.run(parser.parse_args([*fixed, *options])) == 0
        return json.loads(capsys.readouterr().out), np.array(Image.open(out))

    return run


def test_map_of_the_reference_itself(call, tmp_path):
    report, picture = call("--size", "512x512", "--five", str(tmp_path / "five.png"))
    assert picture.shape == (512, 512, 3) and np.array(Image.open(tmp_path / "five.png")).any()
    points = np.array(report["points"])
    assert points.shape == (72, 2) and report["reference"]["confident"]
    assert report["reference"]["pictures"][0]["landmarks"] == "68"
    assert np.hypot(*(points[30] * 512 - (225, 130))) < 12  # the astronaut's nose
    assert picture[tuple((points[30] * 512).astype(int)[::-1])].tolist() == [0, 255, 0]


def test_sliders_and_driver(call, photo):
    still, _ = call("--size", "300x400", "--yaw", "0")
    turned, picture = call("--size", "300x400", "--yaw", "35", "--expression", "smile:0.8+wink_left")
    assert picture.shape == (400, 300, 3)

    def nose_beside_the_middle(report: dict) -> float:
        return report["points"][30][0] - (report["box"][0] + report["box"][2]) / 2

    assert abs(nose_beside_the_middle(still)) < 0.03 and nose_beside_the_middle(turned) > 0.15
    driven, _ = call("--size", "512x512", "--driver", str(photo))
    itself, _ = call("--size", "512x512")
    np.testing.assert_allclose(driven["points"], itself["points"], atol=1e-3)
    assert driven["driver"]["pictures"][0]["photo"] == str(photo)


def test_contact_sheet(call):
    report, picture = call("--sheet")
    assert "points" not in report and picture.shape[0] > 800 and picture.shape[1] > 1900
    with pytest.raises(FaceSnapError, match="--sheet"):
        call("--sheet", "--yaw", "3")


@pytest.mark.parametrize("options", [("--yaw", "120"), ("--expression", "grin"), ("--expression-gain", "3")])
def test_wrong_values_are_named(call, options):
    with pytest.raises(FaceSnapError):
        call(*options)


@pytest.mark.parametrize("option", [("--size", "512"), ("--size", "0x4"), ("--position", "0.5"), ("--framing", "x")])
def test_wrong_usage_exits_with_2(call, option):
    with pytest.raises(SystemExit) as caught:
        call(*option)
    assert caught.value.code == 2


def test_bench_reports_every_number():
    result = bench.run(trials=4)
    assert result["orl"] is None
    for name in ("fit_ms", "recombine_ms", "fit_and_recombine_ms", "render_ms", "render_five_ms"):
        assert result[name] > 0
    assert set(result["synthetic"]["noise"]) == {"0.01", "0.02", "0.03"}
    json.dumps(result)


def test_orl_bench_finds_identity_where_there_is_any():
    """On people whose shapes differ by construction, recovered shapes rank first and copied ones do not."""
    basis, rng, people = Basis.load(), np.random.default_rng(0), []
    for seed in range(6):
        a, _ = coefficients(basis, seed, 1.0)
        person = []
        for index in range(orl_bench.PICTURES):
            b = coefficients(basis, 100 * seed + index, 0.3)[1]
            points = project(basis, a, b, tuple(rng.uniform(-20, 20, 3)))
            points += 120 * 0.01 * rng.normal(size=points.shape)
            person.append(Detection(points, "3d68", SIGMA["3d68"], (640, 480), "made"))
        people.append(person)
    result = orl_bench.run(basis, people)
    rank = result["rank_1"]
    assert rank["held_out_5_pictures"] == 1 and rank["recombined_5_refs"] > 0.8 and rank["copied"] < 0.2
    errors = result["held_out_percent"]
    assert errors["same_5_refs"] < errors["same_1_ref"] < errors["mean_face"] < errors["another_person"]
