"""How the networks, identities and checkpoints of this folder were made, with the code of commit a0dfb57."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from facesnap.attach.conditioning import Rule
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.checkpoints.convert import add_stage2
from facesnap.checkpoints.registry import load_adapter
from facesnap.cli import main
from facesnap.demo import untrained
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.identity import Identity, quality_weights
from facesnap.faces.stored_landmarks import StoredLandmarks
from facesnap.hosts.diffusers import DiffusersHost
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from facesnap.models.projections import IDProjections
from tests.checkpoints.test_instantid import identitynet
from tests.frozen import inputs
from tests.frozen.store import CHECKPOINTS, HERE, IDENTITIES, MODELS, PREPARED, freeze, freeze_folder, header_of, thaw
from tests.networks import redraw
from tests.pipelines import save_sdxl_pipeline

ROOT = HERE.parents[1]
PACK, COMPONENTS = ROOT / ".cache" / "face_pack", ROOT / ".cache" / "components"


def models(folder: Path) -> None:
    sd15 = untrained.save_pipeline(folder / "sd15")
    for name in ("vocab.json", "merges.txt"):
        (sd15 / name).unlink()
    freeze_folder(sd15, MODELS / "sd15")
    freeze_folder(save_sdxl_pipeline(sd15, folder / "sdxl"), MODELS / "sdxl")
    untrained.save_encoder(folder / "drawn.safetensors")
    freeze(folder / "drawn.safetensors", MODELS / "encoder.safetensors")
    encoder = ImageEncoder.load(thaw("encoder.safetensors", folder / "encoder.safetensors"))
    unet = DiffusersHost.load(sd15, device="cpu").unet
    names = {"recogniser": FaceAnalyser(PACK).recogniser, "encoder": encoder.fingerprint, "encoder_name": encoder.name}
    freeze(untrained.save_adapter(folder / "facesnap.safetensors", unet, **names), MODELS / "facesnap.safetensors")
    save_file(identitynet().state_dict(), folder / "net.safetensors")
    freeze(folder / "net.safetensors", MODELS / "identitynet.safetensors")


def converted(folder: Path) -> None:
    for family in inputs.PUBLIC:
        source = inputs.public_file(family, folder / family)
        out = folder / f"{family}.safetensors"
        more = ["--add-landmarks"] if family == "instantid" else []
        assert main(["convert", str(source), "--out", str(out), "--name", f"frozen {family}", *more]) == 0
        if family.startswith("faceid-plus"):  # any encoder will do
            header = header_of(out)
            values = json.loads(header["metadata"]["facesnap"]) | {"encoder_name": ""}
            tensors = {k: v[:, :64].contiguous() if v.shape[-1] == 80 else v for k, v in load_file(out).items()}
            save_file(tensors, out, {"facesnap": json.dumps(values, ensure_ascii=False, sort_keys=True)})
            freeze(out, MODELS / f"{family}.safetensors")
        else:
            freeze(out, MODELS / "converted" / f"{family}.safetensors")
    grown = add_stage2(load_adapter(folder / "faceid.safetensors"), queries=4, width=64, depth=1)
    native.save(
        dataclasses.replace(grown, spec=dataclasses.replace(grown.spec, name="grown")), folder / "g.safetensors"
    )
    freeze(folder / "g.safetensors", MODELS / "converted" / "faceid-stage2.safetensors")


def checkpoints() -> None:
    stage1 = Stage1Config(16, 32, 4, 64, 24, depth=1, inner=64, ff=64, shortcut=True)
    stage2 = Stage2Config(16, 64, 4, depth=1, inner=64, ff=64, context=64, groups=(("h", 64), ("x", 24)))
    mixer = redraw(FacialAttributeMixer(MixerConfig(stage1, stage2, levels=((1, 0), (2, 16)))), 5).eval().half()
    sites = {"input.1.1.0": 32, "middle.0.1.0": 64, "output.3.1.0": 64}
    projections = redraw(IDProjections(sites, {"id": False, "mix": True}, 64), 6).eval().half()
    spec = AdapterSpec("sd15", "ab" * 32, "w", "cd" * 32, "ViT", "raw", "zeros", True, rule=Rule.ORTHO_V2,
                       zero_tokens=8, strength=0.8, name="Größe 1", licence="CC0")  # fmt: skip
    native.save(Adapter(spec, mixer, projections), CHECKPOINTS / "small.safetensors")


def identities(folder: Path) -> None:
    inputs.photos(folder / "photos", COMPONENTS / "photos" / "obama.jpg")
    first, closer = (str(folder / "photos" / f"{name}.png") for name in ("astronaut", "closer"))
    encoder = thaw("encoder.safetensors", folder / "encoder.safetensors")
    pack = shutil.copytree(PACK, folder / "buffalo_l")
    make = ["identity", "make", "--pack", str(pack)]
    two = ["--encoder", str(encoder), "--levels", "-2", "1", "--name", "Zoë 名"]
    assert main([*make, first, closer, *two, "--out", str(IDENTITIES / "two-photos.safetensors")]) == 0
    assert main([*make, closer, "--keep-crops", "--out", str(IDENTITIES / "crops.safetensors")]) == 0
    face = FaceAnalyser(pack).face(Path(first))
    Identity.from_faces([face], name="bare").save(IDENTITIES / "bare.safetensors")
    g, rng = torch.Generator().manual_seed(3), np.random.default_rng(3)
    scores = np.array([0.75, 0.25], np.float32)
    vectors = rng.normal(size=(2, 512)).astype(np.float32) * np.float32(20)
    hidden = {level: torch.randn(2, 5, 64, generator=g).half() for level in (4, 8, 12, 16, 20)}
    classes = torch.nn.functional.normalize(torch.randn(2, 40, generator=g), dim=-1)
    five = StoredLandmarks(rng.uniform(50, 200, (2, 5, 2)).astype(np.float32), np.array([[512, 512], [300, 400]],
                           np.int32), np.array([0.05, 0.06], np.float32), "five", "detector.onnx")  # fmt: skip
    common = ("b" * 64, "antelopev2", vectors, quality_weights(scores), scores)
    Identity("pulid", *common, hidden, "c" * 64, "EVA02-CLIP-L-14-336", landmarks=five, class_vectors=classes,
             told="seen through an ellipse").save(IDENTITIES / "pulid.safetensors")  # fmt: skip


def prepared(folder: Path) -> None:
    from PIL import Image
    from skimage import data

    photo = folder / "people" / "Eileen" / "a.png"
    photo.parent.mkdir(parents=True)
    Image.fromarray(data.astronaut()[40:240, 130:330]).save(photo)
    photo.with_suffix(".txt").write_text("an astronaut\n", encoding="utf-8")
    (folder / "people" / "nobody").mkdir()
    Image.new("RGB", (200, 200), (90, 120, 200)).save(folder / "people" / "nobody" / "sky.png")
    base = inputs.thaw_folder("sd15", folder / "thawed")
    encoder = thaw("encoder.safetensors", folder / "encoder.safetensors")
    assert main(["prepare", str(folder / "people"), str(PREPARED), "--base", str(base), "--encoder", str(encoder),
                 "--size", "128", "--variants", "2", "--pack", str(PACK), "--workers", "1", "--device", "cpu",
                 "--levels", "-2", "1"]) == 0  # fmt: skip


if __name__ == "__main__":
    for part in sys.argv[1:] or ("models", "converted", "checkpoints", "identities", "prepared"):
        with tempfile.TemporaryDirectory() as temporary:
            {"models": models, "converted": converted, "checkpoints": lambda f: checkpoints(),
             "identities": identities, "prepared": prepared}[part](Path(temporary))  # fmt: skip
