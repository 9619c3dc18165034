"""The tiny base's recogniser: a small residual network that judges faces of the synthetic world."""

from __future__ import annotations

from torch import Tensor, nn

from facesnap.faces.align import RECOGNISER_SIZE
from facesnap.training.network_files import SmallNetwork

WIDTH = 256  # of the embedding
STAGES = (24, 48, 96, 192)


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


class TinyRecogniser(SmallNetwork):
    """Aligned crops (B, 3, 112, 112) RGB in -1..1 -> embeddings (B, 256), not normalised; differentiable."""

    stage = "recogniser"

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
