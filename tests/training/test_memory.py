"""The plan's arithmetic: exact where it can be, and the ready-made configurations leave room on their cards."""

from __future__ import annotations

import pytest

from facesnap.errors import SettingsError
from facesnap.training.config import load_config
from facesnap.training.memory import networks, plan

CARDS = [("sd15-12GB", "sd15", 12, 4), ("sd15-24GB", "sd15", 24, 8), ("sdxl-24GB", "sdxl", 24, 4)]


@pytest.mark.parametrize(("name", "base", "card", "room"), CARDS)
def test_ready_made_ones_leave_room_for_activations(name: str, base: str, card: float, room: float) -> None:
    found = plan(load_config(name), base)
    assert found.total / 2**30 < card - room, found.lines(card)
    assert f"{card:g} GiB: " in found.lines(card)[-1] and "left" in found.lines(card)[-1]


def test_the_sum_written_out() -> None:
    config = load_config("sd15-24GB")
    parts = {name: sum(p.numel() for p in net.parameters()) for name, net in networks(config, "sd15").items()}
    assert parts["projections"] == 2 * 768 * 2 * (5 * 320 + 5 * 640 + 6 * 1280) + 16  # k and v of two groups; gates
    assert 0.36e9 < parts["ffrnet"] < 0.363e9  # as public ControlNets have
    found, total = plan(config, "sd15"), sum(parts.values())
    assert (found.weights, found.gradients, found.moments, found.averages) == (
        4 * total,
        4 * total,
        8 * total,
        4 * total,
    )
    without = plan(load_config("sd15-24GB", {"optimiser.ema": 0}), "sd15")
    assert found.total - without.total == 4 * total


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(SettingsError, match="fresh adapters"):
        plan(load_config("tiny-cpu", {"adapter.start": "x.safetensors"}), "sd15")
