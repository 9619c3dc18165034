"""The stand-in page in a process of its own, and headless Chromium looking at it.

These tests need Gradio, so they run in the WebUIs' environments: `make test-pages` (Gradio 3) and `make test-newer`
(Gradio 4). FACESNAP_SCREENSHOTS names a folder for pictures of every state.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[3]
BOOT_SECONDS = 180
PACK = "test_pack"


@pytest.fixture(scope="session")
def photos(astronaut: np.ndarray, components: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Files to upload: one person twice, another one, and no face."""
    folder = tmp_path_factory.mktemp("photos")
    found = SimpleNamespace(
        first=folder / "first.png", second=folder / "second.jpg", nobody=folder / "nobody.png", broken=folder / "x.png",
        other=components / "photos" / "obama.jpg",
    )  # fmt: skip
    Image.fromarray(astronaut).save(found.first)
    Image.fromarray(astronaut[:300, 100:400]).save(found.second, quality=90)
    Image.new("RGB", (320, 240), "teal").save(found.nobody)
    found.broken.write_bytes(b"no picture at all")
    return found


@pytest.fixture(scope="session")
def models(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebUI's folder of models: an untrained adapter for the page's UNet, one for SDXL, their encoder, a pack,
    checkpoints that are not loaded."""
    from facesnap.demo import untrained
    from facesnap.faces.encoder import ImageEncoder
    from facesnap.faces.packs import load_pack
    from tests.networks import diffusers_unet, ldm_unet

    own = tmp_path_factory.mktemp("page") / "models" / "FaceSnap"
    encoder = ImageEncoder.load(untrained.save_encoder(own / "untrained-encoder.safetensors"))
    for base, name in (("sd15", "untrained"), ("sdxl", "another")):
        untrained.save_adapter(
            own / f"{name}.safetensors", diffusers_unet(base, like=ldm_unet(base, seed=1)),
            recogniser=load_pack(face_pack).recogniser_sha256, recogniser_name=PACK, encoder=encoder.fingerprint,
            encoder_name=encoder.name,
        )  # fmt: skip
    shutil.copytree(face_pack, own / PACK)
    others = own.parent / "Stable-diffusion"
    others.mkdir()
    site = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    for name, inside in (("drawn-xl", site), ("flux-dev", "double_blocks.0.img_attn.proj.weight")):
        save_file({f"model.diffusion_model.{inside}": torch.zeros(640, 2048)}, others / f"{name}.safetensors")
    return own.parent


@pytest.fixture(scope="session")
def address(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the running stand-in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "page.txt"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.webui.standin.page", str(models), str(port)], cwd=ROOT, stdout=file,
            stderr=subprocess.STDOUT, env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"},
        )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/", process, log)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + BOOT_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the stand-in did not start:\n{log.read_text(encoding='utf-8')[-3000:]}", pytrace=False)
            time.sleep(0.3)
