"""A tiny model with prepared data that every test of the trainer shares."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import pytest
from PIL import Image

from facesnap.training.prepare import Preparer, PrepareSettings

if pydantic.VERSION.startswith("1."):  # a WebUI's environment: training refuses it (see test_old_pydantic.py)
    others = ("arcface", "evaluate", "losses", "old_pydantic", "prepare", "wiring")
    kept = [f"test_{name}.py" for name in others]
    collect_ignore = [file.name for file in Path(__file__).parent.glob("test_*.py") if file.name not in kept]
REHEARSAL: list[dict[str, Any]] = [
    {
        "name": "all", "steps": 24, "warmup": 3, "lr": {"mixer": 1e-3, "projections": 1e-3, "ffrnet": 1e-3},
        "losses": {"face_box": 1.0, "leak": 0.1},
    }
]  # fmt: skip


@pytest.fixture(scope="session")
def prepared(world, tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> SimpleNamespace:
    """The untrained model, and data of two people with two photos each."""
    folder = tmp_path_factory.mktemp("training")
    for person, mirrored in (("one", False), ("two", True)):
        (folder / "photos" / person).mkdir(parents=True)
        picture = astronaut[:, ::-1] if mirrored else astronaut
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / "photos" / person / "a.png")
        Image.fromarray(np.ascontiguousarray(picture[:320, 60:440])).save(folder / "photos" / person / "b.png")
    settings = PrepareSettings(size=64, variants=2, smallest_face=8, shard=3)
    vae = world.host.pipeline.vae
    Preparer(settings, world.analyser, world.encoder, vae, "sd15").run(folder / "photos", folder / "data")
    # accelerate collects garbage at the end of every stage: it need not look through all of torch each time.
    gc.collect()
    gc.freeze()
    return SimpleNamespace(folder=folder, data=folder / "data", model=world.folder / "model")


def changes_for(prepared: SimpleNamespace, output: Path) -> dict[str, Any]:
    """What makes the ready-made tiny configuration a short run on these data."""
    return {
        "base.model": str(prepared.model), "data.folder": str(prepared.data), "data.other_photo": 0.5,
        "output": str(output), "recogniser": None, "stages": REHEARSAL, "checkpoints.every": 10,
        "optimiser.batch": 2, "optimiser.ema": 0.99,
    }  # fmt: skip


@pytest.fixture
def changes(prepared, tmp_path: Path) -> dict[str, Any]:
    return changes_for(prepared, tmp_path / "run")


@pytest.fixture(scope="session")
def prepared_f4(world, tmp_path_factory: pytest.TempPathFactory, prepared) -> SimpleNamespace:
    """The same photos for an untrained base whose VAE divides sides by four, and an untrained judge."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from facesnap.models.drawn import draw
    from facesnap.tiny import autoencoder, text, unet
    from facesnap.training.tiny_recogniser import TinyRecogniser

    folder = tmp_path_factory.mktemp("f4")
    tokenizer = text.make_tokenizer(["a photo of a person, soft light"], folder / "words")
    channels, widths, heads = autoencoder.OUTER_CHANNELS, (32,) * 4, (1,) * 4  # half the tiny one's
    tiny = unet.make_unet(16).config
    shape = {"in_channels": channels, "out_channels": channels, "block_out_channels": widths}
    small = UNet2DConditionModel.from_config({**tiny, **shape, "attention_head_dim": heads})
    model = unet.Denoiser(draw(small, 3), draw(text.make_encoder(tokenizer), 4))
    vae: AutoencoderKL = draw(autoencoder.make_outer(), 5)
    unet.save_pipeline(model, vae, tokenizer, folder / "model")
    judge = TinyRecogniser()
    draw(judge, 6)
    judge.save(folder / "judge.safetensors")
    settings = PrepareSettings(size=64, variants=1, smallest_face=8, shard=4)
    Preparer(settings, world.analyser, world.encoder, vae, "sd15").run(prepared.folder / "photos", folder / "data")
    return SimpleNamespace(data=folder / "data", model=folder / "model", judge=folder / "judge.safetensors")
