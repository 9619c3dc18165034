"""Two adapters in turn in a real WebUI: the former is gone when the next is read, without Python's collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from facesnap.checkpoints import native
from tests.live.test_scripts import plot
from tests.live.webui import WebUI, to_text


@pytest.fixture()
def two(webui: WebUI) -> Iterator[tuple[str, str]]:
    """Names of two adapters; the collector is off meanwhile."""
    folder = webui.data / "models" / "FaceSnap"
    other, copy = native.load(folder / "untrained.safetensors"), folder / "second.safetensors"
    with torch.no_grad():
        for parameter in other.mixer.parameters():  # a mere copy would be the same adapter
            parameter.mul_(0.9)
    native.save(other, copy)
    assert webui.request("/probe", {"watch": False, "fail_at": None, "adapters": True})[0] == 200
    yield "untrained", "second"
    assert webui.request("/probe", {"watch": False, "fail_at": None, "adapters": False})[0] == 200
    copy.unlink()


def test_the_former_adapter_is_gone_whatever_ended_its_generation(webui, snap, two) -> None:
    first, second = ({**snap, "adapter": name} for name in two)
    faceless = {**first, "references": [to_text(np.full((200, 200, 3), 127, np.uint8))]}

    def then(wanted: int, person: dict[str, Any], **payload: Any) -> None:
        status, answer = webui.generate(person, **payload)
        assert status == wanted, answer

    def interrupt() -> None:
        request = threading.Thread(target=webui.generate, args=(first,), kwargs={"steps": 60})
        webui.watch()
        request.start()
        webui.wait_for_the_sampler(request.is_alive)
        assert webui.request("/sdapi/v1/interrupt", {})[0] == 200
        request.join()
        webui.watch(on=False)

    def fail() -> None:
        webui.watch(fail_at=2)
        then(500, first)
        webui.watch(on=False)

    ends = (
        lambda: then(200, first),
        lambda: then(200, first, enable_hr=True, hr_scale=2, denoising_strength=0.7),
        lambda: then(200, first, batch_size=2, n_iter=2),
        lambda: then(422, faceless),
        lambda: then(200, {**faceless, "on_error": "skip"}),
        fail,
        interrupt,
    )
    then(200, second)  # whichever of the two the tests before left in memory, the first is read anew now
    before = webui.seen()["alive"]
    for end in ends:
        end()
        then(200, second)
        alive = webui.seen()["alive"]
        assert alive[len(before) :] == [0] * (len(alive) - len(before)) and len(alive) >= len(before) + 2, alive
        before = alive


def test_an_axis_over_adapters(webui, snap, two) -> None:
    cells = plot(webui, snap, ("[FaceSnap] Adapter", list(two)), ("Steps", "2, 3"))
    assert len(cells) == 4
    alive = webui.seen()["alive"]
    assert len(alive) >= 2 and set(alive) == {0}
