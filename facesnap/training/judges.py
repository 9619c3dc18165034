"""The judge of the identity loss: a differentiable recogniser other than the one that the data were prepared with."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from facesnap.errors import SettingsError
from facesnap.files import sha256_of
from facesnap.training.arcface import TorchRecogniser
from facesnap.training.losses import RECOGNISER_SIDE
from facesnap.training.tiny_recogniser import TinyRecogniser


class TinyJudge(nn.Module):
    """The tiny base's own recogniser with the pixels of the others: crops (B, 3, 112, 112) RGB in 0..1 -> (B, 256)."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.net = TinyRecogniser.load(file).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(2 * pictures - 1)


def load_judge(file: Path, conditioning: str) -> nn.Module:
    """Read a judge, frozen: crops (B, 3, 112, 112) RGB in 0..1 -> embeddings (B, D), not normalised.

    Args:
        file: a pack's recogniser (ONNX), or the one that `facesnap tiny recogniser` writes (safetensors); its
            content decides which. conditioning: sha256 of the recogniser that the data were prepared with.

    Raises:
        PackError, CheckpointError: it cannot be read. MissingDependencyError: onnx is missing.
        SettingsError: there is no such file, it is the conditioning recogniser itself, or its crops have another size.
    """
    if not file.is_file():
        raise SettingsError(
            f"There is no recogniser {file}.",
            expected="an ONNX file of a face pack, or recogniser.safetensors of a tiny base",
            remedy="correct `recogniser` in the configuration",
        )
    if sha256_of(file) == conditioning:
        raise SettingsError(
            f"{file} is the recogniser that the data were prepared with.",
            expected="another one: a network that judges its own vectors is easily fooled",
            remedy="name another pack's recogniser, or set the identity loss to 0",
        )
    if _is_safetensors(file):
        return TinyJudge(file).eval().requires_grad_(False)
    judge = TorchRecogniser.load(file)
    if judge.side != RECOGNISER_SIDE:
        raise SettingsError(
            f"{file} takes crops of {judge.side} pixels.",
            expected=f"{RECOGNISER_SIDE}",
            remedy="name another recogniser",
        )
    return judge


def _is_safetensors(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False
