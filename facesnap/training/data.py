"""Samples for training: a target picture with its landmarks, and a reference of the same person.

Every choice is drawn by (step, slot); see `facesnap.training.draws`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facesnap.attach.residuals import LATENT_PIXELS
from facesnap.landmarks.render import render_five_points, render_landmarks
from facesnap.landmarks.scheme import five_points, outer_eye_distance
from facesnap.training.config import DropConfig, TrainingConfig
from facesnap.training.draws import Purpose, generator, sample_at
from facesnap.training.shards import Shards

Sample = dict[str, Any]
MOST_PHOTOS = 8  # of a person, whose mean a sampled face is compared with


class Samples(Dataset[Sample]):
    """Samples by (step, slot).

    Args:
        global_batch: slots of a step. timesteps: of the schedule. levels: CLIP hidden states of the mixer.
        pictures: which FFRNet looks at, of "landmarks" and "five_points". id_vector: of AdapterSpec.
    """

    def __init__(
        self,
        shards: Shards,
        config: TrainingConfig,
        global_batch: int,
        timesteps: int,
        levels: Sequence[int],
        pictures: Sequence[str],
        id_vector: str,
    ) -> None:
        self.shards, self.config, self.global_batch, self.timesteps = shards, config, global_batch, timesteps
        self.levels, self.pictures, self.id_vector = tuple(levels), tuple(pictures), id_vector
        # FFRNet halves its pictures three times whatever the VAE does: generation draws them at this size too.
        self.side = LATENT_PIXELS * int(shards.tensor(0, "mean").shape[-1])
        self.variants = int(shards.head["settings"]["variants"])
        self._compares_people = any(stage.align and stage.align.identity for stage in config.stages)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        step, slot = key
        seed = self.config.seed
        target = sample_at(seed, len(self.shards), step * self.global_batch + slot)
        reference, variant = self._reference(target, generator(seed, Purpose.REFERENCE, step, slot))
        drop_text, drop_id, drop_points = draw_drops(self.config.drops, generator(seed, Purpose.DROPS, step, slot))
        sample = self._noised(target, generator(seed, Purpose.NOISE, step, slot))
        sample |= self._person(reference, variant, drop_id)
        sample["judged"] = generator(seed, Purpose.JUDGE, step, slot).random()
        sample["conditioned"] = not drop_id
        sample["prompted"] = generator(seed, Purpose.PROMPT, step, slot).random()
        jitter = generator(seed, Purpose.AUGMENT, step, slot)
        sample |= self._pictures(self.shards.tensor(target, "points").numpy(), drop_points, jitter)
        row = self.shards.rows[target]
        sample |= {name: self.shards.tensor(target, name) for name in ("box", "matrix", "crop")}
        if self._compares_people:
            # The crops (112, 112, 3) uint8 of the target and of the person's first other photos.
            others = [other for other in self.shards.people[row["person"]] if other != target]
            chosen = sorted([target, *others[: MOST_PHOTOS - 1]])
            sample["photos"] = [(number, self.shards.tensor(number, "crop")) for number in chosen]
        return sample | {"caption": "" if drop_text else row["caption"], "key": row["key"], "target": target,
                         "reference": reference}  # fmt: skip

    def _reference(self, target: int, rng: np.random.Generator) -> tuple[int, int]:
        """Another photo of the person with the probability that is asked for, else the same; and its variant."""
        others = [i for i in self.shards.people[self.shards.rows[target]["person"]] if i != target]
        other, which, variant = rng.random(), rng.random(), int(rng.integers(self.variants))
        if others and other < self.config.data.other_photo:
            return others[int(which * len(others))], variant
        return target, variant

    def _noised(self, target: int, rng: np.random.Generator) -> Sample:
        """Latents of the VAE's distribution, noise and a timestep."""
        mean, std = (self.shards.tensor(target, name).float() for name in ("mean", "std"))
        draw = torch.from_numpy(rng.standard_normal((2, *mean.shape), dtype=np.float32))
        timestep = draw_timestep(self.timesteps, self.config.noise.shift, rng)
        return {"latents": mean + std * draw[0], "noise": draw[1], "timestep": timestep}

    def _person(self, reference: int, variant: int, dropped: bool) -> Sample:
        """f_id (1, 512) and hidden states (1, P, W) of the reference, or those of the unconditional case."""
        f_id = self.shards.tensor(reference, "f_id")
        f_id = torch.nn.functional.normalize(f_id, dim=0) if self.id_vector == "normed" else f_id
        out = {"f_id": (torch.zeros_like(f_id) if dropped or self.id_vector == "none" else f_id)[None]}
        for level in self.levels:
            name = f"hidden.{level}"
            states = self.shards.zero[level] if dropped else self.shards.tensor(reference, name, variant)[None]
            out[name] = states.float()
        return out

    def _pictures(self, points: np.ndarray, dropped: bool, rng: np.random.Generator) -> Sample:
        """Landmark pictures (3, 8h, 8w) of the target's own points, jittered, or black."""
        spread = self.config.augment.jitter * outer_eye_distance(points)
        points = points + spread * rng.standard_normal(points.shape)
        out: Sample = {}
        for name in self.pictures:
            size = (self.side, self.side)
            if dropped:
                drawn = np.zeros((*size, 3), np.uint8)
            elif name == "landmarks":
                drawn = render_landmarks(points, size)
            else:
                drawn = render_five_points(five_points(points), size)
            out[name] = torch.from_numpy(drawn).permute(2, 0, 1).float() / 255  # (3, 8h, 8w)
        return out


def draw_drops(drops: DropConfig, rng: np.random.Generator) -> tuple[bool, bool, bool]:
    """Whether text, identity and landmarks are dropped; landmarks independently of the others."""
    u, v = rng.random(), rng.random()
    both = u < drops.both
    text = both or drops.both <= u < drops.both + drops.text
    identity = both or drops.both + drops.text <= u < drops.both + drops.text + drops.identity
    return text, identity, v < drops.landmarks


def draw_timestep(count: int, shift: float, rng: np.random.Generator) -> int:
    """A timestep 0..count - 1, noisy ones more often with a shift above 1, that of SD3 (arXiv 2403.03206)."""
    even = rng.random()
    return min(int(count * shift * even / (1 + (shift - 1) * even)), count - 1)


def collate(samples: Sequence[Sample]) -> Sample:
    """Tensors stacked, numbers as a tensor, text as a list."""
    out: Sample = {}
    for name, value in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(value, Tensor):
            out[name] = torch.stack(values)
        else:
            out[name] = torch.tensor(values) if isinstance(value, (int, float)) else values
    return out
