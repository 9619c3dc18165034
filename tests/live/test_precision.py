"""A real WebUI whose UNet computes in half precision, as on a GPU: as far as a CPU can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.live.checkpoints import Checkpoints
from tests.live.conftest import FOLDER, start
from tests.live.webui import WebUI, knows


@pytest.fixture(scope="module")
def half(
    checkpoints: Checkpoints, extension: Path, probe: Path, face_pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebUI]:
    """AUTOMATIC1111 in float16, Forge's UNet in bfloat16."""
    in_bf16 = next((flag for flag in ("--unet-in-bf16", "--bf16-unet") if knows(Path(FOLDER), flag)), None)
    flags = [in_bf16] if in_bf16 else ["--precision", "half"]
    webui = start(tmp_path_factory.mktemp("half"), checkpoints, extension, probe, face_pack, flags)
    yield webui
    webui.stop()


def test_a_half_unet(half, snap) -> None:
    """Tokens and landmarks act, nothing of them stays, and the picture is finite."""
    bare, hooks = half.pictures(), half.seen()["hooks"]
    assert half.seen()["dtype"] == ("torch.bfloat16" if half.forge else "torch.float16")
    made, tokens = half.pictures(snap), half.pictures({**snap, "structure": 0.0})
    pictures = (bare, made, tokens)
    assert all(picture.std() > 1 for picture in pictures)  # NaN is decoded as black
    assert all(abs(a - b).mean() > 0.5 for n, a in enumerate(pictures) for b in pictures[:n])
    assert np.array_equal(half.pictures({**snap, "strength": 0.0, "structure": 0.0}), bare)
    assert np.array_equal(half.pictures(snap), made)
    assert half.seen()["hooks"] == hooks and half.seen()["running"] == 0
