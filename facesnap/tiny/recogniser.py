"""The recogniser's training: ArcFace's margin on the training people alone.

It is another network than the conditioning one, so that the adapter is not rewarded for pleasing its own eyes. Colours
are varied in the end of its training, so that it looks at a face's shape: that is what is hard to teach an adapter.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.evaluation.blocks import to_tensor
from facesnap.tiny.crops import recoloured, varied
from facesnap.tiny.data import Portraits
from facesnap.tiny.loop import Draws, Losses
from facesnap.training.tiny_recogniser import WIDTH, TinyRecogniser

MARGIN, SCALE = 0.3, 24.0  # ArcFace (arXiv 1801.07698) with a smaller margin: few pictures of each person
BATCH = 64


class Classifier(nn.Module):
    """The recogniser with one direction for each training person."""

    def __init__(self, people: int) -> None:
        super().__init__()
        self.recogniser = TinyRecogniser()
        self.directions = nn.Parameter(torch.randn(people, WIDTH) * 0.01)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (B, 3, 112, 112) in 0..1 -> cosines (B, people)."""
        embeddings = self.recogniser(crops * 2 - 1)
        return F.linear(F.normalize(embeddings.float()), F.normalize(self.directions.float()))


def margin_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """ArcFace's loss: the true person's angle is made `MARGIN` wider before the softmax."""
    true = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)  # (B, 1)
    widened = torch.cos((torch.acos(true) + MARGIN).clamp(max=torch.pi))
    return F.cross_entropy(SCALE * cosines.scatter(1, labels[:, None], widened), labels)


class RecogniserLoss:
    """The loss of one step on `portraits`; from step `plain` on their colours vary.

    Without colours from the first step on it learns little: in 3,000 steps rank-1 of held-out people .43.
    """

    def __init__(self, model: Classifier, portraits: Portraits, batch: int, plain: int) -> None:
        self.model, self.crops, self.labels, self.batch = model, portraits.crops, portraits.labels, batch
        self.plain = plain

    def __call__(self, step: int, draws: Draws) -> Losses:
        rows = draws.rows(len(self.labels), self.batch)
        labels = torch.from_numpy(self.labels[rows])
        crops = varied(self.crops[rows], draws)
        cosines = self.model(crops if step < self.plain else recoloured(crops, draws)).float()
        right = (cosines.argmax(1) == labels).float().mean()
        return {"loss": margin_loss(cosines, labels), "right": right.detach()}


@torch.no_grad()
def embed(model: TinyRecogniser, crops: np.ndarray) -> np.ndarray:
    """Crops (N, 112, 112, 3) uint8 RGB -> embeddings (N, 256) float32."""
    model.eval()
    parts = (to_tensor(crops[start : start + BATCH]) * 2 - 1 for start in range(0, len(crops), BATCH))
    return np.concatenate([model(part).float().numpy() for part in parts])
