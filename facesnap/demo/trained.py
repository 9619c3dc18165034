"""The demo with the trained miniature: portraits of people it never saw, without and with FaceSnap, and posed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from PIL import Image

from facesnap.demo.shipped import Shipped
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import Sampling
from facesnap.infotext import infotext, save_png
from facesnap.landmarks.recombination import PoseSpec
from facesnap.portrait import PersonSettings, Portrait
from facesnap.shape import PoseSettings
from facesnap.sheet import contact_sheet
from facesnap.version import __version__

TRAINED = (
    "A miniature that was trained from scratch on synthetic people: a Stable Diffusion of 128 px, an image encoder "
    "and a FaceSnap adapter. None of the people here was seen in training; the numbers are cosines of the recogniser "
    "that the adapter is conditioned on, between reference and picture."
)
PROMPTS = (
    "a photo of a person with short brown hair, wearing a blue t-shirt, grey background, soft light, smiling, "
    "facing the camera",
    "an oil painting of a person with long red hair, wearing a green hoodie, beige background, warm light, "
    "neutral face, facing the camera",
)
POSES = {
    "turned to the right, smiling": PoseSpec(yaw=25.0, size=0.36, expression="smile:1"),
    "turned to the left, open mouth": PoseSpec(yaw=-25.0, size=0.36, expression="open_mouth:1"),
}
STEPS, CFG = 20, 3.0
ENLARGED = 2
Cell = tuple[Image.Image, str]


def run_trained(out: Path, shipped: Shipped, photos: dict[str, Path], seed: int = 7) -> dict[str, Any]:
    """Write pictures, contact_sheet.png and report.json into a folder.

    Args:
        photos: name -> file of further people beside the shipped ones.

    Returns:
        The report.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[list[Cell]] = []
    entries: list[dict[str, Any]] = []
    began = time.perf_counter()
    for number, (name, file) in enumerate({**shipped.people, **photos}.items()):
        identity = shipped.studio.identity([file], name=name)
        made = [_one(out, shipped, identity, seed + number, *wanted) for wanted in _wanted(shipped)]
        with Image.open(file) as photo:
            rows.append([(_shown(photo), f"reference: {name}"), *(cell for cell, _ in made)])
        entries += [entry for _, entry in made]
    report = {
        "facesnap": __version__, "note": TRAINED, "people": list({**shipped.people, **photos}),
        "seconds": round(time.perf_counter() - began, 1), "pictures": entries,
        "similarity": {kind: _mean(entries, kind) for kind in dict.fromkeys(e["kind"] for e in entries)},
    }  # fmt: skip
    contact_sheet(rows, title=f"FaceSnap {__version__} demo\n{TRAINED}").save(out / "contact_sheet.png")
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def _wanted(shipped: Shipped) -> list[tuple[str, str, str, PersonSettings]]:
    """(kind, file name, prompt, settings) of each picture of a person."""
    structure = None if shipped.studio.adapter.ffrnet is not None else 0.0
    nothing, something = PersonSettings(strength=0.0, structure=0.0), PersonSettings(structure=structure)
    wanted = []
    for n, prompt in enumerate(PROMPTS, 1):
        wanted += [("without", f"prompt{n}_without", prompt, nothing), ("with", f"prompt{n}_with", prompt, something)]
    if structure is None:
        for n, (name, spec) in enumerate(POSES.items(), 1):
            pose = PersonSettings(pose=PoseSettings(None, spec))
            wanted.append((f"posed: {name}", f"pose{n}", PROMPTS[0].rsplit(", ", 2)[0], pose))
    return wanted


def _one(
    out: Path, shipped: Shipped, who: Identity, seed: int, kind: str, stem: str, prompt: str, settings: PersonSettings
) -> tuple[Cell, dict[str, Any]]:
    sampling = Sampling(prompt, seed=seed, steps=STEPS, cfg=CFG, size=(shipped.size, shipped.size))
    people = [(who, settings)]
    portrait: Portrait = shipped.studio.generate(shipped.host, sampling, people)[0]
    file = out / f"{who.name}_{stem}.png"
    save_png(portrait.image, file, infotext(sampling, shipped.host.name, shipped.studio.adapter, people, portrait))
    found = portrait.similarity[0]
    likeness = "no face found" if found is None else f"similarity {found:.2f}"
    entry = {"file": file.name, "person": who.name, "kind": kind, "prompt": prompt, "similarity": found}
    label = "without FaceSnap" if kind == "without" else "with FaceSnap" if kind == "with" else kind
    return (_shown(portrait.image), f"{label}: {likeness}"), entry


def _shown(picture: Image.Image) -> Image.Image:
    """Enlarged where it is small, so that a cell of the sheet is filled."""
    if max(picture.size) >= 256:
        return picture.convert("RGB")
    size = (picture.width * ENLARGED, picture.height * ENLARGED)
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _mean(entries: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    known = [entry["similarity"] for entry in entries if entry["kind"] == kind and entry["similarity"] is not None]
    count = sum(entry["kind"] == kind for entry in entries)
    return {"mean": round(sum(known) / len(known), 4) if known else None, "found": len(known), "of": count}
