"""Generations in a real WebUI through its API: with people, without, all passes, all ways to end."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.live.conftest import PLAIN
from tests.live.webui import to_text

HIRES = PLAIN["hires"]


def test_a_person_changes_the_picture_and_nothing_stays(webui, snap) -> None:
    before = webui.pictures()
    hooks = webui.seen()["hooks"]
    made = webui.pictures(snap)
    assert abs(made - before).mean() > 2
    assert webui.seen() | {"calls": []} == webui.seen() | {"hooks": hooks, "running": 0, "calls": []}
    assert np.array_equal(webui.pictures(), before)
    assert np.array_equal(webui.pictures(snap), made)


@pytest.mark.parametrize("name", PLAIN)
def test_off_is_the_extension_being_absent(webui, snap, plain_pictures, name: str) -> None:
    never = {"start": 1.0, "end": 1.0, "structure_start": 1.0, "structure_end": 1.0}
    weightless = {"strength": 0.0, "structure": 0.0}
    for off in (None, {**snap, "enabled": False}, {**snap, **weightless}, {**snap, **never}):
        assert np.array_equal(webui.pictures(off, **PLAIN[name]), plain_pictures[name])
    assert not np.array_equal(webui.pictures(snap, **PLAIN[name]), plain_pictures[name])


def test_hires_passes(webui, snap) -> None:
    bare = webui.pictures(**HIRES)
    both, first, second = (webui.pictures({**snap, "hires": which}, **HIRES) for which in ("both", "first", "second"))
    pictures = (bare, both, first, second)
    assert all(not np.array_equal(a, b) for n, a in enumerate(pictures) for b in pictures[:n])
    webui.watch()
    webui.pictures({**snap, "hires": "second"}, **HIRES)
    calls = webui.seen()["calls"]
    assert [bool(call["rows"]) for call in calls] == [call["size"] == [16, 16] for call in calls]
    assert all(call["rows"] == call["truth"] for call in calls if call["rows"])


def test_img2img_and_inpaint(webui, snap, astronaut) -> None:
    picture = to_text(astronaut[::4, ::4])
    common = {"init_images": [picture], "denoising_strength": 0.8, "width": 128, "height": 128}
    bare, made = (webui.pictures(s, "img2img", **common) for s in (None, snap))
    assert abs(made - bare).mean() > 2
    mask = np.zeros((128, 128, 3), np.uint8)
    mask[32:64, 64:96] = 255
    masked = {**common, "mask": to_text(mask), "inpainting_fill": 1, "inpaint_full_res_padding": 0, "mask_blur": 0}
    bare, made = (webui.pictures(s, "img2img", **masked, inpaint_full_res=False)[0] for s in (None, snap))
    assert abs(made - bare)[36:60, 68:92].mean() > 1
    webui.watch()
    region = {**snap, "region": {"x": 0.5, "y": 0.25, "w": 0.25, "h": 0.25}}
    webui.pictures(region, "img2img", **masked, inpaint_full_res=True)
    tiles = [tile for call in webui.seen()["calls"] for tile in call["tiles"]]
    frame, top, left = tiles[0]
    assert all(tile == tiles[0] for tile in tiles)
    assert abs(top / frame[0] - 0.25) < 0.05 and abs(left / frame[1] - 0.5) < 0.05  # where the mask is


def test_inpainting_checkpoint(webui, snap, checkpoints, astronaut) -> None:
    webui.use(checkpoints.inpainting().name)
    try:
        bare, made = webui.pictures(), webui.pictures(snap)
        assert abs(made - bare).mean() > 1
    finally:
        webui.use(checkpoints.first.name)


def test_batches_and_window(webui, snap) -> None:
    batch = webui.pictures(snap, batch_size=2, n_iter=2)[-4:]
    for i in range(4):
        assert abs(batch[i] - webui.pictures(snap, seed=1 + i)[0]).max() <= 3
    snap = {**snap, "structure": 0.0}  # it has a window of its own
    bare, whole, half = webui.pictures(), webui.pictures(snap), webui.pictures({**snap, "end": 0.5})
    assert abs(half - bare).mean() > 1 and not np.array_equal(half, whole)
    assert np.array_equal(webui.pictures({**snap, "start": 0.8, "end": 0.9}), bare)  # between two of four steps


def test_an_exception_in_the_sampler(webui, snap) -> None:
    before, hooks = webui.pictures(), webui.seen()["hooks"]
    for sampler in ("Euler", "UniPC"):
        webui.watch(fail_at=2)
        status, answer = webui.generate(snap, sampler_name=sampler)
        assert status == 500 and "planted" in str(answer)
        webui.watch(on=False)
        seen = webui.seen()
        assert seen["hooks"] == hooks and seen["running"] == 0
        assert np.array_equal(webui.pictures(), before)


@pytest.mark.parametrize("how", ("interrupt", "skip"))
def test_interrupt(webui, snap, how: str) -> None:
    before, hooks = webui.pictures(), webui.seen()["hooks"]
    webui.watch()
    answers: list = []
    thread = threading.Thread(target=lambda: answers.append(webui.generate(snap, steps=60)))
    thread.start()
    webui.wait_for_the_sampler(thread.is_alive)
    webui.request(f"/sdapi/v1/{how}", {})
    thread.join()
    assert answers[0][0] == 200
    webui.watch(on=False)
    seen = webui.seen()
    assert seen["hooks"] == hooks and seen["running"] == 0
    assert np.array_equal(webui.pictures(), before)


@pytest.mark.parametrize("alike", (True, False), ids=("same layout", "other layout"))
def test_model_switch(webui, snap, checkpoints, alike: bool) -> None:
    other = checkpoints.another(alike=alike)
    before, made = webui.pictures(), webui.pictures(snap)
    webui.use(other.name)
    try:
        elsewhere = webui.pictures()
        status, answer = webui.generate(snap)
        assert (status == 200) == alike, answer
        # Other widths of the same base, or another base, which no adapter here is made for
        refusals = {422: ("the adapter has", "choose a base model"), 503: ("no adapter for", "choose another base")}
        if not alike:
            assert all(words in answer["detail"] for words in refusals[status]), answer
            skipped = webui.pictures({**snap, "on_error": "skip"})
            assert np.array_equal(skipped, elsewhere)
    finally:
        webui.use(checkpoints.first.name)
    assert np.array_equal(webui.pictures(), before) and np.array_equal(webui.pictures(snap), made)
    # switched by the request itself, and back
    status, _ = webui.generate(snap, override_settings={"sd_model_checkpoint": other.name})
    assert status == 200 if alike else status in refusals
    webui.use(checkpoints.first.name)
    assert np.array_equal(webui.pictures(snap), made)
    assert webui.seen()["running"] == 0


@pytest.mark.parametrize("alike", (True, False), ids=("same layout", "other layout"))
def test_refiner(webui, snap, checkpoints, alike: bool) -> None:
    other = checkpoints.another(alike=alike)
    refined = {"refiner_checkpoint": other.name, "refiner_switch_at": 0.5}
    hooks = webui.seen()["hooks"]
    if not alike and webui.generate(None, **refined)[0] != 200:
        pytest.skip("this WebUI itself refuses a refiner of another layout")
    bare = webui.pictures(**refined)
    webui.watch()
    status, answer = webui.generate(snap, **refined)
    assert status == 200
    calls = webui.seen()["calls"]
    assert len(calls) == 4
    assert [bool(call["rows"]) for call in calls] == ([True] * 4 if alike else [True, True, False, False])
    assert all(call["rows"] == call["truth"] for call in calls if call["rows"])
    assert ("after the switch of models" in answer["info"]) is not alike
    webui.watch(on=False)
    assert np.array_equal(webui.pictures(**refined), bare)
    webui.use(checkpoints.first.name)
    assert webui.seen()["hooks"] == hooks


def test_two_clients_at_once(webui, photo, astronaut) -> None:
    mirrored = to_text(np.ascontiguousarray(astronaut[:, ::-1]))
    wishes = [{"references": [photo], "strength": 1.0}, {"references": [mirrored], "strength": 1.5, "end": 0.6}, None]
    alone = [webui.pictures(wish, seed=n) for n, wish in enumerate(wishes)]
    together: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: webui.pictures(wishes[n % 3], seed=n % 3)}))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(together[n], alone[n % 3]) for n in range(6))


@pytest.mark.timeout(3600)  # on a busy machine
def test_a_hundred_generations_leave_nothing(webui, snap, astronaut) -> None:
    """People and settings in turn: neither hooks nor tensors pile up, and the last plain picture is the first."""
    other = to_text(np.ascontiguousarray(astronaut[:, ::-1]))
    half = {"x": 0.0, "y": 0.0, "w": 0.5, "h": 1.0}
    wishes = [
        snap, {**snap, "references": [other], "end": 0.5}, {**snap, "strength": 0.3, "region": half},
        {"people": [snap, {**snap, "references": [other], "region": half}]}, {**snap, "enabled": False},
    ]  # fmt: skip
    before, hooks = webui.pictures(), webui.seen()["hooks"]

    def run(rounds: int) -> tuple[int, int]:
        for n in range(rounds * len(wishes)):
            webui.pictures(wishes[n % len(wishes)], steps=1, seed=n)
        webui.pictures(steps=1)
        alive = webui.request("/probe/alive")[1]
        return alive["bytes"], alive["resident"] or 0

    (first, resident), (last, resident_last) = run(4), run(16)
    assert abs(last - first) < 1 << 20
    assert resident_last - resident < 64  # MiB: what the allocator keeps, not one picture's share a generation
    assert webui.seen()["hooks"] == hooks and webui.seen()["running"] == 0
    assert np.array_equal(webui.pictures(), before)


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    (
        ({"strenght": 1}, 422, "strenght"),
        ({"strength": 99}, 422, "strength"),
        ({"references": None}, 422, "photo"),
        ({"references": ["AAAA"]}, 422, "reference 1"),
        ({"adapter": "nowhere"}, 422, "nowhere"),
    ),
    ids=str,
)
def test_refusals(webui, snap, wrong: dict, status: int, words: str) -> None:
    code, answer = webui.generate({**snap, **wrong})
    assert code == status and words in answer["detail"] and "Remedy" in answer["detail"]


def test_no_face(webui, snap) -> None:
    grey = to_text(np.full((256, 256, 3), 128, np.uint8))
    code, answer = webui.generate({**snap, "references": [grey]})
    assert code == 422 and "face" in answer["detail"]
    status, answer = webui.generate({**snap, "references": [grey], "on_error": "skip"})
    assert status == 200 and "FaceSnap skipped" in answer["info"]
