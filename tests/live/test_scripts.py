"""The hosts' own ways to make pictures in a real WebUI: scripts, attention optimisations."""

from __future__ import annotations

import numpy as np
import pytest

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
    assert [call["batch"] for call in calls] == [8] * 4
    for call in calls:
        assert sorted(row[0] for row in call["rows"] if row[1]) == [0, 1, 2, 3]
        assert [row[1] for row in call["rows"]] == [truth[1] for truth in call["truth"]]
    last = to_array(answer["images"][4])  # after the grid
    assert abs(last - webui.pictures(snap, prompt="a person, red hat, in snow")[0]).max() <= 3


def test_xyz_plot(webui, snap) -> None:
    """Each cell is the picture made alone."""
    labels = webui.seen()["axes"]
    args = [labels.index("CFG Scale"), "4, 7", [], labels.index("Seed"), "1, 2", [], 0, "", [],
            False, True, False, False, False, False, False, 0, False]  # fmt: skip
    status, answer = webui.generate(snap, script_name="x/y/z plot", script_args=args)
    assert status == 200, answer
    cells = [to_array(one) for one in answer["images"][1:5]]  # after the grid, row by row
    wanted = [webui.pictures(snap, seed=seed, cfg_scale=cfg)[0] for seed in (1, 2) for cfg in (4, 7)]
    assert all(np.array_equal(a, b) for a, b in zip(cells, wanted, strict=True))
