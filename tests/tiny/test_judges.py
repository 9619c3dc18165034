"""The judges of landmarks and attributes: they learn from renders, and know what a prompt names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facesnap.errors import CheckpointError, SettingsError
from facesnap.evaluation import attribute_judge, landmark_judge
from facesnap.evaluation.attribute_judge import AttributeJudge
from facesnap.evaluation.landmark_judge import LandmarkJudge
from facesnap.faces.analyser import FaceAnalyser
from facesnap.landmarks.scheme import MIRROR, OUTER_EYE_CORNERS
from facesnap.tiny import stages
from facesnap.tiny.attributes import AttributeLoss
from facesnap.tiny.crops import degraded
from facesnap.tiny.data import Portraits
from facesnap.tiny.landmarks import LandmarkLoss, jittered
from facesnap.tiny.loop import Budget, Draws, Loop
from facesnap.world import Look, caption
from tests.tiny.conftest import work


@pytest.fixture
def train(state: Path) -> Portraits:
    return Portraits.load(state / "data" / "train")


def test_both_judges_run_as_stages_and_measure_held_out_people(state: Path, face_pack: Path) -> None:
    job = work(state, analyser=FaceAnalyser(face_pack))
    points = stages.run("landmarks", job)["measured"]
    assert set(points) == {"true_boxes", "detected_boxes"} and points["true_boxes"]["pictures"] == 4
    assert {"all", "pictures", "yaw 0-12", "yaw 12-25", "yaw over 25"} == set(points["true_boxes"])
    shares = stages.run("attributes", job)["measured"]["accuracy"]
    assert set(shares) == set(attribute_judge.VALUES) and all(0 <= share <= 1 for share in shares.values())

    held_out = Portraits.load(state / "data" / "held_out")
    file = state / "landmarks" / "landmarks.safetensors"
    judge = LandmarkJudge.load(file)
    assert not any(p.requires_grad for p in judge.parameters()) and not judge.training
    found = judge.points(held_out.images, held_out.boxes)
    error = float(landmark_judge.nme(found, held_out.points).mean())
    assert found.shape == (4, 72, 2) and np.isclose(error, points["true_boxes"]["all"], atol=1e-5)
    chosen = AttributeJudge.load(state / "attributes" / "attributes.safetensors").values(held_out.images)
    assert all(set(chosen[name]) <= set(values) for name, values in attribute_judge.VALUES.items())
    for stage, kind in (("landmarks", LandmarkJudge), ("attributes", AttributeJudge)):
        size = sum(p.numel() for p in kind().parameters())
        assert size <= 1_500_000, f"{stage} has {size} parameters"
    with pytest.raises(CheckpointError, match="facesnap tiny attributes"):
        AttributeJudge.load(file)


@pytest.mark.parametrize("stage", ["landmarks", "attributes"])
def test_judges_refuse_held_out_people_as_training_data(stage: str, state: Path, tmp_path: Path) -> None:
    for split in ("train", "held_out"):
        shutil.copytree(state / "data" / "held_out", tmp_path / "data" / split)
    with pytest.raises(SettingsError, match="held_out"):
        stages.run(stage, work(tmp_path))


def test_the_landmark_judge_learns_a_handful_of_faces(train: Portraits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = LandmarkJudge()
    loop = Loop(tmp_path, "landmarks", judge, Budget(steps=60, batch=6, rate=3e-3))

    def error() -> float:
        return float(landmark_judge.nme(loop.averaged.points(train.images, train.boxes), train.points).mean())

    before = error()
    loop.run(LandmarkLoss(judge, train, 6))  # type: ignore[arg-type]
    assert error() < 0.2 < before, (before, error())


def test_the_attribute_judge_learns_a_handful_of_looks(train: Portraits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = AttributeJudge()
    loop = Loop(tmp_path, "attributes", judge, Budget(steps=25, batch=6, rate=3e-3))
    loop.run(AttributeLoss(judge, train, 6))  # type: ignore[arg-type]
    wanted = [record["attributes"] for record in train.records]
    right = attribute_judge.obedience(loop.averaged.values(train.images), wanted)
    assert np.nanmean(np.stack(list(right.values()))) > 0.9


def test_points_go_into_a_crop_and_back(train: Portraits) -> None:
    """A judge that always answers one place of the crop answers that place of the picture."""
    judge = LandmarkJudge()
    judge.forward = lambda crops: torch.full((len(crops), 72, 2), 0.25)  # type: ignore[method-assign]
    found = judge.points(train.images, train.boxes)
    box = train.boxes.astype(np.float64)
    half = landmark_judge.MARGIN * (box[:, 2:] - box[:, :2]).max(1) / 2
    wanted = (box[:, :2] + box[:, 2:]) / 2 - half[:, None] / 2
    assert np.allclose(found, wanted[:, None], atol=1e-3)


def test_a_jittered_crop_and_its_targets_show_the_same_places(train: Portraits) -> None:
    """Bright dots at the true points lie at the targets of the crop, mirrored ones too."""
    points = train.points.astype(np.float64)
    dots = np.zeros((*train.images.shape[:3], 3), np.uint8)
    rows = np.arange(len(train))
    chosen = points[rows, 30]  # the nose's tip is its own mirror image
    grid = np.arange(dots.shape[1]) + 0.5
    near = np.exp(-((grid[None, :, None] - chosen[:, 1, None, None]) ** 2) / 4)
    near = near * np.exp(-((grid[None, None, :] - chosen[:, 0, None, None]) ** 2) / 4)
    dots[:] = (255 * near[..., None]).astype(np.uint8)
    affine, mirrored = jittered(train.boxes.astype(np.float64), Draws(0, "test", 3))
    assert mirrored.any() and not mirrored.all()
    crops = landmark_judge.cut(dots, affine).mean(1).numpy()  # (N, S, S)
    middle = (np.arange(landmark_judge.SIDE) + 0.5) / landmark_judge.SIDE
    seen = np.stack([(crops.sum(1) * middle).sum(1), (crops.sum(2) * middle).sum(1)], 1) / crops.sum((1, 2))[:, None]
    there = (chosen - affine[:, :, 2])[:, None] @ np.linalg.inv(affine[:, :, :2]).transpose(0, 2, 1)
    assert np.allclose(seen, (there[:, 0] + 1) / 2, atol=0.01)
    assert MIRROR[30] == 30


def test_nme_is_the_mean_distance_over_that_of_the_outer_eye_corners() -> None:
    wanted = np.zeros((1, 72, 2))
    wanted[0, OUTER_EYE_CORNERS[1]] = [30, 40]
    assert np.isclose(landmark_judge.nme(wanted + np.array([0, 5.0]), wanted)[0], 5 / 50)
    bands = landmark_judge.by_band(np.array([0.1, 0.2, 0.4]), np.array([-3.0, 20.0, -24.0]))
    assert np.isclose(bands["yaw 12-25"]["nme72"], 0.3) and bands["yaw over 25"] == {"nme72": None, "pictures": 0}


def test_only_what_the_caption_names_is_judged() -> None:
    plain, sketch = Look(glasses="none", beard="none"), Look(style="sketch", hair="bald")
    assert attribute_judge.named(plain.attributes()) == list(attribute_judge.VALUES)
    assert set(attribute_judge.VALUES) - set(attribute_judge.named(sketch.attributes())) == set(attribute_judge.COLOURS)
    assert "brown" not in caption(replace(plain, hair="bald")) and "brown" in caption(plain)
    assert "hair_colour" not in attribute_judge.named(replace(plain, hair="bald").attributes())
    shown = {name: ["t-shirt" if name == "garment" else "blue"] * 2 for name in attribute_judge.VALUES}
    right = attribute_judge.obedience(shown, [plain.attributes(), sketch.attributes()])
    assert list(right["garment"]) == [1, 1] and right["clothing_colour"][0] == 1 and right["background"][0] == 0
    assert np.isnan(right["clothing_colour"][1])


def test_softening_keeps_the_picture_and_follows_the_draws() -> None:
    pictures = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, again, later = (degraded(pictures, Draws(0, "test", step)) for step in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, later)
    detail = (first[..., 1:] - first[..., :-1]).abs().mean((1, 2, 3)) / (
        pictures[..., 1:] - pictures[..., :-1]
    ).abs().mean((1, 2, 3))
    assert (detail < 0.6).any() and (detail > 0.8).any(), "some are softened and some are not"
    assert abs(float(first.mean() - pictures.mean())) < 0.05
