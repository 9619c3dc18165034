"""Pictures during the training: the first people of the data, with the same prompt and seeds every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from facesnap.checkpoints.adapter import Adapter
from facesnap.faces.encoder import PENULTIMATE, ImageEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.stored_landmarks import StoredLandmarks
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.model import Person
from facesnap.sheet import contact_sheet
from facesnap.training.config import TrainingConfig
from facesnap.training.shards import Shards

LANDMARK_ERROR = 0.03  # of the outer-eye distance: what the 72 fitted points are trusted to


class SampleGrid:
    """Writes `samples/step-00001000.png`: each person's reference crop beside the picture."""

    def __init__(self, config: TrainingConfig, shards: Shards) -> None:
        self.config, self.shards = config, shards
        self.rows = [numbers[0] for numbers in shards.people.values()][: config.samples.people]

    def draw(self, host: DiffusersHost, adapter: Adapter, step: int) -> None:
        """Sample all people with the adapter as it is now; the pipeline's scheduler is put back."""
        wanted, size = self.config.samples, int(self.shards.head["settings"]["size"])
        encoder = _EmptyPictureStates(self.shards) if self.shards.head["encoder"] else None
        pipeline, scheduler = FaceSnapPipeline(adapter, encoder=encoder), host.pipeline.scheduler
        cells = []
        try:
            for number, row in enumerate(self.rows):
                sampling = Sampling(wanted.prompt, steps=wanted.steps, cfg=wanted.cfg, seed=number, size=(size, size))
                portrait = pipeline.generate(host, sampling, [(self._identity(row), Person())])[0]
                crop = Image.fromarray(self.shards.tensor(row, "crop").numpy())
                cells.append([(crop, self.shards.rows[row]["person"][:24]), (portrait.image, f"step {step}")])
        finally:
            host.pipeline.scheduler = scheduler
        folder = self.config.output / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        contact_sheet(cells).save(folder / f"step-{step:08d}.png")

    def _identity(self, row: int) -> Identity:
        head, size = self.shards.head, int(self.shards.head["settings"]["size"])
        points = self.shards.tensor(row, "points").numpy()[None] * size  # (1, 72, 2) pixels
        stored = StoredLandmarks(
            points.astype(np.float32), np.array([[size, size]], np.int32), np.array([LANDMARK_ERROR], np.float32), "68"
        )
        levels = head["settings"]["levels"] if head["encoder"] else []
        return Identity(
            self.shards.rows[row]["person"], head["recogniser"], head["pack"],
            self.shards.tensor(row, "f_id").numpy()[None], np.ones(1, np.float32), np.ones(1, np.float32),
            {level: self.shards.tensor(row, f"hidden.{level}", 0)[None].float() for level in levels},
            head["encoder"] or None, head["encoder_name"] or None, landmarks=stored,
        )  # fmt: skip


class _EmptyPictureStates(ImageEncoder):
    """The data's encoder, as far as a grid asks it: for the hidden states of the empty picture, which the data hold."""

    def __init__(self, shards: Shards) -> None:
        self._zero, self._head = shards.zero, shards.head
        self.fingerprint = self._head["encoder"]

    @property
    def name(self) -> str:
        return str(self._head["encoder_name"])

    def encode_zero(self, levels: Sequence[int] = PENULTIMATE) -> dict[int, torch.Tensor]:
        return {level: self._zero[level].float() for level in levels}
