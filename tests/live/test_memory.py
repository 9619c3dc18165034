"""A random FFRNet in a real WebUI: who moves it, and that nothing of it gathers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.live.conftest import PLAIN


@pytest.fixture()
def structure(webui):
    """Switches the probe's FFRNet on (strength) and off (0)."""

    def switch(strength: float) -> None:
        assert webui.request("/probe", {"watch": False, "fail_at": None, "structure": strength})[0] == 200

    yield switch
    switch(0.0)


def test_ffrnet_in_the_hosts_memory_management(webui, structure) -> None:
    before, hooks = webui.pictures(), webui.seen()["hooks"]
    structure(1.0)
    pictures = [webui.pictures() for _ in range(5)]
    seen = webui.seen()
    assert abs(pictures[0] - before).mean() > 1 and all(np.array_equal(pictures[0], one) for one in pictures)
    assert seen["hooks"] == hooks and seen["running"] == 0
    hires = webui.pictures(**PLAIN["hires"])
    assert np.array_equal(webui.pictures(**PLAIN["hires"]), hires)
    if webui.forge:
        assert seen["memories"] == [[1, 0, 0]] * 20 and seen["memory"] == [1, 0, 0]
        assert webui.seen()["memory"] == [1, 0, 0]
    structure(0.0)
    assert np.array_equal(webui.pictures(), before)
    seen = webui.seen()
    assert seen["kept"] == 0 and seen["memory"] in (None, [0, 0, 0])


def test_ffrnet_leaves_after_the_pass_where_the_user_wants_it(webui, structure) -> None:
    structure(1.0)
    stays = webui.pictures()
    webui.options(facesnap_offload=True)
    try:
        assert np.array_equal(webui.pictures(), stays)
        seen = webui.seen()
        assert seen["kept"] == 0 and seen["memory"] in (None, [0, 0, 0])
    finally:
        webui.options(facesnap_offload=False)


def test_ffrnet_and_a_refiner(webui, structure, checkpoints) -> None:
    refined = {"refiner_checkpoint": checkpoints.another(alike=True).name, "refiner_switch_at": 0.5}
    bare = webui.pictures(**refined)
    structure(1.0)
    assert abs(webui.pictures(**refined) - bare).mean() > 1
    seen = webui.seen()
    assert seen["running"] == 0 and (seen["memory"] is None or seen["memory"][1:] == [0, 0])
