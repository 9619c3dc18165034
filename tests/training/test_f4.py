"""A base whose VAE divides sides by four, as the tiny one's: sizes follow the latent, not a fixed eight."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.attach.control import ControlView
from facesnap.errors import CheckpointError, SettingsError
from facesnap.faces.packs import load_pack
from facesnap.files import sha256_of
from facesnap.training.arcface import TorchRecogniser
from facesnap.training.config import load_config, parse
from facesnap.training.data import collate
from facesnap.training.judges import load_judge
from facesnap.training.losses import clean_of, warp
from facesnap.training.tiny_recogniser import TinyRecogniser
from facesnap.training.trainer import Trainer
from facesnap.training.wiring import Output


@pytest.fixture
def trainer(prepared_f4, tmp_path: Path) -> Trainer:
    changes = {
        "base.model": str(prepared_f4.model), "data.folder": str(prepared_f4.data), "output": str(tmp_path / "run"),
        "recogniser": str(prepared_f4.judge), "augment.jitter": 0.0, "drops.landmarks": 0.0,
    }  # fmt: skip
    rates = {"mixer": 1e-3, "projections": 1e-3, "ffrnet": 1e-3}
    stages = [{"name": "all", "steps": 2, "lr": rates, "losses": {"identity": 0.1}}]
    return Trainer(load_config("tiny-cpu", changes | {"stages": stages}))


def test_training_and_generation_draw_the_same_picture(trainer: Trainer) -> None:
    from facesnap.landmarks.predictor import Landmarks
    from facesnap.pipeline.shape import Shape, draw

    sample = trainer.samples[(0, 0)]
    assert sample["latents"].shape == (4, 16, 16) and sample["landmarks"].shape == (3, 128, 128)
    points = trainer.shards.tensor(sample["target"], "points").numpy()
    drawn = draw(
        Shape(Landmarks(points), (64, 64), ()), ControlView((128, 128), 0, 0, 128, 128), trainer.module.ffrnet.config
    )
    assert drawn.landmarks is not None and float(drawn.landmarks.max()) == 1.0
    assert torch.equal(sample["landmarks"], drawn.landmarks[0])
    assert len(list(trainer.fit().iterdir())) > 0  # and FFRNet takes it


def test_the_sample_grid_hands_ffrnet_a_picture_of_its_size(trainer: Trainer, monkeypatch) -> None:
    from facesnap.models.fidelity import FFRNet
    from facesnap.training.grids import SampleGrid

    seen = []
    real = FFRNet.embed_hint
    monkeypatch.setattr(FFRNet, "embed_hint", lambda net, *p: seen.append(p[0].shape) or real(net, *p))
    config = trainer.config.model_copy(
        update={"samples": trainer.config.samples.model_copy(update={"people": 1, "steps": 2})}
    )
    SampleGrid(config, trainer.shards).draw(trainer.host, trainer.module.adapter(), 7)
    assert seen == [(1, 3, 128, 128)]
    assert (config.output / "samples" / "step-00000007.png").is_file()


def test_grids_during_training_change_no_bit_of_it(trainer: Trainer, tmp_path: Path) -> None:
    samples = {"every": 1, "people": 1, "steps": 2}
    values = trainer.config.model_dump() | {"samples": samples, "output": tmp_path / "grids"}
    drawn = Trainer(parse(values, "test"))
    drawn.fit()
    trainer.fit()
    for a, b in zip(trainer.module.parameters(), drawn.module.parameters(), strict=True):
        assert torch.equal(a, b)
    files = sorted(path.name for path in (tmp_path / "grids" / "samples").iterdir())
    assert files == ["step-00000001.png", "step-00000002.png"]
    with Image.open(tmp_path / "grids" / "samples" / files[0]) as sheet:
        assert np.asarray(sheet).std() > 20  # pictures, not an empty page


def _identity(trainer: Trainer, batch: dict, alpha_bar: torch.Tensor, **changes: float) -> float:
    """The mean of the batch's identity loss where the UNet predicts 0."""
    noised = batch["latents"]
    wanted = trainer.config.stages[0].losses.model_copy(update=changes)
    zeros = torch.zeros_like(noised)
    return float(trainer.objective.terms(Output(zeros), zeros, alpha_bar, noised, batch, wanted)["identity"])


