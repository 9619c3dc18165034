"""The attach benchmark's report: complete, alone on stdout, and its measures can fail."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from facesnap.attach import Attachment, RowPlan, Speed, read_topology
from facesnap.bench import attach as bench
from facesnap.bench import ffrnet
from facesnap.bench.timing import Variant, ratio, rounds
from facesnap.cli import main
from facesnap.pipeline.pipeline import FaceSnapPipeline


def test_bench_attach_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "attach", "--json", "--channels", "32", "--rounds", "2", "--latent", "8"]) == 0
    report = json.loads(capsys.readouterr().out)
    for key in ("id_tokens_ratio", "diffusers_ip_adapter_ratio", "bare_vs_bare_ratio"):
        assert set(report[key]) == {"median", "q1", "q3"} and 0 < report[key]["q1"] <= report[key]["q3"]
    assert report["max_abs_diff"] <= 1e-4 and report["effect"] > 100 * report["max_abs_diff"]
    assert report["projection_bytes_live"] == 0 < report["kv_bytes"] < report["projection_bytes"]
    assert report["bit_identical_afterwards"] is True and report["warm_ms"] > 0


def test_projection_weights_that_are_held_are_found() -> None:
    """The walk over live tensors sees weights held by the attachment or by a hook's closure."""
    unet = bench.sd15_unet(32, "cpu", torch.float32)
    adapter = bench.make_adapter(unet)
    conditioning = FaceSnapPipeline(adapter).conditioning(bench.make_identity())
    attachment = Attachment(unet, read_topology(unet), [conditioning], RowPlan.classifier_free())
    assert bench.projection_bytes(attachment, unet, adapter.projections) == 0
    held = next(adapter.projections.parameters())
    handle = unet.mid_block.register_forward_hook(lambda *_: held)
    assert bench.projection_bytes(attachment, unet, adapter.projections) == held.numel() * 4
    handle.remove()
    attachment.keep = {"deep": [adapter.projections]}
    total = sum(p.numel() * 4 for p in adapter.projections.parameters())
    assert bench.projection_bytes(attachment, unet, adapter.projections) == total


def test_rounds_time_every_variant_in_turning_order() -> None:
    order: list[str] = []
    variants = {name: Variant(lambda n=name: order.append(n)) for name in "abc"}
    seconds = rounds(variants, 4, warm_up=2)
    assert all(values.shape == (4,) and (values >= 0).all() for values in seconds.values())
    turns = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(turns) == 6 and len(set(turns)) > 2 and all(sorted(t) == list("abc") for t in turns)
    assert ratio(np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0])) == {"median": 2.0, "q1": 2.0, "q3": 2.5}


def test_bench_ffrnet_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--channels", "32", "--diff-channels", "32", "--latent", "32", "--steps", "9", "--rounds", "1"]
    assert main(["bench", "ffrnet", "--json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bare"] > 0
    for key in ("diffusers_controlnet", "exact", "balanced", "fast", "bare_vs_bare_ratio"):
        assert set(report[key]) == {"median", "q1", "q3"} and 0 < report[key]["q1"] <= report[key]["q3"]
    assert report["max_abs_diff"] <= 1e-4 and report["effect"] > 100 * report["max_abs_diff"]
    assert report["bit_identical_afterwards"] is True
    diff = report["diff"]
    for name in ("balanced", "fast", "cond_rows", "off", "balanced_from_cond_rows"):
        assert 0 < diff[name]["mean"] < diff[name]["max"]
    assert diff["fast"] != diff["balanced"] and diff["weights"] == "random"


def test_ffrnets_schedule_is_the_attachments_own() -> None:
    """30 steps, as a user runs them: the first six and the last six whole, every second one between reused."""
    assert ffrnet.count_steps(Speed.EXACT, 30) == (30, 0, 0)
    assert ffrnet.count_steps(Speed.BALANCED, 30) == (21, 9, 0) == ffrnet.count_steps(Speed.FAST, 30)
    assert ffrnet.count_steps(Speed.BALANCED, 8) == (8, 0, 0)
    assert ffrnet.count_steps(Speed.BALANCED, 30, (0.0, 0.5)) == (10, 5, 15)


@pytest.mark.parametrize("speed", Speed)
def test_ffrnets_schedule_is_what_a_sampling_does(speed: Speed) -> None:
    bench_ = ffrnet.make(32, 16, "cpu", torch.float32)
    calls: list[int] = []
    bench_.person.net.register_forward_pre_hook(lambda *_: calls.append(1))
    ffrnet.sample(bench_, [bench_.person], speed, 16, 12)
    assert len(calls) == ffrnet.count_steps(speed, 12)[0]


def test_bench_landmarks_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "landmarks", "--json", "--trials", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fit_ms"] > 0 and report["recombine_ms"] > 0 and report["orl"] is None
    assert set(report["synthetic"]["noise"]) == {"0.01", "0.02", "0.03"}
