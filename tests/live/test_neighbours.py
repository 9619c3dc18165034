"""Beside other extensions in a real WebUI: FaceSnap acts as without them, they act as without FaceSnap.

FACESNAP_WEBUI_NEIGHBOURS names a folder with their repositories under the repositories' names; what is not there is
skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.live.checkpoints import Checkpoints
from tests.live.conftest import FOLDER
from tests.live.webui import WebUI, to_text

NEIGHBOURS = os.environ.get("FACESNAP_WEBUI_NEIGHBOURS", "")
IN_A1111 = (
    "adetailer", "sd-webui-controlnet", "sd-webui-regional-prompter", "multidiffusion-upscaler-for-automatic1111"
)  # fmt: skip
IN_FORGE = ("adetailer", "ADetailer-Neo", "sd-forge-couple")
RIGHT = [[0.6, 0.2, 0.9, 0.7]]
WHOLE = {"x": 0.0, "y": 0.0, "w": 1.0, "h": 1.0}


@pytest.fixture(scope="module")
def crowd(
    checkpoints: Checkpoints, extension: Path, probe: Path, face_pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebUI]:
    """A WebUI with all neighbours, an untrained ControlNet and a detector that finds what the tests say."""
    data = tmp_path_factory.mktemp("crowd")
    checkpoints.write_adapters(data / "models" / "FaceSnap", face_pack)
    checkpoints.write_controlnet(data / "models" / "ControlNet" / "untrained.safetensors")
    shutil.copytree(face_pack, data / "models" / "FaceSnap" / "test_pack")
    (data / "models" / "adetailer").mkdir(parents=True)
    wanted = IN_FORGE if (Path(FOLDER) / "modules_forge").is_dir() else IN_A1111
    there = {name: Path(NEIGHBOURS) / name for name in wanted if NEIGHBOURS and (Path(NEIGHBOURS) / name).is_dir()}
    detect(data, RIGHT)
    webui = WebUI(
        Path(FOLDER), data, checkpoints.folder, {"facesnap": extension, "facesnap_probe": probe, **there},
        python_path=str(Path(__file__).with_name("detectors")),
    )  # fmt: skip
    webui.use(checkpoints.first.name)
    webui.pictures(steps=1)
    yield webui
    webui.stop()


@pytest.fixture()
def script(crowd: WebUI):
    """Skip the test where a script is not there."""
    there = {name.lower() for name in crowd.request("/sdapi/v1/scripts")[1]["txt2img"]}

    def script(name: str) -> None:
        if name not in there:
            pytest.skip(f"no {name} in this WebUI")

    return script


@pytest.fixture(autouse=True)
def nothing_stays(crowd: WebUI) -> Iterator[None]:
    crowd.watch(on=False)
    before, hooks = crowd.pictures(steps=1), crowd.seen()["hooks"]
    yield
    crowd.watch(on=False)
    assert np.array_equal(crowd.pictures(steps=1), before)
    assert crowd.seen()["hooks"] == hooks and crowd.seen()["running"] == 0


def detect(data: Path, boxes: list[list[float]]) -> None:
    (data / "models" / "adetailer" / "stub.pt").write_text(str(boxes), encoding="utf-8")


def adetailer(**more: Any) -> dict[str, Any]:
    one = {
        "ad_model": "stub.pt", "ad_denoising_strength": 0.8, "ad_inpaint_only_masked_padding": 0, "ad_mask_blur": 0,
        "ad_use_inpaint_width_height": True, "ad_inpaint_width": 64, "ad_inpaint_height": 64,  # Neo's makes them larger
    }  # fmt: skip
    return {"ADetailer": {"args": [True, False, one | more]}}


def same_elsewhere(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pictures differ only right of what a face pass paints."""
    return np.array_equal(a[:, :, : int(a.shape[2] * 0.5)], b[:, :, : int(b.shape[2] * 0.5)])


