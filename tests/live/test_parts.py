"""Every part of an adapter in a real WebUI: landmarks, poses, a public file with its LoRA; and a compiled UNet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import eva

# Only files of the published widths say which image encoder they were trained with.
PUBLISHED_TOWER = {"width": 1024, "layers": 24, "ff": 2730, "patch": 14, "grid": 24, "vector": 768}


def differ(pictures: list[np.ndarray]) -> bool:
    """Whether every one of them is another picture; what is asked for twice gives the same bits."""
    return all(abs(a - b).mean() > 0.1 for n, a in enumerate(pictures) for b in pictures[:n])


def test_landmarks_act_beside_the_tokens(webui, snap) -> None:
    bare, tokens, whole = webui.pictures(), webui.pictures({**snap, "structure": 0.0}), webui.pictures(snap)
    landmarks = webui.pictures({**snap, "strength": 0.0, "structure": 0.8})
    assert differ([bare, tokens, whole, landmarks])
    assert np.array_equal(webui.pictures({**snap, "pose": {"source": "none"}}), tokens)


def test_a_pose_by_numbers(webui, snap) -> None:
    """The landmarks follow it; without landmarks it changes nothing."""
    poses = [{"source": "canvas"}, {"source": "canvas", "yaw": 40}, {"source": "canvas", "x": 0.3, "size": 0.5}]
    snap = {**snap, "speed": "exact"}
    made = [webui.pictures({**snap, "pose": pose}, width=128, height=128) for pose in poses]
    assert differ(made)
    flat = [webui.pictures({**snap, "structure": 0.0, "pose": pose}) for pose in poses]
    assert all(np.array_equal(flat[0], one) for one in flat)


def test_an_ffrnet_that_is_a_lora_on_the_unet(webui, snap, checkpoints, face_pack) -> None:
    before, hooks = webui.pictures(), webui.seen()["hooks"]
    file: Path = checkpoints.write_lora_ffrnet(webui.data / "models" / "FaceSnap", face_pack)
    try:
        shared = {**snap, "adapter": file.stem}
        tokens, landmarks = ({**shared, part: 0.0} for part in ("structure", "strength"))
        made = [webui.pictures(one) for one in (shared, tokens, landmarks)]
        assert differ([before, *made])
        assert np.array_equal(webui.pictures(landmarks), made[-1])
        assert webui.seen()["hooks"] == hooks and np.array_equal(webui.pictures(), before)
    finally:
        file.unlink()


@pytest.fixture()
def faceid(webui, checkpoints, face_pack) -> Iterator[str]:
    """The name of a public adapter, with the pack that its recogniser's name stands for."""
    models = webui.data / "models"
    pack: Path = shutil.copytree(face_pack, models / "insightface" / "models" / "buffalo_l")
    file = checkpoints.write_public(models / "FaceSnap", "faceid")
    yield file.stem
    file.unlink()
    shutil.rmtree(pack)


def test_a_public_faceid_file_with_its_lora(webui, snap, faceid) -> None:
    before, own, hooks = webui.pictures(), webui.pictures(snap), webui.seen()["hooks"]
    public = {**snap, "adapter": faceid}
    made, no_lora = webui.pictures(public), webui.pictures({**public, "lora": 0.0})
    assert differ([before, own, made, no_lora])
    assert np.array_equal(webui.pictures({**public, "strength": 0.0, "lora": 0.0}), before)
    status, answer = webui.generate({**public, "pose": {"source": "canvas", "yaw": 30}})
    assert status == 200 and "brings no landmarks network" in answer["info"] and f"{faceid} [" in answer["info"]
    assert webui.seen()["hooks"] == hooks
    assert np.array_equal(webui.pictures(), before) and np.array_equal(webui.pictures(snap), own)


@pytest.fixture(params=("pulid-v1", "pulid-v1.1"))
def pulid(request, webui, checkpoints, face_pack) -> Iterator[str]:
    """The name of PuLID's adapter, with the pack that its recogniser's name stands for and its image encoder."""
    if checkpoints.first.base != "sdxl":
        pytest.skip("PuLID is for SDXL")
    models = webui.data / "models"
    pack: Path = shutil.copytree(face_pack, models / "insightface" / "models" / "antelopev2")
    tower = models / "clip_vision" / "EVA02_CLIP_L_336_psz14_s6B.pt"
    tower.parent.mkdir(exist_ok=True)
    torch.save(eva.official(eva.draw(eva.tower_shapes(**PUBLISHED_TOWER), 12)), tower)
    file = checkpoints.write_public(models / "FaceSnap", request.param, small=False)
    yield file.stem
    for one in (file, tower):
        one.unlink()
    shutil.rmtree(pack)


def test_public_pulid_files(webui, snap, pulid) -> None:
    before, own, hooks = webui.pictures(), webui.pictures(snap), webui.seen()["hooks"]
    public = {**snap, "adapter": pulid}
    made, style = webui.pictures(public), webui.pictures({**public, "pulid_mode": "style"})
    assert differ([before, own, made, style])
    assert np.array_equal(webui.pictures({**public, "strength": 0.0}), before)
    status, answer = webui.generate(public)
    assert status == 200 and f"{pulid} [" in answer["info"]
    assert webui.seen()["hooks"] == hooks
    assert np.array_equal(webui.pictures(), before) and np.array_equal(webui.pictures(snap), own)


def test_a_compiled_unet_is_refused(webui, snap) -> None:
    before, made = webui.pictures(), webui.pictures(snap)
    webui.request("/probe", {"watch": False, "compiled": True})
    try:
        assert np.array_equal(webui.pictures(), before)
        status, answer = webui.generate(snap)
        assert status == 422 and "torch.compile" in answer["detail"] and "Remedy" in answer["detail"]
    finally:
        webui.request("/probe", {"watch": False, "compiled": False})
    assert np.array_equal(webui.pictures(snap), made)
