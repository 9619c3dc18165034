"""The demo with the trained miniature: portraits of people it never saw, without and with FaceSnap, and posed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from facesnap.demo import shipped
from facesnap.demo.photo import astronaut
from facesnap.demo.shipped import Shipped
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import Sampling
from facesnap.settings.model import Person, Pose
from facesnap.sheet import contact_sheet
from facesnap.version import __version__

TRAINED = (
    "A miniature that was trained from scratch on synthetic people: a Stable Diffusion of 128 px, an image encoder "
    "and a FaceSnap adapter. None of the people here was seen in training; the numbers are cosines of the recogniser "
    "that the adapter is conditioned on, between reference and picture."
)
PROMPTS = {  # with the face that they ask for
    "a photo of a person with short brown hair, wearing a blue t-shirt, grey background, soft light, smiling, "
    "facing the camera": Pose("canvas", size=0.46, expression="smile:1"),
    "an oil painting of a person with long red hair, wearing a green hoodie, beige background, warm light, "
    "neutral face, facing the camera": Pose("canvas", size=0.46),
}
POSED = "a photo of a person with short brown hair, wearing a blue t-shirt, grey background, soft light"
POSES = {
    "turned to the right, smiling": Pose("canvas", yaw=25.0, size=0.46, expression="smile:1"),
    "turned to the left, open mouth": Pose("canvas", yaw=-25.0, size=0.46, expression="open_mouth:1"),
}
STEPS, CFG = 20, 3.0
ENLARGED = 2
Cell = tuple[Image.Image, str]


def run_trained(
    out: Path, analyser: FaceAnalyser, photo: Path | None = None, seed: int = 7, weights: Path = shipped.WEIGHTS
) -> dict[str, Any]:
    """Write pictures, contact_sheet.png and report.json into a folder; returns the report.

    Args:
        photo: of one further person, beside the shipped ones; where None, the astronaut's.
        weights: folder of `facesnap tiny ship`.

    Raises:
        IdentityMismatchError: the analyser's recogniser is not the one that the weights were trained with.
    """
    out.mkdir(parents=True, exist_ok=True)
    miniature = shipped.load(analyser, weights)
    photo = photo or astronaut(out)
    people = {**miniature.people, photo.stem: photo}
    rows: list[list[Cell]] = []
    entries: list[dict[str, Any]] = []
    began = time.perf_counter()
    # All of them first: a photo without a face is reported before minutes are spent on the others.
    identities = {name: miniature.pipeline.identity([file], name=name) for name, file in people.items()}
    for number, (name, file) in enumerate(people.items()):
        identity = identities[name]
        made = [_one(out, miniature, identity, seed + number, *wanted) for wanted in _wanted(miniature)]
        with Image.open(file) as reference:
            rows.append([(_shown(reference), f"reference: {name}"), *(cell for cell, _ in made)])
        entries += [entry for _, entry in made]
    report = {
        "facesnap": __version__, "note": TRAINED, "people": list(people),
        "seconds": round(time.perf_counter() - began, 1), "pictures": entries,
        "similarity": {kind: _mean(entries, kind) for kind in dict.fromkeys(e["kind"] for e in entries)},
    }  # fmt: skip
    contact_sheet(rows, title=f"FaceSnap {__version__} demo\n{TRAINED}").save(out / "contact_sheet.png")
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def _wanted(miniature: Shipped) -> list[tuple[str, str, str, Person]]:
    """(kind, file name, prompt, settings) of each picture of a person."""
    structure = None if miniature.pipeline.adapter.ffrnet is not None else 0.0
    nothing = Person(strength=0.0, structure=0.0)
    wanted = []
    for n, (prompt, front) in enumerate(PROMPTS.items(), 1):
        something = Person(structure=structure, pose=front)
        wanted += [("without", f"prompt{n}_without", prompt, nothing), ("with", f"prompt{n}_with", prompt, something)]
    if structure is None:
        for n, (name, pose) in enumerate(POSES.items(), 1):
            wanted.append((f"posed: {name}", f"pose{n}", POSED, Person(pose=pose)))
    return wanted


def _one(
    out: Path, miniature: Shipped, who: Identity, seed: int, kind: str, stem: str, prompt: str, person: Person
) -> tuple[Cell, dict[str, Any]]:
    sampling = Sampling(prompt, seed=seed, steps=STEPS, cfg=CFG, size=(miniature.size, miniature.size))
    portrait = miniature.pipeline.generate(miniature.host, sampling, [(who, person)])[0]
    file = out / f"{who.name}_{stem}.png"
    portrait.save(file)
    found = portrait.similarity[0]
    likeness = "no face found" if found is None else f"similarity {found:.2f}"
    entry = {"file": file.name, "person": who.name, "kind": kind, "prompt": prompt, "similarity": found}
    label = "without FaceSnap" if kind == "without" else "with FaceSnap" if kind == "with" else kind
    return (_shown(portrait.image), f"{label}: {likeness}"), entry


def _shown(picture: Image.Image) -> Image.Image:
    """Enlarged where it is small, so that a cell of the sheet is filled."""
    picture = picture.convert("RGB")
    return picture if max(picture.size) >= 256 else ImageOps.scale(picture, ENLARGED, Image.Resampling.LANCZOS)


def _mean(entries: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    known = [entry["similarity"] for entry in entries if entry["kind"] == kind and entry["similarity"] is not None]
    count = sum(entry["kind"] == kind for entry in entries)
    return {"mean": round(sum(known) / len(known), 4) if known else None, "found": len(known), "of": count}
