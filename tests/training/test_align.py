"""Sampling in training: L_align is nothing where the adapter leaves the prompt alone, and less after training against
it; the gradient goes through the steps that are asked for; only faces that are there are judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facesnap.errors import SettingsError
from facesnap.faces.align import aligned_crop, similarity, template
from facesnap.models.drawn import draw
from facesnap.training import losses
from facesnap.training.align import FeatureReader, ddim_step, layout_loss, semantic_loss, timesteps
from facesnap.training.config import AlignmentConfig, load_config
from facesnap.training.data import collate
from facesnap.training.losses import warp
from facesnap.training.sampled_faces import SampledFaces
from facesnap.training.trainer import Trainer
from facesnap.training.wiring import Inputs, Output

RATES = {"mixer": 1e-3, "projections": 1e-3}


def _trainer(changes: dict[str, Any], steps: int = 2, layout: float = 1.0) -> Trainer:
    align = {"steps": 2, "layout": layout}
    stages = [{"name": "align", "steps": steps, "warmup": 1, "lr": RATES, "align": align}]
    return Trainer(load_config("tiny-cpu", changes | {"stages": stages, "adapter.ffrnet": "none"}))


def _terms(trainer: Trainer) -> dict[str, torch.Tensor]:
    batch = collate([trainer.samples[(0, slot)] for slot in range(2)])
    inputs, *_ = trainer.objective.inputs(batch)
    with trainer.module.wiring:
        return trainer.objective.align(trainer.module, trainer.module, inputs, batch, trainer.config.stages[0].align)


def test_the_terms_written_out() -> None:
    g = torch.Generator().manual_seed(0)
    a, b, k = torch.randn(2, 9, 8, generator=g), torch.randn(2, 9, 8, generator=g), torch.randn(2, 5, 8, generator=g)
    found = semantic_loss(a, b, k, heads=2)
    for i in range(2):
        parts = []
        for h in (slice(0, 4), slice(4, 8)):
            means = [torch.softmax(k[i, :, h] @ q[i, :, h].T / 2, dim=1) @ q[i, :, h] for q in (a, b)]
            parts.append((means[0] - means[1]).square())
        assert found[i] == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)
    torch.testing.assert_close(layout_loss(a, b), (a - b).square().mean((1, 2)))
    assert timesteps(4, 1000) == [999, 749, 499, 249]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_sampling_is_diffusers_ddim(kind: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, prediction_type=kind,
        timestep_spacing="trailing", set_alpha_to_one=True,
    )  # fmt: skip
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == timesteps(4, 1000)
    x, prediction = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    wanted = scheduler.step(prediction, 749, x)
    x_next, clean = ddim_step(kind, prediction, x, scheduler.alphas_cumprod[749], scheduler.alphas_cumprod[499])
    torch.testing.assert_close(x_next, wanted.prev_sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clean, wanted.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_a_fresh_adapter_is_aligned_and_a_drawn_one_is_not(changes) -> None:
    trainer = _trainer(changes)
    assert float(_terms(trainer)["align"]) == 0.0
    draw(trainer.module.projections, 3)
    trainer.module.requires_grad_(True)
    found = _terms(trainer)
    values = {name: value.detach().item() for name, value in found.items()}
    assert values["align.semantic"] > 1e-4 and values["align.layout"] > 1e-4
    assert values["align"] == pytest.approx(0.6 * values["align.semantic"] + values["align.layout"])
    found["align"].backward()
    assert all(p.grad is None for p in trainer.host.unet.parameters())
    assert float(trainer.module.mixer.stage1.norm.weight.grad.abs().max()) > 0
    for site in trainer.module.wiring.topology.sites:
        assert not site.to_q._forward_hooks and not site.module.to_k._forward_hooks


@pytest.mark.parametrize("through", [1, 2])
def test_recomputing_blocks_changes_no_gradient(changes, through: int) -> None:
    gradients = []
    for saving in (False, True):
        trainer = _trainer(changes | {"save_activations": saving})
        draw(trainer.module.projections, 3)
        trainer.module.requires_grad_(True)
        batch = collate([trainer.samples[(0, slot)] for slot in range(2)])
        inputs, *_ = trainer.objective.inputs(batch)
        with trainer.module.wiring:
            own, wanted = trainer.module, trainer.config.stages[0].align
            assert wanted is not None
            wanted = wanted.model_copy(update={"through": through})
            trainer.objective.align(own, own, inputs, batch, wanted)["align"].backward()
        gradients.append({n: p.grad for n, p in trainer.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-7)


def test_training_against_it_lowers_it(changes) -> None:
    trainer = _trainer(changes, steps=6, layout=300.0)  # far above the diffusion loss, which wants the opposite
    draw(trainer.module.projections, 3, gain=0.3)
    before = float(_terms(trainer)["align"].detach())
    trainer.fit()
    print("EXP", before, float(_terms(trainer)["align"].detach()))
    assert float(_terms(trainer)["align"].detach()) < 0.9 * before


@pytest.mark.parametrize("through", [1, 3])
def test_the_gradient_is_that_of_the_last_steps(changes, through: int) -> None:
    """Against differences: the weights of the steps before are held, those of the last steps moved."""
    trainer = _trainer(changes)
    draw(trainer.module.projections, 3, gain=0.3)  # near to linear
    module, alignment = trainer.module, trainer.objective.alignment
    inputs, *_ = trainer.objective.inputs(collate([trainer.samples[(0, slot)] for slot in range(2)]))
    weight = next(p for n, p in module.named_parameters() if n.startswith("projections"))
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(inputs.latents.shape, generator=torch.Generator().manual_seed(1))
    start, moved = weight.detach().clone(), {"by": 0.0, "calls": 0}

    def predict(one: Inputs) -> Output:
        moved["calls"] += 1
        if not weight.requires_grad:
            weight.copy_(start + (moved["by"] * way if moved["calls"] > 3 - through else 0.0))
        return module(one)

    wanted = AlignmentConfig(semantic=0, layout=0, steps=3, through=through)

    def end(by: float) -> torch.Tensor:
        moved.update(by=by, calls=0)
        return alignment(predict, module.bare, inputs, noise, wanted)["clean"].square().mean()

    with module.wiring:
        module.requires_grad_(False)
        near, far = (float(end(step) - end(-step)) / (2 * step) for step in (0.005, 0.01))
        difference = (4 * near - far) / 3  # Richardson: float32 allows no smaller steps
        weight.copy_(start).requires_grad_(True)
        end(0.0).backward()
    assert weight.grad is not None
    assert float((weight.grad * way).sum()) == pytest.approx(difference, rel=0.05)
    assert abs(difference) > 1e-4


def test_the_finder_finds_faces_and_says_where_none_is(world, astronaut) -> None:
    pictures = torch.zeros(2, 3, *astronaut.shape[:2])
    pictures[1] = torch.from_numpy(astronaut.copy()).permute(2, 0, 1) / 255
    found, boxes, matrices = SampledFaces(str(world.analyser.pack.folder))(pictures)
    assert found.tolist() == [False, True] and not boxes[0].any() and not matrices[0].any()
    face = world.analyser.face(astronaut)
    height, width = astronaut.shape[:2]
    np.testing.assert_allclose(boxes[1] * torch.tensor([width, height] * 2), face.box, atol=0.5)
    np.testing.assert_allclose(matrices[1], similarity(face.kps, template(112)), atol=1e-3)
    crop = warp(pictures[1:], matrices[1])[0].permute(1, 2, 0).numpy()
    assert np.abs(255 * crop - aligned_crop(astronaut, face.kps)).mean() < 2


@pytest.fixture
def judging(prepared_f4, world, tmp_path: Path) -> Callable[..., Trainer]:
    """A trainer with a judge of sampled faces; keywords change the alignment."""

    def make(**align: Any) -> Trainer:
        wanted = {"semantic": 0, "layout": 0, "identity": 1.0, "steps": 2, "through": 2, "prompts": None}
        pack = {"pack": str(world.analyser.pack.folder)}
        stages = [{"name": "sampled", "steps": 2, "lr": RATES, "align": wanted | pack | align}]
        changes = {
            "base.model": str(prepared_f4.model), "data.folder": str(prepared_f4.data), "adapter.ffrnet": "none",
            "output": str(tmp_path / "run"), "recogniser": str(prepared_f4.judge), "optimiser.batch": 4,
        }  # fmt: skip
        return Trainer(load_config("tiny-cpu", changes | {"stages": stages}))

    return make


def _sampled(trainer: Trainer, conditioned: list[bool], clean: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The terms of a batch; `clean` takes the place of the latents that are sampled."""
    batch = collate([trainer.samples[(0, slot)] for slot in range(len(conditioned))])
    batch["conditioned"] = torch.tensor(conditioned)
    inputs, *_ = trainer.objective.inputs(batch)
    if clean is not None:
        trainer.objective.alignment = lambda module, bare, inputs, noise, wanted: {"clean": clean[: len(noise)]}
    with trainer.module.wiring:
        return trainer.objective.align(trainer.module, trainer.module, inputs, batch, trainer.config.stages[0].align)


