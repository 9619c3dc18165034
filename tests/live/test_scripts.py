"""The hosts' own ways to make pictures in a real WebUI: scripts, attention optimisations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.live.test_rows import batches
from tests.live.webui import to_array

OPTIMISATIONS = (
    "Doggettx", "sdp - scaled dot product", "sdp-no-mem - scaled dot product without memory efficient attention",
    "sub-quadratic", "V1 - original v1", "InvokeAI", "None",
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIMISATIONS)
def test_attention_optimisations(webui, snap, name: str) -> None:
    """All of them call the attention's layers as modules, so that the person is the same."""
    if webui.forge:
        pytest.skip("Forge has one attention, chosen at its start")
    usual = webui.pictures(snap)
    webui.options(cross_attention_optimization=name)
    try:
        webui.watch()
        bare, made = webui.pictures(), webui.pictures(snap)
        assert all(call["rows"] == call["truth"] for call in webui.seen()["calls"] if call["rows"])
        assert abs(made - usual).mean() < 1 < abs(made - bare).mean()
    finally:
        webui.options(cross_attention_optimization="Automatic")
    assert np.array_equal(webui.pictures(snap), usual)


def test_prompt_matrix(webui, snap) -> None:
    """Each of its pictures is the one that its prompt makes alone."""
    script = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    webui.watch()
    status, answer = webui.generate(snap, prompt="a person|red hat|in snow", batch_size=4, **script)
    assert status == 200, answer
    calls = webui.seen()["calls"]
    assert [call["batch"] for call in calls] == batches(webui, calls, [8])
    for call in calls:
        assert sorted(row[0] for row in call["rows"] if row[1]) == [0, 1, 2, 3]
        assert [row[1] for row in call["rows"]] == [truth[1] for truth in call["truth"]]
    last = to_array(answer["images"][4])  # after the grid
    assert abs(last - webui.pictures(snap, prompt="a person, red hat, in snow")[0]).max() <= 3


def plot(webui, snap, x: tuple[str, str | list[str]], y: tuple[str, str]) -> list[np.ndarray]:
    """The cells of an X/Y/Z plot, row by row; an axis is (label, values), a list where they are chosen from one."""
    labels = webui.seen()["axes"]
    typed, chosen = (x[1], []) if isinstance(x[1], str) else ("", x[1])
    args = [labels.index(x[0]), typed, chosen, labels.index(y[0]), y[1], [], 0, "", [],
            False, True, False, False, False, False, False, 0, False]  # fmt: skip
    info = next(one for one in webui.request("/sdapi/v1/script-info")[1] if one["name"] == "x/y/z plot")
    args += [False] * (len(info["args"]) - len(args))  # Neo asks whether choices are typed
    status, answer = webui.generate(snap, script_name="x/y/z plot", script_args=args)
    assert status == 200, answer
    return [to_array(one) for one in answer["images"][1:5]]  # after the grid


def test_xyz_plot(webui, snap) -> None:
    """Each cell is the picture made alone."""
    cells = plot(webui, snap, ("CFG Scale", "4, 7"), ("Seed", "1, 2"))
    wanted = [webui.pictures(snap, seed=seed, cfg_scale=cfg)[0] for seed in (1, 2) for cfg in (4, 7)]
    assert all(np.array_equal(a, b) for a, b in zip(cells, wanted, strict=True))


def test_our_own_axes(webui, snap) -> None:
    cells = plot(webui, snap, ("[FaceSnap] Strength", "0.2, 1.5"), ("[FaceSnap] Yaw", "-40, 40"))
    wanted = [
        webui.pictures({**snap, "strength": strength, "pose": {"source": "reference", "yaw": yaw}})[0]
        for yaw in (-40, 40)
        for strength in (0.2, 1.5)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(cells, wanted, strict=True))
    assert all(not np.array_equal(a, b) for n, a in enumerate(cells) for b in cells[:n])
    assert np.array_equal(webui.pictures(snap), webui.pictures({**snap, "pose": {"source": "reference"}}))


def test_the_gallerys_hires_button(webui, snap) -> None:
    """Its hires pass has the people in it, where the settings say so, and begins with the picture as it is."""
    status, answer = webui.generate(snap)
    assert status == 200, answer
    fields = {
        "prompt": "a person", "negative_prompt": "bad", "n_iter": 1, "batch_size": 1, "cfg_scale": 7.0, "width": 64,
        "height": 64, "denoising_strength": 0.7, "hr_scale": 2.0, "hr_upscaler": webui.upscaler,
        "hr_second_pass_steps": 0, "hr_resize_x": 0, "hr_resize_y": 0, "hr_prompt": "", "hr_negative_prompt": "",
        "distilled_cfg_scale": 3.5, "hr_cfg": 7.0, "hr_distilled_cfg": 3.5,
        "hr_additional_modules": ["Use same choices"],
    }  # fmt: skip
    button = {
        "picture": answer["images"][0], "infotext": json.loads(answer["info"])["infotexts"][0], "fields": fields,
        "steps": 4, "sampler": "Euler", "seed": 1,
    }  # fmt: skip

    def press(wish: dict[str, Any] | None) -> np.ndarray:
        status, answer = webui.request("/probe/upscale", {**button, "snap": wish})
        assert status == 200, answer
        return to_array(answer["image"])

    bare = press(None)
    assert bare.shape == (128, 128, 3)
    webui.watch()
    made = press(snap)
    calls = webui.seen()["calls"]
    assert calls and all(call["size"] == [16, 16] and call["rows"] == call["truth"] for call in calls)
    assert abs(made - bare).mean() > 1 and np.array_equal(press({**snap, "hires": "second"}), made)
    assert np.array_equal(press({**snap, "hires": "first"}), bare)
    assert webui.seen()["running"] == 0
