"""`facesnap demo --untrained`: photo -> face, identity, ID tokens, attached sampling, contact sheet and report.

It takes any face pack, and its pictures are noise: it shows that every part works, not what FaceSnap can do.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facesnap.checkpoints import native
from facesnap.demo import untrained
from facesnap.demo.photo import astronaut
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.model import Person, Pose
from facesnap.sheet import contact_sheet
from facesnap.version import __version__

UNTRAINED = (
    "The Stable Diffusion model, the image encoder and the adapter of this run are untrained (drawn from a seed): "
    "the pictures are noise by nature and cannot look like the person. What it shows is real all the same: the face "
    "is found, embedded and measured by real models, its ID tokens reach every cross-attention and change the picture, "
    "and its landmarks, in any pose, reach the UNet through FFRNet."
)
STRENGTHS = (0.0, 0.5, 1.0)
PROMPTS = ("portrait photo of a person", "oil painting of a person in a garden")
POSES = {
    "as in the photo": Pose(),
    "yaw 35, smile": Pose("canvas", yaw=35.0, expression="smile:1"),
    "yaw -25, pitch 15, open mouth": Pose("canvas", yaw=-25.0, pitch=15.0, expression="open_mouth:1"),
}
SIZE = (256, 256)


def run_untrained(out: Path, analyser: FaceAnalyser, photo: Path | None = None, seed: int = 7) -> dict[str, Any]:
    """Write pictures of a photo (else the astronaut's), contact_sheet.png and report.json; returns the report."""
    out.mkdir(parents=True, exist_ok=True)
    photo = photo or astronaut(out)
    host, pipeline = _models(out / "untrained_model", analyser)
    began = time.perf_counter()
    identity = pipeline.identity([photo], name=photo.stem)
    face = analyser.face(photo)
    analysed = time.perf_counter() - began
    rows, pictures = _pictures(out, host, pipeline, identity, seed)
    shape_row, shapes = _shapes(out, host, pipeline, identity, seed)
    before, after = _bare(host, seed), _bare(host, seed)
    keys = list(pipeline.conditioning(identity).cond.values())[-1]  # of the last site, (1, tokens, width) each
    report = {
        "facesnap": __version__,
        "note": UNTRAINED,
        "photo": photo.name,
        "face": {
            "box": face.box.round(1).tolist(), "score": round(face.score, 4), "found_by": face.found_by,
            "quality": round(face.quality.score, 3), "recogniser": face.recogniser, "provider": analyser.provider,
        },
        "identity": {"references": identity.references, "digest": identity.digest, "seconds": round(analysed, 3)},
        "tokens": {n: list(kv.k.shape) for n, kv in zip(pipeline.adapter.projections.groups, keys, strict=True)},
        "sites": len(host.topology.sites),
        "pictures": pictures,
        "landmarks": identity.landmarks and {"kind": identity.landmarks.kind, "model": identity.landmarks.model},
        "shapes": shapes,
        "unet_unchanged_afterwards": bool(np.array_equal(before, after)),
    }  # fmt: skip
    cells = [
        (Image.open(photo), "the reference photo"),
        (Image.fromarray(face.crop(224)), "its face as the models see it"),
    ]
    contact_sheet([cells, *rows, shape_row], title=f"FaceSnap {__version__} demo\n{UNTRAINED}").save(
        out / "contact_sheet.png"
    )
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def _models(folder: Path, analyser: FaceAnalyser) -> tuple[DiffusersHost, FaceSnapPipeline]:
    """Write the untrained miniature and load it again the way a user's own files are loaded."""
    host = DiffusersHost.load(untrained.save_pipeline(folder / "pipeline"), device="cpu")
    encoder = ImageEncoder.load(untrained.save_encoder(folder / "encoder.safetensors"))
    file = untrained.save_adapter(
        folder / "adapter.safetensors",
        host.unet,
        recogniser=analyser.recogniser,
        recogniser_name=analyser.pack.name,
        encoder=encoder.fingerprint,
        encoder_name=encoder.name,
    )
    return host, FaceSnapPipeline(native.load(file), analyser, encoder)


def _pictures(
    out: Path, host: DiffusersHost, pipeline: FaceSnapPipeline, identity: Identity, seed: int
) -> tuple[list[list[tuple[Image.Image, str]]], list[dict[str, Any]]]:
    """One row a prompt, one column a strength, the same seed everywhere."""
    rows, entries = [], []
    for n, prompt in enumerate(PROMPTS):
        row: list[tuple[Image.Image, str]] = []
        sampling = Sampling(prompt, seed=seed, steps=12, size=SIZE)
        for strength in STRENGTHS:
            people = [(identity, Person(strength=strength, structure=0.0))]
            began = time.perf_counter()
            portrait = pipeline.generate(host, sampling, people)[0]
            seconds = time.perf_counter() - began
            change = _mean_change(portrait.image, row[0][0] if row else portrait.image)
            path = out / f"prompt{n + 1}_strength{strength:.1f}.png"
            portrait.save(path)
            row.append((portrait.image, f"{prompt}\nstrength {strength}, mean change {change:.1f} of 255"))
            entries.append(
                {"file": path.name, "prompt": prompt, "strength": strength, "mean_change": round(change, 3),
                 "similarity": portrait.similarity[0], "seconds": round(seconds, 3)}
            )  # fmt: skip
        rows.append(row)
    return rows, entries


def _shapes(
    out: Path, host: DiffusersHost, pipeline: FaceSnapPipeline, identity: Identity, seed: int
) -> tuple[list[tuple[Image.Image, str]], list[dict[str, Any]]]:
    """The person's landmarks in a few poses, each beside the picture that FFRNet makes of it; the same seed."""
    row: list[tuple[Image.Image, str]] = []
    entries: list[dict[str, Any]] = []
    sampling = Sampling(PROMPTS[0], seed=seed, steps=6, size=SIZE)
    without = pipeline.generate(host, sampling, [(identity, Person(structure=0.0))])[0].image
    for n, (name, pose) in enumerate(POSES.items()):
        person = Person(pose=pose)
        shape = pipeline.shape(identity, person, SIZE)
        assert shape is not None  # the demo's adapter brings an FFRNet
        began = time.perf_counter()
        portrait = pipeline.generate(host, sampling, [(identity, person)])[0]
        seconds = time.perf_counter() - began
        landmarks, path = out / f"pose{n + 1}_landmarks.png", out / f"pose{n + 1}.png"
        shape.picture((512, 512)).save(landmarks)
        portrait.save(path)
        change = _mean_change(portrait.image, without)
        label = f"with FFRNet, mean change {change:.1f} of 255"
        row += [(Image.open(landmarks), f"landmarks: {name}"), (portrait.image, label)]
        entries.append(
            {"file": path.name, "landmarks": landmarks.name, "pose": name, "mean_change": round(change, 3),
             "box": [round(side, 4) for side in shape.landmarks.box], "doubts": list(shape.doubts),
             "seconds": round(seconds, 3)}
        )  # fmt: skip
    return row, entries


def _mean_change(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, dtype=np.float32) - np.asarray(b, dtype=np.float32)).mean())


def _bare(host: DiffusersHost, seed: int) -> np.ndarray:
    return np.asarray(host.sample(Sampling(PROMPTS[0], seed=seed, steps=4, size=(128, 128)), [])[0])
