"""The stages of the tiny base, one after another, each in its own folder of the state.

    STATE/world/SPLIT/*.tar        rendered pictures                         `data`
    STATE/data/SPLIT/*.npy         the same as arrays                        `data`
    STATE/outer/vae/               AutoencoderKL of the outer levels         `outer`
    STATE/inner/vae/               the whole one, its inner levels trained   `inner`
    STATE/autoencoder/vae/         AutoencoderKL                             `autoencoder`
    STATE/recogniser/recogniser.safetensors                                  `recogniser`
    STATE/encoder/model.safetensors, config.json                             `encoder`
    STATE/unet/pipeline/           StableDiffusionPipeline                   `unet`
    STATE/landmarks/landmarks.safetensors     judge of 72 points             `landmarks`
    STATE/attributes/attributes.safetensors   judge of attributes            `attributes`
    STATE/STAGE/measurements.json, sheet.png                                 what each stage came to

Budget in hours of a CPU of two cores (an Intel Xeon without AMX), from measured steps: data 0.7 (20,000 pictures of
130 ms), outer 1.2 (5,000 steps of 0.9 s), inner 0.3 (3,400 of 0.2 s, and the features), autoencoder 0.2 (1,900 of
0.4 s), recogniser 0.6 (4,000 of 0.5 s), encoder 0.7 (5,000 of 0.5 s), UNet 1.8 (7,000 of 0.9 s), landmarks 0.3 (8,000
of 0.14 s), attributes 0.3 (4,000 of 0.3 s): 6.1 in all.
A stage that runs out of --hours leaves its outputs as they are by then and goes on at the next call. Everything is
trained on training people alone and measured on held-out people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from facesnap.errors import SettingsError
from facesnap.evaluation.attribute_judge import AttributeJudge, obedience
from facesnap.evaluation.landmark_judge import LandmarkJudge, by_band, nme
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.drawing import save_png
from facesnap.files import beside, sha256_of
from facesnap.remedies import command
from facesnap.sheet import tiled
from facesnap.tiny import attributes, autoencoder, grow, landmarks, recogniser, text, unet, vit
from facesnap.tiny.data import Portraits, pack
from facesnap.tiny.loop import Budget, Draws, Loop, Losses, Say, channels_last
from facesnap.tiny.measure import boxes_found, identity_kept
from facesnap.training.shards import write_json
from facesnap.training.tiny_recogniser import TinyRecogniser
from facesnap.world.dataset import Dataset
from facesnap.world.measure import separation
from facesnap.world.splits import SPLITS

BUDGETS = {
    "outer": Budget(steps=5_000, batch=8, rate=1e-3, half=True),
    "inner": Budget(steps=3_400, batch=16, rate=2e-3, half=True),
    "autoencoder": Budget(steps=1_900, batch=4, rate=5e-4, half=True),
    "recogniser": Budget(steps=4_000, batch=64, rate=2e-3, half=True),
    "encoder": Budget(steps=5_000, batch=64, rate=1e-3, half=True),
    "unet": Budget(steps=7_000, batch=32, rate=1e-3),
    "landmarks": Budget(steps=8_000, batch=16, rate=1e-3),
    "attributes": Budget(steps=4_000, batch=32, rate=1e-3),
}
STAGES = ("data", *BUDGETS)
SHEET = 12  # pictures on a sheet's row
KEPT = 5_000  # pictures whose features the inner levels learn from: 1.3 GB
PREDICTIONS = 64  # held-out batches for the UNet's measure


@dataclass
class Workspace:
    """The state folder, and the settings that all stages share.

    Attributes:
        state: folder. people, held_out, pictures, size: of the data. workers: processes that render.
        hours: for each stage in this call. steps: in place of every budget's, for short runs. seed: of the training.
        analyser: the face pack that says how much identity the autoencoder keeps.
    """

    state: Path
    analyser: FaceAnalyser | None = None
    people: int = 2048
    held_out: int = 64
    pictures: int = 5
    size: int = 128
    workers: int = 1
    hours: float = math.inf
    steps: int | None = None
    seed: int = 0
    say: Say = print
    _opened: dict[str, Portraits] = field(default_factory=dict)

    def portraits(self, split: str) -> Portraits:
        if split not in self._opened:
            found = Portraits.load(self.state / "data" / split)
            if found.split != split:
                raise SettingsError(
                    f"{self.state / 'data' / split} holds people of the split {found.split}.",
                    expected=split,
                    remedy=f"delete the folder and run {command('tiny data')} again.",
                )
            self._opened[split] = found
        return self._opened[split]

    def loop(self, stage: str, module: nn.Module, context: str = "") -> Loop:
        train = self.portraits("train")
        seen = f"{len(train)} pictures of people {train.people[0]}..{train.people[-1]} {context}"
        budget = BUDGETS[stage] if self.steps is None else replace(BUDGETS[stage], steps=self.steps)
        loop = Loop(self.state / stage, stage, module, budget, seed=self.seed, context=seen)
        if loop.step:
            self.say(f"{stage}: goes on from step {loop.step} of {loop.budget.steps}")
        return loop

    def train(self, loop: Loop, loss: Callable[[int, Draws], Losses]) -> None:
        loop.run(loss, seconds=self.hours * 3600, say=self.say)

    def report(self, stage: str, loop: Loop | None, measured: dict[str, Any]) -> dict[str, Any]:
        """Write STATE/STAGE/measurements.json."""
        record: dict[str, Any] = {"stage": stage, "measured": measured}
        if loop is not None:
            record["training"] = {
                **vars(loop.budget), "done": loop.step, "seconds": round(loop.seconds, 1),
                "milliseconds_a_step": round(loop.milliseconds, 1),
                "parameters": sum(p.numel() for p in loop.module.parameters()), "history": loop.history,
            }  # fmt: skip
        write_json(self.state / stage / "measurements.json", record)
        self.say(f"{stage}: {json.dumps(measured)}")
        return record


def run(stage: str, workspace: Workspace) -> dict[str, Any]:
    """Run one stage, or go on with it; returns what its measurements.json holds.

    Raises:
        SettingsError: an unknown stage, an earlier one is missing, or the settings are not those of its checkpoint.
    """
    stages: dict[str, Callable[[Workspace], dict[str, Any]]] = {
        "data": make_data, "outer": train_outer, "inner": train_inner, "autoencoder": train_autoencoder,
        "recogniser": train_recogniser, "encoder": train_encoder, "unet": train_unet, "landmarks": train_landmarks,
        "attributes": train_attributes,
    }  # fmt: skip
    if stage not in stages:
        raise SettingsError(f"Stage {stage!r}.", expected=", ".join(stages), remedy="choose one of these.")
    torch.manual_seed(workspace.seed)
    return stages[stage](workspace)


def make_data(workspace: Workspace) -> dict[str, Any]:
    """Render what is missing and unpack it."""
    measured = {}
    for split, people in (("held_out", workspace.held_out), ("train", workspace.people)):
        dataset = Dataset(SPLITS[split].start, people, workspace.pictures, workspace.size)

        def progress(done: Iterable[Path], count: int, split: str = split) -> Iterable[Path]:
            for i, shard in enumerate(done, 1):
                workspace.say(f"data: shard {i} of {count} of {split}")
                yield shard

        shards = dataset.write(workspace.state / "world" / split, workers=workspace.workers, progress=progress)
        found = pack(shards, workspace.state / "data" / split, people * workspace.pictures, workspace.size)
        measured[split] = {"pictures": len(found), "people": len(np.unique(found.people))}
    return workspace.report("data", None, measured)


def train_outer(workspace: Workspace) -> dict[str, Any]:
    loop = workspace.loop("outer", autoencoder.make_outer())
    crops = int(0.9 * loop.budget.steps)
    train = workspace.portraits("train")
    workspace.train(loop, autoencoder.AutoencoderLoss(loop.module, train, loop.budget.batch, crops))
    return workspace.report("outer", loop, _keep_vae(workspace, "outer", loop.averaged)[0])


def train_inner(workspace: Workspace) -> dict[str, Any]:
    outer, weights = _vae(workspace, "outer")
    train = workspace.portraits("train")
    torch.manual_seed(workspace.seed)
    whole = autoencoder.make()
    grow.transplant(outer, whole)
    loop = workspace.loop("inner", whole, weights)
    rows = np.linspace(0, len(train) - 1, min(len(train), KEPT)).astype(int)
    side = workspace.size // autoencoder.OUTER_FACTOR
    shape = (autoencoder.WIDTHS[-2], side, side)
    batches = (grow.features(outer, train.images[some]) for some in np.array_split(rows, len(rows) // 16 + 1))
    folder = workspace.state / "inner" / f"features-{weights[:16]}"
    kept = _kept(folder, ("given", "wanted"), (len(rows), *shape), batches)
    workspace.train(loop, grow.InnerLoss(loop.module, train, rows, kept, loop.budget.batch))
    return workspace.report("inner", loop, _keep_vae(workspace, "inner", loop.averaged)[0])


def train_autoencoder(workspace: Workspace) -> dict[str, Any]:
    whole, weights = _vae(workspace, "inner")
    grow.freeze_outer_encoder(whole)
    loop = workspace.loop("autoencoder", channels_last(whole), weights)
    train = workspace.portraits("train")
    workspace.train(loop, autoencoder.AutoencoderLoss(loop.module, train, loop.budget.batch, crops=0))
    measured, rebuilt = _keep_vae(workspace, "autoencoder", loop.averaged)
    if workspace.analyser is not None:
        measured["identity"] = identity_kept(workspace.analyser, workspace.portraits("held_out"), rebuilt)
    return workspace.report("autoencoder", loop, measured)


def _vae(workspace: Workspace, stage: str) -> tuple[Any, str]:
    """The AutoencoderKL that a stage left, and its weights' sha256."""
    from diffusers import AutoencoderKL

    folder = workspace.state / stage / "vae"
    if not (folder / "config.json").is_file():
        raise SettingsError(
            f"There is no autoencoder in {folder}.",
            expected="a trained one.",
            remedy=f"run {command(f'tiny {stage}')} with the same --state first.",
        )
    weights = sha256_of(folder / "diffusion_pytorch_model.safetensors")
    return AutoencoderKL.from_pretrained(folder).eval(), weights