def test_the_judge_sees_the_crop_of_the_whole_picture(trainer: Trainer) -> None:
    """The piece that is decoded starts at a cell of four pixels: with another factor the crop would slip off."""
    objective, vae = trainer.objective, trainer.host.pipeline.vae
    batch = collate([trainer.samples[(0, 0)]])
    batch["box"], batch["judged"] = torch.tensor([[0.3, 0.25, 0.9, 0.9]]), torch.zeros(1)  # a corner of its own
    alpha_bar = torch.full((1,), 0.9999)
    found = _identity(trainer, batch, alpha_bar) / float(alpha_bar)
    clean = clean_of(objective.kind, torch.zeros_like(batch["latents"]), batch["latents"], alpha_bar)
    with torch.no_grad():
        whole = vae.decode(clean / vae.config.scaling_factor).sample / 2 + 0.5
        own = objective.judge(batch["crop"].permute(0, 3, 1, 2).float() / 255)
        slip = torch.tensor([[0, 0, 8.0]] * 2)
        crops = [warp(whole, batch["matrix"][0] + by * slip) for by in (0, 1)]
        right, wrong = (1 - float(torch.nn.functional.cosine_similarity(objective.judge(crop), own)) for crop in crops)
    assert abs(found - right) < 0.25 * abs(wrong - right), (found, right, wrong)


def test_only_the_asked_for_samples_are_judged(trainer: Trainer) -> None:
    batch = collate([trainer.samples[(0, slot)] for slot in range(4)])
    alpha_bar = torch.tensor([0.9, 0.8, 0.3, 0.7])
    alone = []  # the loss of each sample, from batches in which it alone is judged
    for place in range(4):
        batch["judged"] = torch.tensor([0.1 if place == i else 0.9 for i in range(4)])
        alone.append(4 * 0.5 * _identity(trainer, batch, alpha_bar, identity_share=0.5))
    batch["judged"] = torch.tensor([0.1, 0.9, 0.1, 0.2])
    assert min(alone) > 0
    assert _identity(trainer, batch, alpha_bar) == pytest.approx(sum(alone) / 4, rel=1e-4)
    part = _identity(trainer, batch, alpha_bar, identity_share=0.5, identity_from=0.5)
    assert part == pytest.approx(2 * (alone[0] + alone[3]) / 4, rel=1e-4)
    assert _identity(trainer, batch, alpha_bar, identity_from=0.95) == 0.0


def test_captions_are_encoded_once_and_as_the_pipeline_does(trainer: Trainer) -> None:
    captions = ["a photo of a person", "soft light", "a photo of a person"]
    wanted = trainer.host.pipeline.encode_prompt(captions, "cpu", 1, False)[0]
    found, pooled = trainer.objective.text(captions)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert pooled is None and (found[0] - found[1]).abs().max() > 0.1
    trainer.host.pipeline.encode_prompt = None  # type: ignore[assignment]
    again, _ = trainer.objective.text(captions)
    assert torch.equal(again, found)


def test_a_judge_is_told_by_its_content(prepared_f4, face_pack: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "judge.onnx"
    renamed.write_bytes(prepared_f4.judge.read_bytes())
    crops = torch.rand(2, 3, 112, 112)
    tiny = load_judge(renamed, "other")
    torch.testing.assert_close(tiny(crops), TinyRecogniser.load(prepared_f4.judge)(2 * crops - 1))
    assert not tiny.training and not any(p.requires_grad for p in tiny.parameters())
    pack = load_pack(face_pack).recogniser
    odd = tmp_path / "recogniser.safetensors"
    odd.write_bytes(pack.read_bytes())
    assert isinstance(load_judge(odd, "other"), TorchRecogniser)


def test_judges_that_cannot_judge_are_named(prepared_f4, world, face_pack: Path, tmp_path: Path) -> None:
    for file in (prepared_f4.judge, load_pack(face_pack).recogniser):
        with pytest.raises(SettingsError, match="data were prepared with"):
            load_judge(file, sha256_of(file))
    with pytest.raises(SettingsError, match="no recogniser"):
        load_judge(tmp_path / "none.onnx", "other")
    with pytest.raises(CheckpointError, match="adapter"):  # safetensors of another network
        load_judge(world.file, "other")


def test_a_judge_of_another_size_is_refused(prepared_f4, face_pack: Path, monkeypatch) -> None:
    monkeypatch.setattr(TorchRecogniser, "load", lambda file: SimpleNamespace(side=160))
    with pytest.raises(SettingsError, match="160"):
        load_judge(load_pack(face_pack).recogniser, "other")
