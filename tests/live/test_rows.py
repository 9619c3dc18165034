"""The rows of every UNet call in a real WebUI: what FaceSnap takes them for, beside what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

LONG = "a person " + "with a very long description of nothing in particular, " * 12  # over 77 tokens
# name -> payload, options, rows per UNet call of a step in AUTOMATIC1111, in Forge
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[int], list[int]]] = {
    "normal": ({}, {}, [2], [2]),
    "cfg 1": ({"cfg_scale": 1}, {}, [2], [1]),
    "batch 2": ({"batch_size": 2}, {}, [4], [4]),
    "AND x3": ({"prompt": "a AND b AND c"}, {}, [4], [4]),
    "AND x2, batch 2": ({"prompt": "a AND b", "batch_size": 2}, {}, [6], [6]),
    "AND x2, batch 2, split": (
        {"prompt": "a AND b", "batch_size": 2}, {"batch_cond_uncond": False}, [2, 2, 2], [6],
    ),
    "split": ({}, {"batch_cond_uncond": False}, [1, 1], [2]),
    "unequal": ({"prompt": LONG}, {}, [1, 1], [2]),
    "unequal, padded": ({"prompt": LONG}, {"pad_cond_uncond": True}, [2], [2]),
    "unequal, padded v0": ({"prompt": LONG}, {"pad_cond_uncond_v0": True}, [2], [2]),
    "AND + unequal": ({"prompt": f"{LONG} AND b"}, {}, [2, 1], [3]),
    "skip early cond": ({}, {"skip_early_cond": 1.0}, [1], [1]),
    "NGMS": ({"s_min_uncond": 100.0}, {"s_min_uncond_all": True}, [1], [1]),
}  # fmt: skip
DEFAULTS = {
    "batch_cond_uncond": True, "pad_cond_uncond": False, "pad_cond_uncond_v0": False, "skip_early_cond": 0.0,
    "s_min_uncond_all": False, "s_min_uncond": 0.0,
}  # fmt: skip


@pytest.fixture()
def restored(webui):
    """Sets options over the defaults, for the test's time; forks lack some."""
    known = webui.request("/sdapi/v1/options")[1]
    defaults = {name: value for name, value in DEFAULTS.items() if name in known}

    def choose(**options) -> None:
        if not set(options) <= set(known):
            pytest.skip(f"this WebUI has no option {', '.join(set(options) - set(known))}")
        webui.options(**defaults | options)

    yield choose
    webui.options(**defaults)


def batches(webui, calls: list[dict[str, Any]], step: list[int], early: bool = False) -> list[int]:
    """Rows of every call of four steps like `step`; the first step of Forge-Classic never has uncond rows, that of
    Neo always."""
    conds = [sum(cond for _, cond in calls[0]["truth"])]
    first = [len(calls[0]["truth"])] if early else step
    return (conds if webui.classic else first) + step * 3


@pytest.mark.parametrize("case", CASES)
def test_rows(webui, snap, restored, case: str) -> None:
    payload, options, in_a1111, in_forge = CASES[case]
    restored(**options)
    webui.watch()
    webui.pictures(snap, **payload)
    calls = webui.seen()["calls"]
    expected = in_forge if webui.forge else in_a1111
    assert [call["batch"] for call in calls] == batches(webui, calls, expected, case == "skip early cond")
    for call in calls:
        assert [row[1] for row in call["rows"]] == [truth[1] for truth in call["truth"]]
        assert [row[0] for row in call["rows"]] == [truth[0] for truth in call["truth"]]
    progress = [call["progress"] for call in calls[:: len(expected)]]
    assert progress == pytest.approx([0, 0.25, 0.5, 0.75]) and {call["steps"] for call in calls} == {4}


@pytest.mark.parametrize("sampler", ("Euler a", "DPM++ 2M", "DPM++ SDE", "DDIM", "UniPC", "LCM", "Heun"))
def test_samplers(webui, snap, sampler: str) -> None:
    webui.watch()
    bare = webui.pictures(sampler_name=sampler)
    webui.watch()
    made = webui.pictures(snap, sampler_name=sampler)
    calls = webui.seen()["calls"]
    assert calls and all(call["rows"] == call["truth"] for call in calls)
    progress = [call["progress"] for call in calls]
    assert progress[0] == 0 and progress == sorted(progress) and progress[-1] < 1
    assert abs(made - bare).mean() > 1


@pytest.mark.parametrize("method", ("MultiDiffusion", "Mixture of Diffusers"))
@pytest.mark.parametrize("batch", (1, 3))
def test_tiles_of_forges_own_extension(webui, snap, method: str, batch: int) -> None:
    """Every tile is known by its place, and together they cover the picture."""
    if "multidiffusion integrated" not in {name.lower() for name in webui.request("/sdapi/v1/scripts")[1]["txt2img"]}:
        pytest.skip("an extension of Forge and reForge")
    webui.watch()
    tiled = {"MultiDiffusion Integrated": {"args": [True, method, 64, 64, 32, batch]}}
    region = {**snap, "region": {"x": 0.5, "y": 0.0, "w": 0.5, "h": 1.0}}
    webui.pictures(region, width=128, height=96, steps=2, more=tiled)
    calls = webui.seen()["calls"]
    covered = np.zeros((12, 16), bool)
    for call in calls:
        assert [row[1] for row in call["rows"]] == [truth[1] for truth in call["truth"]]
        assert len(call["tiles"]) == call["batch"] and call["size"] == [8, 8]
        for frame, top, left in call["tiles"]:
            assert frame == [12, 16]
            covered[top : top + 8, left : left + 8] = True
    assert covered.all()
