"""`facesnap generate` with a public file: real face models, an untrained Stable Diffusion, FaceID with its LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesnap.cli import main
from facesnap.demo import untrained
from facesnap.hosts.diffusers import DiffusersHost
from tests.families.test_families import widths_of
from tests.public_files import public_state, write


def test_a_public_file_makes_pictures(
    tmp_path: Path, face_pack: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    base = untrained.save_pipeline(tmp_path / "model")
    widths = widths_of(DiffusersHost.load(base, device="cpu").unet)
    adapter = write(public_state("faceid", widths, untrained.CONTEXT), tmp_path, "faceid", "sd15")
    Image.fromarray(astronaut).save(tmp_path / "photo.png")
    pack = shutil.copytree(face_pack, tmp_path / "buffalo_l")  # the file names w600k_r50: a pack of that name has it
    common = ["--base", str(base), "--adapter", str(adapter), "--reference", str(tmp_path / "photo.png"), "--prompt",
              "a person", "--steps", "2", "--size", "64x64", "--json"]  # fmt: skip
    pictures = {}
    for name, options in (("on", []), ("no lora", ["--lora", "0"]), ("off", ["--lora", "0", "--strength", "0"])):
        out = tmp_path / name
        assert main(["generate", *common, "--pack", str(pack), "--out", str(out), *options]) == 0
        report = json.loads(capsys.readouterr().out)
        with Image.open(report["pictures"][0]["file"]) as image:
            pictures[name] = np.asarray(image, int)
            assert ("FaceSnap lora: 0," in image.info["parameters"]) == ("--lora" in options)
    assert np.abs(pictures["on"] - pictures["no lora"]).mean() > 1
    assert np.abs(pictures["no lora"] - pictures["off"]).mean() > 1
    assert main(["generate", *common, "--pack", str(face_pack), "--out", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert "w600k_r50 (pack buffalo_l" in error and "--pack buffalo_l" in error