def test_only_faces_that_are_there_of_people_not_dropped_are_judged(judging, monkeypatch) -> None:
    """Each is compared with the mean of the person's photos."""
    trainer = judging()
    shards, objective = trainer.shards, trainer.objective
    samples = [trainer.samples[(0, slot)] for slot in range(4)]
    photos = [sample["crop"].permute(2, 0, 1).float() / 255 for sample in samples]
    # The untrained VAE paints no faces, so the pictures take the decoder's place.
    pictures = torch.stack([photos[2], torch.zeros_like(photos[0]), photos[1], photos[3]])
    monkeypatch.setattr(objective, "decode", lambda latents: pictures[int(latents[0, 0, 0, 0])][None])
    seen: dict[str, Any] = {}

    def distance(clean, boxes, matrices, wanted, decode, embed):
        seen.update(boxes=boxes, matrices=matrices, wanted=wanted)
        return torch.full((len(clean),), 0.5)

    monkeypatch.setattr(losses, "identity_loss", distance)
    found = _sampled(trainer, [False, True, True, True], torch.arange(4.0).view(4, 1, 1, 1))
    # The conditioned ones first: samples 1, 2, 3, 0. Sample 2 got the blank picture, and 0's identity was dropped.
    assert len(seen["wanted"]) == 2 and seen["boxes"].any(1).all() and seen["matrices"].flatten(1).any(1).all()
    cosine = torch.nn.functional.cosine_similarity
    for vector, place in zip(seen["wanted"], (1, 3), strict=True):
        of_person = shards.people[shards.rows[samples[place]["target"]]["person"]]
        crops = torch.stack([shards.tensor(row, "crop") for row in of_person])  # (K, 112, 112, 3)
        own = torch.nn.functional.normalize(objective.judge(crops.permute(0, 3, 1, 2).float() / 255), dim=-1)
        assert len(own) == 2 and cosine(vector, own.mean(0), dim=0) > 0.9999 > cosine(vector, own[0], dim=0)
    assert float(found["align.judged"]) == 0.5 and float(found["align.identity"]) == pytest.approx(0.25)
    assert float(found["align"]) == pytest.approx(0.25)