def _keep_vae(workspace: Workspace, stage: str, model: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Save an autoencoder and a sheet of it; measurements, and the held-out pictures (N, S, S, 3) through it."""
    train, held_out = workspace.portraits("train"), workspace.portraits("held_out")
    some = train.images[:: max(len(train) // 512, 1)]
    spread = torch.cat([mean for mean, _ in autoencoder.latents(model, some)]).std().item()
    model.register_to_config(scaling_factor=1 / spread)
    model.save_pretrained(workspace.state / stage / "vae", safe_serialization=True)
    rebuilt = autoencoder.reconstructions(model, held_out.images)
    chosen = np.linspace(0, len(rebuilt) - 1, SHEET).astype(int)
    save_png(tiled([held_out.images[chosen], rebuilt[chosen]]), workspace.state / stage / "sheet.png")
    return {
        "pictures": len(rebuilt), "people": len(np.unique(held_out.people)), "scaling_factor": 1 / spread,
        "psnr": autoencoder.psnr(rebuilt, held_out.images),
        "psnr_face": autoencoder.psnr(rebuilt, held_out.images, held_out.boxes),
    }, rebuilt  # fmt: skip


def train_recogniser(workspace: Workspace) -> dict[str, Any]:
    train, held_out = workspace.portraits("train"), workspace.portraits("held_out")
    loop = workspace.loop("recogniser", channels_last(recogniser.Classifier(int(train.labels[-1]) + 1)))
    plain = int(0.6 * loop.budget.steps)
    workspace.train(loop, recogniser.RecogniserLoss(loop.module, train, loop.budget.batch, plain))
    model: TinyRecogniser = loop.averaged.recogniser
    model.save(workspace.state / "recogniser" / "recogniser.safetensors")
    embeddings = recogniser.embed(model, held_out.crops)
    return workspace.report("recogniser", loop, vars(separation(embeddings, list(held_out.people))))


def train_encoder(workspace: Workspace) -> dict[str, Any]:
    train, held_out = workspace.portraits("train"), workspace.portraits("held_out")
    values = vit.attribute_values(train)
    loop = workspace.loop("encoder", vit.EncoderWithHeads(values))
    workspace.train(loop, vit.EncoderLoss(loop.module, train, values, loop.budget.batch))
    model: vit.EncoderWithHeads = loop.averaged
    vit.save(model.encoder, workspace.state / "encoder")
    projections, guesses, chosen = vit.look_at(model, held_out.crops)
    measured: dict[str, Any] = dict(vars(separation(projections, list(held_out.people))))
    measured["likeness"] = vit.explained(guesses, held_out, train)
    measured["attributes"] = vit.accuracy(held_out, values, chosen)
    return workspace.report("encoder", loop, measured)


def train_unet(workspace: Workspace) -> dict[str, Any]:
    vae, weights = _vae(workspace, "autoencoder")
    train, held_out = workspace.portraits("train"), workspace.portraits("held_out")
    tokenizer = text.make_tokenizer(train.captions, workspace.state / "unet" / "words")
    torch.manual_seed(workspace.seed)
    side, factor = workspace.size // autoencoder.FACTOR, vae.config.scaling_factor
    model = unet.Denoiser(unet.make_unet(side), text.make_encoder(tokenizer))
    loop = workspace.loop("unet", model, weights)

    def loss_on(portraits: Portraits, network: Any) -> unet.DenoiserLoss:
        folder = workspace.state / "unet" / f"latents-{weights[:16]}-{portraits.split}"
        shape = (len(portraits), autoencoder.CHANNELS, side, side)
        batches = ((mean * factor, std * factor) for mean, std in autoencoder.latents(vae, portraits.images))
        moments = _kept(folder, ("mean", "std"), shape, batches)
        tokens, empty = text.tokenise(tokenizer, portraits.captions), text.tokenise(tokenizer, [""])[0]
        boxes = torch.from_numpy(np.array(portraits.boxes)) / portraits.images.shape[1]
        return unet.DenoiserLoss(network, moments, tokens, empty, boxes, loop.budget.batch)

    workspace.train(loop, loss_on(train, model))
    average = loop.averaged
    unet.save_pipeline(average, vae, tokenizer, workspace.state / "unet" / "pipeline")
    batches = min(PREDICTIONS, max(loop.budget.steps, 1))
    measured: dict[str, Any] = {
        split: unet.prediction_error(loss_on(workspace.portraits(split), average), batches, workspace.seed)
        for split in ("train", "held_out")
    }
    measured["unet_parameters"] = sum(p.numel() for p in average.unet.parameters())
    pictures = unet.samples(workspace.state / "unet" / "pipeline", held_out.captions[:SHEET], workspace.size)
    save_png(tiled([held_out.images[:SHEET], pictures]), workspace.state / "unet" / "sheet.png")
    return workspace.report("unet", loop, measured)


def train_landmarks(workspace: Workspace) -> dict[str, Any]:
    train, held_out = workspace.portraits("train"), workspace.portraits("held_out")
    loop = workspace.loop("landmarks", channels_last(LandmarkJudge()))
    workspace.train(loop, landmarks.LandmarkLoss(loop.module, train, loop.budget.batch))
    judge: LandmarkJudge = loop.averaged
    judge.save(workspace.state / "landmarks" / "landmarks.safetensors")
    yaw = np.array([record["view"]["yaw"] for record in held_out.records])

    def floor(boxes: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        found = judge.points(held_out.images[rows], boxes)
        return by_band(nme(found, held_out.points[rows]), yaw[rows])

    rows = np.arange(len(held_out))
    measured = {"true_boxes": floor(held_out.boxes, rows)}
    if workspace.analyser is not None:
        found = boxes_found(workspace.analyser, held_out.images)
        seen = np.array([row for row in rows if found[row] is not None])
        measured["detected_boxes"] = floor(np.array([found[row] for row in seen]), seen)
    return workspace.report("landmarks", loop, measured)


def train_attributes(workspace: Workspace) -> dict[str, Any]:
    train, held_out = workspace.portraits("train"), workspace.portraits("held_out")
    loop = workspace.loop("attributes", channels_last(AttributeJudge()))
    workspace.train(loop, attributes.AttributeLoss(loop.module, train, loop.budget.batch))
    judge: AttributeJudge = loop.averaged
    judge.save(workspace.state / "attributes" / "attributes.safetensors")
    right = obedience(judge.values(held_out.images), [record["attributes"] for record in held_out.records])
    shares = {name: float(np.nanmean(values)) for name, values in right.items()}
    return workspace.report("attributes", loop, {"accuracy": shares, "mean": float(np.mean(list(shares.values())))})


def _kept(
    folder: Path, names: tuple[str, str], shape: tuple[int, ...], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """Two float16 arrays of a shape, made of batches once and memory-mapped."""
    files = [folder / f"{name}.npy" for name in names]
    if not folder.is_dir():
        part = beside(folder, ".part")
        part.mkdir(parents=True, exist_ok=True)
        arrays = [open_memmap(part / file.name, "w+", "float16", shape) for file in files]
        row = 0
        for both in batches:
            for array, values in zip(arrays, both, strict=True):
                array[row : row + len(values)] = values.numpy()
            row += len(both[0])
        for array in arrays:
            array.flush()
        del arrays, array  # Windows moves no folder whose files are mapped
        part.replace(folder)
    first, second = (np.load(file, mmap_mode="r") for file in files)
    return first, second