def test_adetailer_keeps_the_identity(crowd, script, snap) -> None:
    script("adetailer")
    detect(crowd.data, RIGHT)
    snap = {**snap, "region": WHOLE}  # by its landmarks the person would be in the middle
    crowd.watch()
    kept = crowd.pictures(snap, more=adetailer())
    calls = crowd.seen()["calls"]
    inner = [call for call in calls if call["inner"]]
    assert inner and len(calls) > len(inner)
    assert all(call["rows"] == call["truth"] and call["people"] == 1 for call in calls)
    (height, width), top, left = inner[0]["tiles"][0]
    assert left <= 0.6 * width and left + 8 >= 0.9 * width and top <= 0.2 * height and top + 8 >= 0.7 * height
    crowd.options(facesnap_adetailer=False)
    try:
        crowd.watch()
        lost = crowd.pictures(snap, more=adetailer())
        assert not any(call["rows"] for call in crowd.seen()["calls"] if call["inner"])
    finally:
        crowd.options(facesnap_adetailer=True)
    assert same_elsewhere(kept, lost) and abs(kept - lost).mean() > 0.5
    assert np.array_equal(crowd.pictures(snap, more=adetailer()), kept)
    assert crowd.seen()["ad_script_names"].split(",").count("facesnap_script") == 1


def test_adetailer_gives_each_face_its_person(crowd, script, snap, astronaut) -> None:
    script("adetailer")
    other = to_text(np.ascontiguousarray(astronaut[:, ::-1]))
    halves = ({"x": 0.0, "y": 0.0, "w": 0.5, "h": 1.0}, {"x": 0.5, "y": 0.0, "w": 0.5, "h": 1.0})
    people = [{"references": ref, "strength": 1.0, "region": half}
              for ref, half in zip((snap["references"], [other]), halves, strict=True)]  # fmt: skip
    for boxes, wanted in (([[0.1, 0.2, 0.4, 0.7]], [1]), ([[0.1, 0.2, 0.4, 0.7], [0.6, 0.2, 0.9, 0.7]], [1, 1])):
        detect(crowd.data, boxes)
        crowd.watch()
        crowd.pictures({"people": people}, more=adetailer())
        calls = crowd.seen()["calls"]
        assert {call["people"] for call in calls if not call["inner"]} == {2}
        assert {call["people"] for call in calls if call["inner"]} == set(wanted)
    detect(crowd.data, RIGHT)  # a face that is nobody's
    crowd.watch()
    crowd.pictures({"people": people[:1]}, more=adetailer())
    calls = crowd.seen()["calls"]
    assert {call["people"] for call in calls if call["inner"]} == {0}
    assert {call["people"] for call in calls if not call["inner"]} == {1}


def test_a_failing_face_pass_leaves_nothing(crowd, script, snap) -> None:
    script("adetailer")
    detect(crowd.data, RIGHT)
    crowd.watch()
    crowd.pictures(snap, more=adetailer())
    seen = crowd.seen()
    first = sum(not call["inner"] for call in seen["calls"])
    crowd.watch(fail_at=first + 2)
    status, _ = crowd.generate(snap, more=adetailer())
    assert status == 200  # the hosts swallow it; `nothing_stays` looks after hooks


def test_controlnet(crowd, script, snap, astronaut) -> None:
    script("controlnet")
    crowd.watch(on=False)  # lets the probe see to the widths
    model = next(name for name in crowd.request("/controlnet/model_list")[1]["model_list"] if "untrained" in name)
    unit = {"enabled": True, "module": "none" if not crowd.forge else "None", "model": model, "weight": 1.0,
            "image": to_text(astronaut[::8, ::8])}  # fmt: skip
    control = {"ControlNet": {"args": [unit]}}
    bare, controlled, person = crowd.pictures(), crowd.pictures(more=control)[:1], crowd.pictures(snap)
    crowd.watch()
    both = crowd.pictures(snap, more=control)[:1]
    calls = crowd.seen()["calls"]
    assert len(calls) == 4 and all(call["rows"] for call in calls)
    pictures = (bare, controlled, person, both)
    assert all(abs(a - b).mean() > 1 for n, a in enumerate(pictures) for b in pictures[:n])
    off = crowd.pictures({**snap, "strength": 0.0, "structure": 0.0}, more=control)[:1]
    assert np.array_equal(off, controlled)
    assert np.array_equal(crowd.pictures(more=control)[:1], controlled)
    assert np.array_equal(crowd.pictures(snap, more=control)[:1], both)


