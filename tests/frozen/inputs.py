"""Small models, adapters, encoders and photos on disk, always the same, made without the package itself.

Networks come from frozen names and shapes (`store.thaw`) or from `tests.public_files`; nothing is downloaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests import eva
from tests.frozen.store import IDENTITIES, thaw, thaw_folder
from tests.public_files import public_state, write

CONTEXT = {"sd15": 64, "sdxl": 128}
# Of the cross-attentions, in the order of public files.
WIDTHS = {
    "sd15": [32, 32, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 32, 32, 32, 64],
    "sdxl": [64] * 4 + [128] * 6 + [128] * 9 + [64] * 6 + [128] * 3,
}
PUBLIC = {
    "faceid": "sd15", "faceid-plus": "sd15", "faceid-plusv2": "sd15", "portrait": "sd15", "portrait-unnorm": "sd15",
    "instantid": "sdxl", "pulid-v1": "sdxl", "pulid-v1.1": "sdxl",
}  # fmt: skip
FAMILIES = ("facesnap", *PUBLIC)


def public_file(family: str, folder: Path) -> Path:
    """An adapter of a public family as it is published; InstantID with its IdentityNet."""
    folder.mkdir(parents=True, exist_ok=True)
    base = PUBLIC[family]
    file = write(public_state(family, WIDTHS[base], CONTEXT[base]), folder, family, base)
    if family == "instantid":
        file = file.rename(folder / "ip-adapter.bin")
        thaw("identitynet.safetensors", folder / "ControlNetModel" / "diffusion_pytorch_model.safetensors")
    return file


def photos(folder: Path, driver: Path) -> None:
    """Two photos of one person, one of another, and a mask."""
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    astronaut = data.astronaut()
    Image.fromarray(astronaut).save(folder / "astronaut.png")
    Image.fromarray(astronaut[:300, 100:400]).save(folder / "closer.png")
    with Image.open(driver) as image:
        image.convert("RGB").reduce(2).save(folder / "driver.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def build(folder: Path, face_pack: Path, components: Path) -> Path:
    """Write everything that `runs` needs.

    Args:
        face_pack: a real face-analysis pack. components: folder with the real photos of the tests.
    """
    photos(folder / "photos", components / "photos" / "obama.jpg")
    for base in ("sd15", "sdxl"):
        thaw_folder(base, folder / base)
    for pack in ("buffalo_l", "antelopev2"):  # public files name their recogniser; a pack of that name has it
        shutil.copytree(face_pack, folder / "packs" / pack)
    thaw("encoder.safetensors", folder / "encoder.safetensors")
    thaw("facesnap.safetensors", folder / "facesnap.safetensors")
    for family in ("faceid-plus", "faceid-plusv2"):  # converted: a public file wants an encoder of 632 M numbers
        thaw(f"{family}.safetensors", folder / f"{family}.safetensors")
    torch.save(eva.official(eva.tower_state()), folder / "EVA02_CLIP_L_336_psz14_s6B.pt")
    for family in PUBLIC:
        if not family.startswith("faceid-plus"):
            public_file(family, folder / "public" / family)
    return folder


def runs(folder: Path, out: Path) -> dict[str, list[str]]:
    """Arguments of `facesnap` by name: the families' own names first, then other settings.

    Args:
        folder: what `build` wrote. out: where the pictures go, a folder for each.
    """
    first, both = ["closer"], ["closer", "astronaut"]
    encoder = ["--encoder", str(folder / "encoder.safetensors")]
    tower = ["--encoder", str(folder / "EVA02_CLIP_L_336_psz14_s6B.pt")]
    driver, mask = ([f"--{name}", str(folder / "photos" / f"{file}.png")] for name, file in
                    (("driver", "driver"), ("region", "mask")))  # fmt: skip
    posed = [
        *driver, "--yaw", "20", "--pitch", "-5", "--roll", "10", "--position", "0.5,0.4", "--face-size", "0.5",
        "--expression", "smile:0.8+wink_left", "--expression-gain", "0.7", "--framing", "true size", "--structure",
        "0.6", "--structure-window", "0.1-0.9", "--speed", "exact", "--strength", "0.7", "--window", "0.1-0.8",
        "--s-struct", "0.5", "--block-strength", "middle=0.5", "--block-strength", "output.3=0.8", "--negative",
        "blurred, dark", "--sampler", "Heun",
    ]  # fmt: skip
    who = {name: ["--reference", *(str(folder / "photos" / f"{one}.png") for one in names)]
           for name, names in (("first", first), ("both", both))}  # fmt: skip
    saved = ["--identity", str(IDENTITIES / "two-photos.safetensors")]
    plans: dict[str, tuple[str, list[str]]] = {
        "facesnap": ("facesnap", [*who["both"], *encoder]),
        "faceid": ("faceid", who["first"]),
        "faceid-plus": ("faceid-plus", [*who["first"], *encoder]),
        "faceid-plusv2": ("faceid-plusv2", [*who["first"], *encoder]),
        "portrait": ("portrait", who["both"]),
        "portrait-unnorm": ("portrait-unnorm", who["first"]),
        "instantid": ("instantid", who["first"]),
        "pulid-v1": ("pulid-v1", [*who["both"], *tower]),
        "pulid-v1.1": ("pulid-v1.1", [*who["first"], *tower]),
        "facesnap-posed": ("facesnap", [*who["first"], *encoder, *posed]),
        "facesnap-saved": ("facesnap", [*saved, *encoder, "--yaw", "-30", "--speed", "fast", *mask]),
        "facesnap-off": ("facesnap", [*saved, *encoder, "--strength", "0", "--structure", "0", "--seed", "6"]),
        "faceid-lora": ("faceid", [*who["first"], "--lora", "0.4", "--lora-in-region", *mask, "--match-model-card"]),
        "pulid-v1.1-style": ("pulid-v1.1", [*who["both"], *tower, "--pulid-mode", "style", "--match-model-card"]),
    }
    found = {}
    for name, (family, more) in plans.items():
        base = PUBLIC.get(family, "sd15")
        pack = folder / "packs" / ("buffalo_l" if base == "sd15" else "antelopev2")
        public = folder / "public" / family
        adapter = next(public.glob("*.bin")) if public.is_dir() else folder / f"{family}.safetensors"
        seed = [] if "--seed" in more else ["--seed", "5"]
        found[name] = [
            "generate", "--base", str(folder / base), "--adapter", str(adapter), "--pack", str(pack), "--device",
            "cpu", "--prompt", "a person in oil", "--steps", "2", "--cfg", "4", "--size", "64x64", *seed, "--out",
            str(out / name), "--json", *more,
        ]  # fmt: skip
    return found


def picture(out: Path, name: str) -> Path:
    """The one picture that a run wrote."""
    (file,) = (out / name).glob("0*.png")
    return file
