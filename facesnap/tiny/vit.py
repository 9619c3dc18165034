"""The image encoder: a small ViT in transformers' CLIPVisionModelWithProjection layout.

CLIP's own encoder learned what people say about pictures. This one learns what the world knows of them, on training
people alone: who it is (supervised contrastive loss, Khosla et al., arXiv 2004.11362, on the projection), what that
person looks like in numbers, and the look's attributes (linear heads on the class token), so that its hidden states
carry all three.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.evaluation.blocks import to_tensor
from facesnap.faces.encoder import CLIP_MEAN, CLIP_STD
from facesnap.tiny.crops import people_and_pictures, varied
from facesnap.tiny.data import Portraits
from facesnap.tiny.likeness import PLACES, TRAITS, likeness, standard
from facesnap.tiny.loop import Draws, Losses
from facesnap.training.network_files import save_tensors

WIDTH, LAYERS, HEADS, PATCH, SIDE, PROJECTION = 128, 6, 4, 14, 112, 128
TEMPERATURE = 0.1
ATTRIBUTE_WEIGHT = 0.2  # of each attribute's cross-entropy
LIKENESS_WEIGHT = 2.0  # of the squared errors of places and of traits, in deviations
LOOK = ("hair", "hair_colour", "glasses", "beard", "light", "style")
IDENTITY = ("eye_colour", "brow_colour")
BATCH = 64


def make() -> Any:
    """An untrained encoder: 112 px, 8 x 8 patches, 1.3 M parameters."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            image_size=SIDE, patch_size=PATCH, projection_dim=PROJECTION, hidden_act="gelu",
        )
    )  # fmt: skip


def normalised(crops: Tensor) -> Tensor:
    """(B, 3, S, S) in 0..1 -> CLIP's mean and deviation."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (crops - mean) / std


def attribute_values(portraits: Portraits) -> dict[str, list[str]]:
    """Attribute -> its values in the pictures, sorted."""
    return {name: sorted(set(_column(portraits, name))) for name in (*LOOK, *IDENTITY)}


def _column(portraits: Portraits, name: str) -> list[str]:
    section = "identity" if name in IDENTITY else "attributes"
    return [record[section][name] for record in portraits.records]


class EncoderWithHeads(nn.Module):
    """The encoder with one linear head for each attribute and one for the person's likeness."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        super().__init__()
        self.encoder = make()
        self.likeness = nn.Linear(WIDTH, PLACES + TRAITS)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(names)) for name, names in values.items()})

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Crops (B, 3, 112, 112) in 0..1 -> unit projections (B, 128), likenesses (B, 234) in deviations from the mean,
        and logits (B, values) of each attribute."""
        seen = self.encoder.vision_model(pixel_values=normalised(crops)).pooler_output  # (B, width)
        projected = F.normalize(self.encoder.visual_projection(seen).float(), dim=-1)
        return projected, self.likeness(seen).float(), {n: head(seen).float() for n, head in self.heads.items()}


def contrastive_loss(projected: Tensor, labels: Tensor) -> Tensor:
    """Supervised contrastive loss of unit vectors (B, D); every label occurs at least twice."""
    itself = torch.eye(len(labels), dtype=torch.bool)
    logits = (projected @ projected.T / TEMPERATURE).masked_fill(itself, -1e9)
    same = (labels[:, None] == labels[None]) & ~itself
    log_share = logits - logits.logsumexp(1, keepdim=True)
    return -(log_share * same).sum(1).div(same.sum(1)).mean()


class EncoderLoss:
    """The loss of one step on `portraits`."""

    def __init__(self, model: EncoderWithHeads, portraits: Portraits, values: dict[str, list[str]], batch: int) -> None:
        self.model, self.crops, self.labels, self.batch = model, portraits.crops, portraits.labels, batch
        self.targets = {
            name: torch.tensor([names.index(value) for value in _column(portraits, name)])
            for name, names in values.items()
        }
        true = likeness(portraits.people)
        mean, deviation = standard(true)
        self.likeness = torch.from_numpy((true - mean) / deviation)

    def __call__(self, step: int, draws: Draws) -> Losses:
        rows = people_and_pictures(self.labels, self.batch, draws)
        projected, guess, logits = self.model(varied(self.crops[rows], draws))
        contrast = contrastive_loss(projected, torch.from_numpy(self.labels[rows]))
        wrong = (guess - self.likeness[rows]).square().mean(0)  # (234,)
        likeness_error = wrong[:PLACES].mean() + wrong[PLACES:].mean()
        attributes = torch.stack([F.cross_entropy(logits[name], self.targets[name][rows]) for name in logits]).mean()
        loss = contrast + LIKENESS_WEIGHT * likeness_error + ATTRIBUTE_WEIGHT * len(logits) * attributes
        parts = {"contrast": contrast, "likeness": likeness_error, "attributes": attributes}
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}


def save(encoder: Any, folder: Path) -> None:
    """Write model.safetensors and config.json, which facesnap.faces.encoder.ImageEncoder loads."""
    tensors = {name: value for name, value in encoder.state_dict().items() if not name.endswith("position_ids")}
    save_tensors(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(encoder.config.to_dict(), indent=1), encoding="utf-8")


@torch.no_grad()
def look_at(model: EncoderWithHeads, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Crops (N, 112, 112, 3) uint8 RGB -> projections (N, 128), likenesses (N, 234) in deviations, and the index of the
    likeliest value by attribute."""
    model.eval()
    parts = [model(to_tensor(crops[start : start + BATCH])) for start in range(0, len(crops), BATCH)]
    projections, guesses, logits = zip(*parts, strict=True)
    chosen = {name: torch.cat([one[name].argmax(1) for one in logits]).numpy() for name in model.heads}
    return torch.cat(projections).numpy(), torch.cat(guesses).numpy(), chosen


def explained(guesses: np.ndarray, portraits: Portraits, trained_on: Portraits) -> dict[str, float]:
    """Share of the variance between people that likenesses (N, 234), in deviations, explain: of places and traits."""
    mean, deviation = standard(likeness(trained_on.people))
    true = (likeness(portraits.people) - mean) / deviation
    wrong, spread = np.square(guesses - true).mean(0), true.var(0)
    parts = {"places": slice(0, PLACES), "traits": slice(PLACES, None)}
    return {name: float(1 - wrong[part].sum() / spread[part].sum()) for name, part in parts.items()}


def accuracy(portraits: Portraits, values: dict[str, list[str]], chosen: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of right values by attribute."""
    return {
        name: float(np.mean([values[name][i] == true for i, true in zip(row, _column(portraits, name), strict=True)]))
        for name, row in chosen.items()
    }
