"""`facesnap generate`: photos and a Stable Diffusion model in, pictures with the person in them out."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from facesnap.checkpoints.adapter import Adapter
from facesnap.cli.landmarks import add_pose_arguments
from facesnap.cli.options import (
    add_choose_argument,
    add_encoder_argument,
    add_pack_arguments,
    analyser_from,
    encoder_from,
    picture_size,
)
from facesnap.errors import SettingsError
from facesnap.faces.identity import AnalysedIdentity, Identity
from facesnap.faces.picture import read_picture
from facesnap.families.registry import FAMILIES, load_adapter
from facesnap.files import check_folder
from facesnap.hosts.diffusers import SAMPLERS, DiffusersHost, Sampling
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.pipeline.portrait import Portrait
from facesnap.pipeline.shape import Shape
from facesnap.pipeline.usable import usable
from facesnap.settings import arguments
from facesnap.settings.model import PERSON, POSE, SETTINGS, Person, Settings
from facesnap.settings.sampling import counted, first_seed
from facesnap.sheet import contact_sheet

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_STRUCTURE = ("structure", "structure_start", "structure_end")
logger = logging.getLogger("facesnap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--base", required=True, type=Path, help="diffusers folder or single-file checkpoint")
    model.add_argument("--adapter", required=True, type=Path, help="FaceSnap checkpoint or public adapter")
    model.add_argument("--family", choices=FAMILIES, help="of the adapter, where tensors and name leave a choice")
    add_encoder_argument(model)
    model.add_argument(
        "--config", type=Path, help="diffusers folder with the configuration of a single-file checkpoint"
    )
    model.add_argument("--device", help="cuda where there is one, else cpu")
    model.add_argument("--dtype", choices=DTYPES, help="float16 on cuda, else float32")
    model.add_argument("--offload", choices=("none", "model", "sequential"), default="none", help="for small cards")
    person = parser.add_argument_group("person")
    who = person.add_mutually_exclusive_group(required=True)
    arguments.add(who, PERSON, ["references", "identity"])
    add_pack_arguments(person)
    add_choose_argument(person)
    person.add_argument("--score", action="store_true", help="measure the results' similarity to an --identity too")
    arguments.add(person, SETTINGS, ["preset"])
    elsewhere = ("references", "identity", "face", *_STRUCTURE)
    arguments.add(person, PERSON, [name for name, field in PERSON.items() if field.option and name not in elsewhere])
    arguments.add(person, SETTINGS, ["pulid_mode", "model_card", "strict"])
    structure = parser.add_argument_group("structure", "the face's shape through FFRNet, where the adapter brings one")
    arguments.add(structure, PERSON, _STRUCTURE)
    arguments.add(structure, POSE, ["image"])
    arguments.add(structure, SETTINGS, ["speed"])
    add_pose_arguments(parser)
    picture = parser.add_argument_group("picture")
    picture.add_argument("--prompt", required=True)
    picture.add_argument("--negative", default="", metavar="PROMPT")
    picture.add_argument("--sampler", choices=SAMPLERS, default="DPM++ 2M")
    picture.add_argument("--steps", type=int, default=30)
    picture.add_argument("--cfg", type=float, default=7.0)
    picture.add_argument("--seed", type=int, default=0, help="of the first picture; -1 is a random one (%(default)s)")
    picture.add_argument("--size", type=picture_size, metavar="WxH", help="512x512 for SD1.5, 1024x1024 for SDXL")
    picture.add_argument("--count", type=int, default=1, help="pictures in all")
    picture.add_argument("--batch", type=int, default=1, help="pictures at a time")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print a report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    asked = arguments.settings(args)
    _check_run(args)
    adapter = load_adapter(args.adapter, args.family)
    settings, notes = usable(asked, adapter)
    for note in notes:
        logger.warning("%s", note)
    person = _decoded(settings.people[0])
    settings = replace(settings, people=(person,))
    host = DiffusersHost.load(
        args.base,
        device=args.device,
        dtype=DTYPES[args.dtype] if args.dtype else None,
        config=args.config,
        offload=args.offload,
    )
    adapter.check_unet(host.topology)  # before the slow part
    analyser = analyser_from(args) if sees_faces(args, person) else None
    pipeline = FaceSnapPipeline(adapter, analyser, encoder_from(args))
    if args.identity:
        known = AnalysedIdentity(Identity.load(args.identity))
    else:
        names = [str(photo) for photo in args.reference]
        name = args.reference[0].stem
        known = pipeline.analyse(person.references, person.face, name, names, settings.model_card)
    doubts = known.doubts
    for text in [*doubts, *person.empty_windows(adapter.ffrnet is not None)]:
        logger.warning("%s", text)
    report = make_pictures(args, host, pipeline, known.identity, settings) | {"warnings": doubts}
    print(json.dumps(report, indent=1, ensure_ascii=False) if args.json else f"{report['sheet']}")
    return 0


def _check_run(args: argparse.Namespace) -> None:
    """Refuse what cannot be had before anything is loaded: counts, seeds, sampling, the folder. Draw a random seed."""
    counted(args.count, args.batch, ("--count", "--batch"))
    args.seed = first_seed(args.seed, args.count, "--seed")
    check_folder(args.out, "--out")
    Sampling(args.prompt, args.negative, args.sampler, args.steps, args.cfg, args.seed, args.size or (512, 512))


def _decoded(person: Person) -> Person:
    """The person with every picture as an array; the region as a grey one (H, W)."""
    pose = person.pose
    if pose.image is not None:
        pose = replace(pose, image=read_picture(pose.image))
    region = _region(person.region) if isinstance(person.region, Path) else person.region
    return replace(person, references=[read_picture(one) for one in person.references], region=region, pose=pose)


def sees_faces(args: argparse.Namespace, person: Person) -> bool:
    """Whether a face-analysis pack is needed; a saved identity alone needs none."""
    return bool(args.reference or args.score or person.pose.image is not None)


def make_pictures(
    args: argparse.Namespace,
    host: DiffusersHost,
    pipeline: FaceSnapPipeline,
    identity: Identity,
    settings: Settings,
) -> dict[str, object]:
    """Sample batch after batch; write PNGs, the contact sheet, and return the report."""
    size = args.size or ((512, 512) if host.topology.base == "sd15" else (1024, 1024))
    files: list[dict[str, object]] = []
    portraits: list[Portrait] = []
    person = settings.people[0]
    shape = pipeline.shape(identity, person, size)
    args.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, args.count, args.batch):
        sampling = Sampling(
            args.prompt, args.negative, args.sampler, args.steps, args.cfg, args.seed + first, size,
            min(args.batch, args.count - first),
        )  # fmt: skip
        label = f"{first + 1}-{first + sampling.count} of {args.count}"
        with tqdm(total=sampling.steps, desc=f"sampling {label}", unit="step") as bar:
            made = pipeline.generate(host, sampling, [(identity, person)], _advance(bar), settings)
        for portrait in made:
            path = args.out / f"{portrait.seed:010d}.png"
            portrait.save(path)
            files.append({"file": str(path), "seed": portrait.seed, "similarity": portrait.similarity[0]})
        portraits += made
    sheet = args.out / "contact_sheet.png"
    _sheet(args, pipeline.adapter, identity, person, portraits, shape).save(sheet)
    report = {"identity": identity.name, "references": identity.references, "pictures": files, "sheet": str(sheet)}
    if identity.preparation:
        report["encoder pictures"] = identity.preparation
    if shape is not None:
        file, box = args.out / "landmarks.png", [round(side, 4) for side in shape.landmarks.box]
        shape.picture().save(file)
        report["structure"] = {
            "landmarks": str(file), "box": box, "doubts": list(shape.doubts), "speed": settings.speed,
        }  # fmt: skip
    return report


def _sheet(
    args: argparse.Namespace,
    adapter: Adapter,
    identity: Identity,
    person: Person,
    portraits: list[Portrait],
    shape: Shape | None,
) -> Image.Image:
    """References, driver and landmark picture, then the results; five in a row."""
    photos = zip(person.references[:4], args.reference or [], strict=False)
    cells = [(Image.fromarray(pixels), f"reference\n{photo.name}") for pixels, photo in photos]
    if shape is not None:
        if person.pose.image is not None:
            cells.append((Image.fromarray(person.pose.image), f"driver\n{args.driver.name}"))
        cells.append((shape.picture(), "landmarks: the reference's shape\nin the pose asked for"))
    for portrait in portraits:
        score = portrait.similarity[0]
        unknown = "no face in the picture" if sees_faces(args, person) else "similarity not measured"
        text = unknown if score is None else f"similarity {score:.2f}"
        cells.append((portrait.image, f"seed {portrait.seed}\n{text}"))
    rows = [cells[i : i + 5] for i in range(0, len(cells), 5)]
    title = f"{args.prompt}\n{identity.name}, adapter {adapter.spec.name or args.adapter.name}, base {args.base.name}"
    return contact_sheet(rows, title=title)


def _advance(bar: tqdm) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        bar.total = total  # second-order samplers take more steps than asked for
        bar.update(done - bar.n)

    return on_step


def _region(path: Path) -> np.ndarray:
    """A mask file as grey (H, W), uint8."""
    grey = np.asarray(Image.fromarray(read_picture(path)).convert("L"))
    if not grey.any():
        raise SettingsError(
            f"The region {path.name} is black everywhere.",
            expected="white where the person is to be",
            remedy="give another mask, or none",
        )
    return grey
