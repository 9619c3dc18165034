"""The tiny base's stages on a handful of rendered people, as `facesnap tiny` runs them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facesnap.errors import CheckpointError, FaceSnapError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.landmarks.scheme import PARTS
from facesnap.models.drawn import draw
from facesnap.tiny import autoencoder, grow, recogniser, stages, text, unet, vit
from facesnap.tiny.data import Portraits
from facesnap.tiny.likeness import PLACES, TRAITS, likeness, standard
from facesnap.tiny.loop import CHECKPOINT, Budget, Draws, Loop, Losses
from facesnap.tiny.measure import identity_kept
from facesnap.training.tiny_recogniser import TinyRecogniser
from facesnap.world import World
from tests.tiny.conftest import SIZE, STEPS, work
from tests.training.test_runs import kill_when

BUDGET = Budget(steps=6, batch=4, rate=1e-3)


def test_arrays_hold_what_the_renderer_said(state: Path, portraits: World) -> None:
    from facesnap.world import Look, SyntheticPerson

    train, held_out = (Portraits.load(state / "data" / split) for split in ("train", "held_out"))
    assert len(train) == 6 and len(held_out) == 4 and set(train.people) == {0, 1, 2}
    person = SyntheticPerson.sample(1)
    picture = portraits.render(person, Look.sample(1, person), SIZE)
    assert np.array_equal(train.images[3], picture.image)
    assert np.allclose(train.points[3], picture.truth.points, atol=1e-3)
    assert list(train.labels) == [0, 0, 1, 1, 2, 2]
    assert not set(train.people) & set(held_out.people)


def test_a_stage_without_its_forerunner_says_which(tmp_path: Path, state: Path) -> None:
    with pytest.raises(SettingsError, match="facesnap tiny data"):
        stages.run("recogniser", work(tmp_path))
    shutil.copytree(state / "data", tmp_path / "data")
    with pytest.raises(SettingsError, match="facesnap tiny autoencoder"):
        stages.run("unet", work(tmp_path))


def test_held_out_people_are_refused_as_training_data(state: Path, tmp_path: Path) -> None:
    for split in ("train", "held_out"):
        shutil.copytree(state / "data" / "held_out", tmp_path / "data" / split)
    with pytest.raises(SettingsError, match="held_out"):
        stages.run("recogniser", work(tmp_path))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def loss(self, step: int, draws: Draws) -> Losses:
        x: Tensor = torch.from_numpy(draws.numpy.normal(size=(4, 3))).float()
        return {"loss": (self.layer(x) - x.sum(1, keepdim=True) + 0.1 * draws.noise(x[:, :1])).square().mean()}


def fresh(folder: Path, budget: Budget = BUDGET, **names: object) -> tuple[Line, Loop]:
    torch.manual_seed(0)
    line = Line()
    return line, Loop(folder, "line", line, budget, **names)


def weights(loop: Loop) -> dict[str, Tensor]:
    return {**loop.module.state_dict(), **{f"average {k}": v for k, v in loop.average.state_dict().items()}}


def test_an_interrupted_loop_ends_with_the_same_bits(tmp_path: Path) -> None:
    line, whole = fresh(tmp_path / "whole", replace(BUDGET, steps=40))
    assert whole.run(line.loss)
    for _ in range(100):
        line, parts = fresh(tmp_path / "parts", replace(BUDGET, steps=40))
        if parts.run(line.loss, seconds=1e-4):
            break
    assert parts.step == 40
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    assert not torch.equal(whole.module.state_dict()["layer.weight"], whole.averaged.state_dict()["layer.weight"])


def test_a_checkpoint_of_other_settings_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    line, loop = fresh(tmp_path)
    loop.run(line.loss)
    with pytest.raises(SettingsError, match="other settings"):
        fresh(tmp_path, seed=1)
    with pytest.raises(SettingsError, match="other settings"):
        fresh(tmp_path, replace(BUDGET, rate=1e-4))
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:200])
    with pytest.raises(CheckpointError, match="delete it"):
        fresh(tmp_path)


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    line, loop = fresh(tmp_path)
    before = line.layer.weight.detach().clone()
    with pytest.raises(FaceSnapError, match="line at step 0 is nan"):
        loop.run(lambda step, draws: {"loss": line.layer.weight.sum() * float("nan")})
    assert torch.equal(line.layer.weight, before)


STOPS = """
import sys, time
from dataclasses import replace
from pathlib import Path
from facesnap.tiny import loop, stages
for name, budget in stages.BUDGETS.items():
    stages.BUDGETS[name] = replace(budget, batch=4)