def regional(mode: str = "Attention") -> dict[str, Any]:
    args = [True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "0.2", False, False, False, mode, [False],
            "0", "0", "0.4", None, "0", "0", False]  # fmt: skip
    return {"Regional Prompter": {"args": args}}


def test_regional_prompter(crowd, script, snap) -> None:
    """With the same words in both of its regions it changes next to nothing, and nothing of FaceSnap."""
    script("regional prompter")
    for wish in (None, snap):
        plain = crowd.pictures(wish)
        divided = crowd.pictures(wish, prompt="a person BREAK a person", more=regional())
        assert abs(plain - divided).mean() < 1
    other = crowd.pictures(prompt="a red hat BREAK a dog", more=regional())
    assert abs(other - crowd.pictures()).mean() > 1
    assert abs(other - crowd.pictures(snap, prompt="a red hat BREAK a dog", more=regional())).mean() > 1


def test_forge_couple(crowd, script, snap) -> None:
    """It repeats the cond rows inside each cross-attention, once for every line of the prompt."""
    script("forge couple")
    couple = {"Forge Couple": {"args": [True, False, "Basic", "", "Horizontal", "None", 0.5, [], "off", False, False]}}
    nobody = {**snap, "strength": 0.0, "structure": 0.0}
    words = {"prompt": "a person in a red hat\na person in a blue coat", "more": couple}
    for size in (1, 2):
        bare = crowd.pictures(**words, batch_size=size)
        assert abs(bare - crowd.pictures(prompt=words["prompt"], batch_size=size)).mean() > 1
        crowd.watch()
        made = crowd.pictures(snap, **words, batch_size=size)
        calls = crowd.seen()["calls"]
        assert calls and all(call["rows"] == call["truth"] and call["people"] for call in calls)
        assert abs(made - bare).mean() > 1
        assert np.array_equal(crowd.pictures(nobody, **words, batch_size=size), bare)


@pytest.mark.parametrize("method", ("MultiDiffusion", "Mixture of Diffusers"))
@pytest.mark.parametrize("words", ("a hat", "a hat, " * 40), ids=("equal", "unequal"))
def test_regions_of_tiled_diffusion(crowd, script, snap, method: str, words: str) -> None:
    script("tiled diffusion")
    box = [True, 0.5, 0.0, 0.5, 0.5, words, "", "Background", 0.2, 1]
    none = [False, 0.4, 0.4, 0.2, 0.2, "", "", "Background", 0.2, -1]
    args = [True, method, False, True, 1024, 1024, 8, 8, 4, 2, "None", 2.0, False, 10, 1, 1, 64, False, True, True,
            False, *box, *(none * 7)]  # fmt: skip
    wish = {**snap, "region": {"x": 0.5, "y": 0.0, "w": 0.5, "h": 1.0}}
    tiled = {"Tiled Diffusion": {"args": args}}
    crowd.watch()
    made = crowd.pictures(wish, width=128, height=96, steps=2, more=tiled)
    calls = crowd.seen()["calls"]
    sizes = {tuple(call["size"]) for call in calls}
    assert sizes == {(8, 8), (6, 8)}
    for call in calls:
        assert [row[1] for row in call["rows"]] == [truth[1] for truth in call["truth"]]
        if call["size"] == [6, 8]:
            assert all(tile == [[12, 16], 0, 8] for tile in call["tiles"])
    assert abs(made - crowd.pictures(width=128, height=96, steps=2, more=tiled)).mean() > 0.5