def test_pictures_without_a_face_train_nothing_and_break_nothing(judging) -> None:
    trainer = judging(samples=3)
    found = _sampled(trainer, [True] * 4)
    assert float(found["align.judged"].detach()) == 0.0 == float(found["align"].detach())
    trainer.fit()  # two steps, and the loss stays finite
    lines = (trainer.config.output / "log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["align.identity"] for line in lines] == [0.0, 0.0]


def test_the_sampled_face_is_drawn_to_its_person(judging, monkeypatch) -> None:
    """Where the face is known, steps along the gradient bring it nearer under the judge."""
    trainer = judging(samples=2)
    draw(trainer.module.projections, 3)
    whole = torch.ones(2, dtype=torch.bool), torch.tensor([[0.2, 0.2, 0.8, 0.8]] * 2)
    matrix = torch.tensor([[[2.0, 0, -8], [0, 2.0, -8]]] * 2)
    monkeypatch.setattr(trainer.objective, "finders", {trainer.config.stages[0].align.pack: lambda _: (*whole, matrix)})
    module = trainer.module.requires_grad_(True)
    optimiser, values = torch.optim.Adam(module.projections.parameters(), lr=3e-3), []
    for _ in range(5):
        found = _sampled(trainer, [True] * 4)
        optimiser.zero_grad()
        found["align"].backward()
        optimiser.step()
        values.append(float(found["align.identity"].detach()))
    print("EXP", values)
    assert values[-1] < values[0] - 1e-3, values


def test_what_does_not_go_together_is_refused(changes) -> None:
    def refused(match: str, **align: Any) -> None:
        stages = [{"name": "a", "steps": 1, "lr": RATES, "align": align}]
        values = changes | {"stages": stages, "adapter.ffrnet": "none", "recogniser": align.pop("recogniser", "x")}
        with pytest.raises(SettingsError, match=match):
            load_config("tiny-cpu", values)

    refused("recogniser", identity=1.0, recogniser=None)
    refused("align.pack", identity=1.0)
    refused("through 5 of 4 steps", through=5)
    refused("prompts", prompts=[])
    assert AlignmentConfig().identity == 0.0 and AlignmentConfig(prompts=None).prompts is None


def test_the_reader_lets_go(changes) -> None:
    trainer = _trainer(changes)
    reader = FeatureReader(trainer.module.wiring.topology)
    with pytest.raises(ZeroDivisionError), reader.reading():
        raise ZeroDivisionError
    assert all(not site.to_q._forward_hooks for site in reader.topology.sites)