run, save = loop.Loop.run, loop.Loop.save
loop.Loop.run = lambda self, loss, **kw: run(self, loss, **{**kw, "save_every": 0.0})
def stops(self):
    save(self)
    if self.step == 2:  # the process waits to be killed
        Path(sys.argv[2]).touch()
        time.sleep(600)
loop.Loop.save = stops
stages.run("recogniser", stages.Workspace(Path(sys.argv[1]), steps=4, say=print))
"""


def test_kill_9_changes_no_bit(state: Path, tmp_path: Path) -> None:
    for name in ("killed", "whole"):
        shutil.copytree(state / "data", tmp_path / name / "data")
    kill_when(tmp_path / "reached", ["-c", STOPS, str(tmp_path / "killed"), str(tmp_path / "reached")])
    done = torch.load(tmp_path / "killed" / "recogniser" / CHECKPOINT, weights_only=True)["step"]
    assert done == 2
    for name in ("killed", "whole"):
        stages.run("recogniser", work(tmp_path / name, steps=4))
    files = [tmp_path / name / "recogniser" / "recogniser.safetensors" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_stages_leave_models_that_the_project_loads(state: Path, face_pack: Path) -> None:
    lines: list[str] = []
    job = work(state, analyser=FaceAnalyser(face_pack), say=lines.append)
    for stage in ("outer", "inner", "autoencoder", "recogniser", "encoder", "unet"):
        record = stages.run(stage, job)
        assert json.loads((state / stage / "measurements.json").read_text(encoding="utf-8")) == record
        assert record["training"]["done"] == STEPS
    measured = json.loads((state / "autoencoder" / "measurements.json").read_text(encoding="utf-8"))["measured"]
    assert {"cosine", "rank1", "rank1_original"} == set(measured["identity"]) and measured["psnr"] > 0

    host = DiffusersHost.load(state / "unet" / "pipeline", device="cpu")
    assert len(host.topology.sites) == 16
    assert sum(p.numel() for p in host.unet.parameters()) <= 9_000_000
    caption = Portraits.load(state / "data" / "train").captions[0]
    (one,), (two,) = (
        host.sample(Sampling(prompt, steps=2, cfg=3.0, size=(SIZE, SIZE)), []) for prompt in (caption, "")
    )
    assert one.size == (SIZE, SIZE) and not np.array_equal(np.asarray(one), np.asarray(two))

    encoder = ImageEncoder.load(state / "encoder" / "model.safetensors")
    assert encoder.config.heads == vit.HEADS and encoder.tokens == 65
    crops = np.asarray(Portraits.load(state / "data" / "held_out").crops)
    assert encoder.encode(crops)[-2].shape == (4, 65, vit.WIDTH)

    judge = TinyRecogniser.load(state / "recogniser" / "recogniser.safetensors")
    picture = torch.rand(2, 3, 112, 112, requires_grad=True)
    nn.functional.cosine_similarity(*judge(picture * 2 - 1), dim=0).backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0

    measured = json.loads((state / "encoder" / "measurements.json").read_text(encoding="utf-8"))["measured"]
    explained = measured["likeness"]
    assert set(explained) == {"places", "traits"} and max(explained.values()) < 1

    # A second call has nothing to train, and goes on from the checkpoint.
    before = (state / "encoder" / "model.safetensors").read_bytes()
    stages.run("encoder", job)
    assert (state / "encoder" / "model.safetensors").read_bytes() == before
    assert any("goes on from step 3" in line for line in lines)


def test_every_word_of_the_captions_is_one_token(tmp_path: Path) -> None:
    captions = [
        "a photo of a person with short brown hair and a full beard, wearing a blue t-shirt, light from the left",
        "a pencil sketch of a person with hair in a bun, smiling, eyes closed, turned to the right",
    ]
    tokenizer = text.make_tokenizer(captions, tmp_path)
    for caption in captions:
        found = tokenizer.tokenize(caption)
        assert len(found) == len(text.words_of(caption)), found
    other = tokenizer.tokenize("an astronaut, größer")
    assert tokenizer.unk_token not in [token for token in other if token != text.END] and len(other) > 10
    rows = text.tokenise(tokenizer, [captions[0], ""])
    assert rows.shape == (2, text.LENGTH) and rows[1, 0] == tokenizer.bos_token_id
    assert (rows[1, 1:] == tokenizer.eos_token_id).all()
    with pytest.raises(SettingsError, match="tokens"):
        text.make_tokenizer(["red " * 60], tmp_path)


def test_the_autoencoders_loss_looks_at_features(state: Path) -> None:
    train = Portraits.load(state / "data" / "train")
    points, boxes = torch.from_numpy(train.points[:1].copy()), torch.from_numpy(train.boxes[:1].copy())
    weight = autoencoder.importance(points, boxes, SIZE)
    eye = points[0, 36:44].mean(0).int()
    assert weight[0, 0, eye[1], eye[0]] > 3 and weight[0, 0, 0, 0] < 1.01
    wanted = autoencoder.pixels(train.images[:1])
    assert autoencoder.reconstruction_loss(wanted, wanted, weight) == 0
    assert np.array_equal(autoencoder.to_images(wanted), train.images[:1])
    assert autoencoder.psnr(train.images[:1], train.images[:1]) > 80
    off = np.clip(train.images[:1].astype(int) // 2 + 64, 0, 255).astype(np.uint8)
    error = (off.astype(float) - train.images[:1]) ** 2
    assert np.isclose(autoencoder.psnr(off, train.images[:1]), 10 * np.log10(255**2 / error.mean()))


def test_batches_larger_than_the_data_repeat_pictures(state: Path) -> None:
    assert sorted(set(Draws(0, "outer", 0).rows(9, 9))) == list(range(9))
    draws = Draws(0, "outer", 0).rows(3, 8)
    assert len(draws) == 8 and set(draws) <= {0, 1, 2}
    train = Portraits.load(state / "data" / "train")
    loss = autoencoder.AutoencoderLoss(autoencoder.make_outer(), train, len(train) + 2, crops=1)
    assert torch.isfinite(loss(0, Draws(0, "outer", 0))["loss"])


def test_the_inner_levels_take_the_place_of_the_outer_autoencoders_middle(state: Path) -> None:
    """Outer encoder, inner levels, outer decoder: inner ones without an error would change no picture."""
    torch.manual_seed(0)
    outer, whole = autoencoder.make_outer().eval(), autoencoder.make().eval()
    for module, seed in ((outer, 1), (whole, 2)):
        draw(module, seed)
    grow.transplant(outer, whole)
    images = Portraits.load(state / "data" / "train").images[:2]
    given, wanted = grow.features(outer, images)
    assert given.shape == wanted.shape == (2, 64, SIZE // 4, SIZE // 4)
    with torch.no_grad():
        made = wanted
        for block in whole.decoder.up_blocks[1:]:
            made = block(made)
        made = whole.decoder.conv_out(whole.decoder.conv_act(whole.decoder.conv_norm_out(made)))
        posterior = outer.encode(autoencoder.pixels(images)).latent_dist
        assert torch.allclose(made, outer.decode(posterior.mean).sample, atol=1e-4)
        # The same latent noise on both ways through the whole autoencoder.
        carried, kl = grow.carried(whole, given, Draws(0, "inner", 3))
        own = whole.encode(autoencoder.pixels(images)).latent_dist
        latent = own.mean + own.std * Draws(0, "inner", 3).noise(own.mean)
        inside = whole.decoder.up_blocks[0](
            whole.decoder.mid_block(whole.decoder.conv_in(whole.post_quant_conv(latent)))
        )
    assert torch.allclose(carried, inside, atol=1e-4) and torch.allclose(kl, own.kl())
    assert (carried - wanted).abs().mean() > 0.1

    grow.freeze_outer_encoder(whole)
    frozen = {name for name, p in whole.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("encoder.") for name in frozen)
    assert not any("downsamplers" in name for name in frozen if name.startswith("encoder.down_blocks.2"))
    assert any(p.requires_grad for p in whole.encoder.parameters())


def test_the_autoencoders_loss_looks_at_colours() -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grey = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert autoencoder.colour_loss(picture + grey, picture) < 1e-6  # lightness is the other term's
    yellow, orange = (
        torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 16, 16) for colour in ((1, 1, 0.0), (1, 0.5, 0))
    )
    # the error (0, -0.5, 0) without its mean is (1/6, -1/3, 1/6)
    assert torch.isclose(autoencoder.colour_loss(orange, yellow), torch.tensor(2 / 9))


def test_identity_kept_is_one_for_the_same_pictures_and_less_for_blurred_ones(state: Path, face_pack: Path) -> None:
    held_out, analyser = Portraits.load(state / "data" / "held_out"), FaceAnalyser(face_pack)
    same = identity_kept(analyser, held_out, np.asarray(held_out.images))
    assert np.isclose(same["cosine"], 1, atol=1e-5) and same["rank1"] == same["rank1_original"]
    coarse = np.repeat(np.repeat(held_out.images[:, ::8, ::8], 8, axis=1), 8, axis=2)
    assert identity_kept(analyser, held_out, coarse)["cosine"] < 0.9


def test_the_margin_makes_the_true_person_harder() -> None:
    cosines = torch.tensor([[0.9, 0.1], [0.2, 0.7]])
    labels = torch.tensor([0, 1])
    angles = torch.acos(torch.tensor([0.9, 0.7])) + recogniser.MARGIN
    widened = torch.tensor([[torch.cos(angles[0]), 0.1], [0.2, torch.cos(angles[1])]])
    wanted = nn.functional.cross_entropy(recogniser.SCALE * widened, labels)
    assert torch.isclose(recogniser.margin_loss(cosines, labels), wanted, atol=1e-5)
    assert recogniser.margin_loss(cosines, labels) > nn.functional.cross_entropy(recogniser.SCALE * cosines, labels)


def test_the_contrastive_loss_wants_people_together() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    axes = torch.eye(2)
    apart, mixed = axes[[0, 0, 1, 1]], axes[[0, 1, 0, 1]]
    near = torch.log(1 + 2 * torch.exp(torch.tensor(-1 / vit.TEMPERATURE)))
    assert torch.isclose(vit.contrastive_loss(apart, labels), near, atol=1e-5)
    assert vit.contrastive_loss(mixed, labels) > 5


def test_a_likeness_is_a_persons_and_says_how_people_differ() -> None:
    from facesnap.world import SyntheticPerson

    people = np.array([3, 1, 3, 2])
    found = likeness(people)
    assert found.shape == (4, PLACES + TRAITS) and np.array_equal(found[0], found[2])
    places = found[:, :PLACES].reshape(4, 72, 3)
    assert np.allclose(places.mean(1), 0, atol=1e-5) and np.allclose(np.square(places).mean((1, 2)), 1, atol=1e-5)
    person = SyntheticPerson.sample(1)
    assert np.allclose(found[1, PLACES], person.tone) and np.allclose(found[1, -1], person.masculine)
    # All noses are in front of the jaws' ends, and no person has the face of another.
    assert (places[:, PARTS["nose"], 2].min(1) < places[:, 0, 2]).all()
    assert np.abs(places[1] - places[3]).max() > 0.05
    mean, deviation = standard(found)
    assert np.ptp(deviation[:PLACES]) == 0 and np.ptp(deviation[PLACES:]) > 0 and np.allclose(mean, found.mean(0))


def test_the_likeness_that_is_right_explains_everything(state: Path) -> None:
    train, held_out = (Portraits.load(state / "data" / split) for split in ("train", "held_out"))
    mean, deviation = standard(likeness(train.people))
    right = (likeness(held_out.people) - mean) / deviation
    assert vit.explained(right, held_out, train) == {"places": 1.0, "traits": 1.0}
    average = np.broadcast_to(right.mean(0), right.shape)
    assert max(vit.explained(average, held_out, train).values()) < 1e-3


def test_errors_in_the_face_count_more() -> None:
    class Wrong(nn.Module):
        """Predicts v, and 1 too much in some cells."""

        def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
            signal = unet.make_scheduler().alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            return signal.sqrt() * noisy / (1 - signal).sqrt() + self.where  # the latents are all 0

    zeros, tokens = np.zeros((2, 16, 8, 8), np.float16), torch.zeros(2, text.LENGTH, dtype=torch.int64)
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75]]).repeat(2, 1)
    model = Wrong()
    loss = unet.DenoiserLoss(model, (zeros, zeros), tokens, tokens[0], boxes, 2)  # type: ignore[arg-type]
    face = torch.zeros(8, 8)
    face[2:6, 2:6] = 1  # 16 of 64 cells
    for where, wanted in ((0 * face, 0.0), (face, 64 / 112), (1 - face, 48 / 112), (face + 1, (4 * 64 + 48) / 112)):
        model.where = where
        found = loss(0, Draws(0, "unet", 0))
        assert found["loss"].item() == pytest.approx(wanted, abs=1e-5)
        assert found["error"].item() == pytest.approx(where.square().mean().item(), abs=1e-5)


def test_the_rate_rises_and_falls() -> None:
    budget = Budget(steps=220, batch=1, rate=2.0, warmup=20)
    rates = [budget.rate_at(step) for step in range(220)]
    assert rates[0] == 0.1 and rates[:20] == sorted(rates[:20]) and rates[19] == rates[20] == 2.0
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[120] == pytest.approx(1.05)
    assert rates[-1] == pytest.approx(0.1, rel=0.01)
