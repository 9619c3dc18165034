"""The measurement: known answers on made-up embeddings, and a real face pack on a few people."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facesnap.cli import main
from facesnap.world.measure import SETS, equal_error_rate, separation


def test_people_that_never_mix_are_told_apart_perfectly():
    rng = np.random.RandomState(0)
    centres = np.eye(16)[:6]
    who = np.repeat(np.arange(6), 5)
    found = separation(centres[who] + 0.02 * rng.normal(size=(30, 16)), who.tolist())
    assert found.eer == 0 and found.rank1 == 1 and found.same > 0.95 and abs(found.different) < 0.1
    assert found.d_prime > 10


def test_noise_tells_nobody_apart():
    rng = np.random.RandomState(1)
    found = separation(rng.normal(size=(300, 64)), np.repeat(np.arange(60), 5).tolist())
    assert found.eer == pytest.approx(0.5, abs=0.06) and found.rank1 < 0.1 and abs(found.d_prime) < 0.25


def test_equal_error_rate_of_two_normal_distributions():
    """Two unit normals d' apart cross at d'/2: EER = Phi(-d'/2), here Phi(-1) = 0.1587."""
    rng = np.random.RandomState(2)
    assert equal_error_rate(rng.normal(2, 1, 20000), rng.normal(0, 1, 20000)) == pytest.approx(0.1587, abs=0.01)


def test_a_real_face_pack_finds_and_tells_apart_held_out_people(portraits, face_pack, capsys):
    command = ["world", "--measure", "--people", "3", "--pictures", "2", "--pack", str(face_pack)]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == set(SETS)
    plain = report["photos without glasses"]
    assert plain["found"] == 1 and plain["pictures"] == 6 and plain["same"] > plain["different"] + 0.15
    assert report["as sampled"]["found"] >= 5 / 6
