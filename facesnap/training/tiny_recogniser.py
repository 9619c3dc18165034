"""The recogniser of the identity loss: a small residual network with ArcFace's margin, on the training people alone.

It is another network than the conditioning one, so that the adapter is not rewarded for pleasing its own eyes. Colours
are varied in the end of its training, so that it looks at a face's shape: that is what is hard to teach an adapter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.faces.align import RECOGNISER_SIZE
from facesnap.tiny.crops import plain, recoloured, varied
from facesnap.tiny.data import Portraits
from facesnap.tiny.loop import Draws, Losses
from facesnap.tiny.measure import load_frozen, save_weights

WIDTH = 256  # of the embedding
STAGES = (24, 48, 96, 192)
MARGIN, SCALE = 0.3, 24.0  # ArcFace (arXiv 1801.07698) with a smaller margin: few pictures of each person
BATCH = 64


class Residual(nn.Module):
    """IResNet's block: norm, convolution, norm, PReLU, convolution, norm, and the shortcut.

    The first convolution has the stride, not the second: that takes half the time.
    """

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inner),
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.PReLU(outer),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class TinyRecogniser(nn.Module):
    """Aligned crops (B, 3, 112, 112) RGB in -1..1 -> embeddings (B, 256), not normalised; differentiable."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, STAGES[0], 3, 2, 1, bias=False), nn.BatchNorm2d(STAGES[0]), nn.PReLU(STAGES[0])
        )
        widths = (STAGES[0], *STAGES)
        self.stages = nn.Sequential(
            *(Residual(widths[i], widths[i + 1], 1 if i == 0 else 2) for i in range(len(STAGES))),
        )
        side = RECOGNISER_SIZE // 2 ** len(STAGES)
        self.head = nn.Sequential(
            nn.BatchNorm2d(STAGES[-1]), nn.Flatten(), nn.Linear(STAGES[-1] * side**2, WIDTH), nn.BatchNorm1d(WIDTH)
        )

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(crops)))

    @classmethod
    def load(cls, file: Path) -> TinyRecogniser:
        """Read what `save` wrote, frozen.

        Raises:
            CheckpointError: it is another file.
        """
        return load_frozen(cls(), file, "recogniser")

    def save(self, file: Path) -> None:
        save_weights(self, file)


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
    parts = (plain(crops[start : start + BATCH]) * 2 - 1 for start in range(0, len(crops), BATCH))
    return np.concatenate([model(part).float().numpy() for part in parts])
