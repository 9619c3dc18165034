"""`facesnap generate`: photos and a Stable Diffusion model in, pictures with the person in them out."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from facesnap.attach import Speed
from facesnap.checkpoints.adapter import Adapter
from facesnap.cli.landmarks import add_pose_arguments, pose_of
from facesnap.cli.options import add_choose_argument, add_pack_arguments, analyser_from
from facesnap.errors import SettingsError
from facesnap.faces.encoder_files import find_encoder
from facesnap.faces.identity import Identity
from facesnap.faces.picture import read_picture
from facesnap.faces.tower import load_encoder
from facesnap.families.pulid import MODES
from facesnap.families.registry import FAMILIES, load_adapter
from facesnap.hosts.diffusers import SAMPLERS, DiffusersHost, Sampling
from facesnap.pipeline.infotext import infotext, save_png
from facesnap.pipeline.person import PersonSettings
from facesnap.pipeline.pipeline import FaceSnapPipeline, Portrait
from facesnap.pipeline.shape import REFERENCE, PoseSettings, Shape
from facesnap.sheet import contact_sheet

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
logger = logging.getLogger("facesnap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--base", required=True, type=Path, help="diffusers folder or single-file checkpoint")
    model.add_argument("--adapter", required=True, type=Path, help="FaceSnap checkpoint or public adapter")
    model.add_argument("--family", choices=FAMILIES, help="of the adapter, where tensors and name leave a choice")
    model.add_argument(
        "--encoder", help="CLIP image encoder: file, folder, or vit-h, vit-bigg, vit-l, eva02-clip-l-14-336 (PuLID)"
    )
    model.add_argument(
        "--config", type=Path, help="diffusers folder with the configuration of a single-file checkpoint"
    )
    model.add_argument("--device", help="cuda where there is one, else cpu")
    model.add_argument("--dtype", choices=DTYPES, help="float16 on cuda, else float32")
    model.add_argument("--offload", choices=("none", "model", "sequential"), default="none", help="for small cards")
    person = parser.add_argument_group("person")
    who = person.add_mutually_exclusive_group(required=True)
    who.add_argument("--reference", nargs="+", type=Path, metavar="PHOTO", help="one or several photos of the person")
    who.add_argument("--identity", type=Path, metavar="FILE", help="identity saved by `facesnap identity make`")
    add_pack_arguments(person)
    add_choose_argument(person)
    person.add_argument("--score", action="store_true", help="measure the results' similarity to an --identity too")
    person.add_argument("--strength", type=float, help="of the ID tokens, 0 to 10 (the adapter's suggestion)")
    person.add_argument("--s-struct", type=float, default=1.0, help="of the CLIP branch, 0 to 5 (PlusV2 form only)")
    person.add_argument("--window", type=_window, default=(0.0, 1.0), metavar="A-B", help="part of the sampling, 0-1")
    person.add_argument("--block-strength", type=_block, action="append", default=[], metavar="BLOCK=W",
                        help="factor for sites below BLOCK (input.4, middle, output.3.1.0)")  # fmt: skip
    person.add_argument("--lora", type=float, default=1.0, help="strength of the LoRA inside a FaceID file, 0 to 10")
    person.add_argument("--lora-in-region", action="store_true", help="that LoRA changes the region only")
    person.add_argument("--pulid-mode", choices=MODES, help="style leaves more of the prompt's style (fidelity)")
    person.add_argument("--match-model-card", action="store_true",
                        help="follow the official example where it differs (see `facesnap inspect`)")  # fmt: skip
    person.add_argument("--region", type=Path, help="grey picture: where the person is, white is everywhere")
    structure = parser.add_argument_group("structure", "the face's shape through FFRNet, where the adapter brings one")
    structure.add_argument("--structure", type=float, metavar="W", help="0 (off) to 10 (the adapter's suggestion)")
    structure.add_argument(
        "--structure-window", type=_window, default=(0.0, 1.0), metavar="A-B", help="part of the sampling, 0-1"
    )
    structure.add_argument(
        "--driver", type=Path, metavar="PHOTO", help="photo whose largest face gives pose and expression"
    )
    structure.add_argument("--speed", choices=[s.value for s in Speed], default=Speed.BALANCED.value,
                           help="exact: every row, every step; fast: only around the face (%(default)s)")  # fmt: skip
    add_pose_arguments(parser)
    picture = parser.add_argument_group("picture")
    picture.add_argument("--prompt", required=True)
    picture.add_argument("--negative", default="", metavar="PROMPT")
    picture.add_argument("--sampler", choices=SAMPLERS, default="DPM++ 2M")
    picture.add_argument("--steps", type=int, default=30)
    picture.add_argument("--cfg", type=float, default=7.0)
    picture.add_argument("--seed", type=int, default=0)
    picture.add_argument("--size", type=_size, metavar="WxH", help="512x512 for SD1.5, 1024x1024 for SDXL")
    picture.add_argument("--count", type=int, default=1, help="pictures in all")
    picture.add_argument("--batch", type=int, default=1, help="pictures at a time")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print a report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    adapter = load_adapter(args.adapter, args.family)
    pose = _pose(args)
    _check_structure(args, adapter)
    host = DiffusersHost.load(
        args.base,
        device=args.device,
        dtype=DTYPES[args.dtype] if args.dtype else None,
        config=args.config,
        offload=args.offload,
    )
    adapter.check_unet(host.topology)  # before the slow part
    encoder = load_encoder(find_encoder(args.encoder, args.model_dir), args.model_dir) if args.encoder else None
    pipeline = FaceSnapPipeline(adapter, analyser_from(args) if sees_faces(args) else None, encoder)
    if args.identity:
        identity = Identity.load(args.identity)
    else:
        name = args.reference[0].stem
        identity = pipeline.identity(args.reference, args.choose, name, match_model_card=args.match_model_card)
    settings = PersonSettings(
        strength=args.strength,
        s_struct=args.s_struct,
        start=args.window[0],
        end=args.window[1],
        block_strengths=dict(args.block_strength),
        region=_region(args.region) if args.region else None,
        lora=args.lora,
        lora_in_region=args.lora_in_region,
        pulid_mode=args.pulid_mode,
        match_model_card=args.match_model_card,
        structure=args.structure,
        structure_start=args.structure_window[0],
        structure_end=args.structure_window[1],
        pose=pose,
    )
    report = make_pictures(args, host, pipeline, identity, settings)
    print(json.dumps(report, indent=1, ensure_ascii=False) if args.json else f"{report['sheet']}")
    return 0


def sees_faces(args: argparse.Namespace) -> bool:
    """Whether a face-analysis pack is needed; a saved identity alone needs none."""
    return bool(args.reference or args.driver or args.score)


def make_pictures(
    args: argparse.Namespace,
    host: DiffusersHost,
    pipeline: FaceSnapPipeline,
    identity: Identity,
    settings: PersonSettings,
) -> dict[str, object]:
    """Sample batch after batch; write PNGs, the contact sheet, and return the report."""
    size = args.size or ((512, 512) if host.topology.base == "sd15" else (1024, 1024))
    files: list[dict[str, object]] = []
    portraits: list[Portrait] = []
    speed = Speed(args.speed)
    shape = pipeline.shape(identity, settings, size)
    args.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, args.count, args.batch):
        sampling = Sampling(
            args.prompt, args.negative, args.sampler, args.steps, args.cfg, args.seed + first, size,
            min(args.batch, args.count - first),
        )  # fmt: skip
        label = f"{first + 1}-{first + sampling.count} of {args.count}"
        with tqdm(total=sampling.steps, desc=f"sampling {label}", unit="step") as bar:
            made = pipeline.generate(host, sampling, [(identity, settings)], _advance(bar), speed)
        for portrait in made:
            path = args.out / f"{portrait.seed:010d}.png"
            text = infotext(sampling, host.name, pipeline.adapter, [(identity, settings)], portrait, speed)
            save_png(portrait.image, path, text)
            files.append({"file": str(path), "seed": portrait.seed, "similarity": portrait.similarity[0]})
        portraits += made
    sheet = args.out / "contact_sheet.png"
    _sheet(args, pipeline.adapter, identity, portraits, shape).save(sheet)
    report = {"identity": identity.name, "references": identity.references, "pictures": files, "sheet": str(sheet)}
    if identity.preparation:
        report["encoder pictures"] = identity.preparation
    if shape is not None:
        report["structure"] = _save_landmarks(args, shape)
    return report


def _save_landmarks(args: argparse.Namespace, shape: Shape) -> dict[str, object]:
    """Write the landmark picture beside the results; returns what the report says of it."""
    file = args.out / "landmarks.png"
    shape.picture().save(file)
    box = [round(side, 4) for side in shape.landmarks.box]
    return {"landmarks": str(file), "box": box, "speed": args.speed, "doubts": list(shape.doubts)}


def _sheet(
    args: argparse.Namespace, adapter: Adapter, identity: Identity, portraits: list[Portrait], shape: Shape | None
) -> Image.Image:
    """References, driver and landmark picture, then the results; five in a row."""
    cells = [(Image.fromarray(read_picture(photo)), f"reference\n{photo.name}") for photo in (args.reference or [])[:4]]
    if shape is not None:
        if args.driver:
            cells.append((Image.fromarray(read_picture(args.driver)), f"driver\n{args.driver.name}"))
        cells.append((shape.picture(), "landmarks: the reference's shape\nin the pose asked for"))
    for portrait in portraits:
        score = portrait.similarity[0]
        unknown = "no face in the picture" if sees_faces(args) else "similarity not measured"
        text = unknown if score is None else f"similarity {score:.2f}"
        cells.append((portrait.image, f"seed {portrait.seed}\n{text}"))
    rows = [cells[i : i + 5] for i in range(0, len(cells), 5)]
    title = f"{args.prompt}\n{identity.name}, adapter {adapter.spec.name or args.adapter.name}, base {args.base.name}"
    return contact_sheet(rows, title=title)


def _pose(args: argparse.Namespace) -> PoseSettings | None:
    """None, the reference's own pose, unless something was asked for; numbers alone are of a frontal face."""
    numbers = pose_of(args)
    asked = args.driver is not None or not numbers.empty
    if not asked and args.framing == PoseSettings().framing and args.expression_gain == PoseSettings().expression_gain:
        return None
    driver = args.driver or (None if asked else REFERENCE)
    return PoseSettings(driver, numbers, args.framing, args.expression_gain)


def _check_structure(args: argparse.Namespace, adapter: Adapter) -> None:
    """Raise SettingsError where something is asked of FFRNet and the adapter brings none."""
    plain = PoseSettings()
    asked = {
        "--structure": bool(args.structure),
        "--structure-window": args.structure_window != (0.0, 1.0),
        "--speed": args.speed != Speed.BALANCED.value,
        "--driver": args.driver is not None,
        "--framing": args.framing != plain.framing,
        "--expression-gain": args.expression_gain != plain.expression_gain,
    }
    numbers = ("yaw", "pitch", "roll", "position", "face_size", "expression")
    asked |= {f"--{name.replace('_', '-')}": getattr(args, name) is not None for name in numbers}
    given = [option for option, is_given in asked.items() if is_given]
    if adapter.ffrnet is None and given:
        raise SettingsError(
            f"{', '.join(given)} was given, but {args.adapter.name} brings no FFRNet.",
            expected="an adapter with an FFRNet, which gives the face's shape",
            remedy="choose another --adapter, or leave these options out",
        )


def _advance(bar: tqdm) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        bar.total = total  # second-order samplers take more steps than asked for
        bar.update(done - bar.n)

    return on_step


def _window(text: str) -> tuple[float, float]:
    start, _, end = text.partition("-")
    try:
        return float(start), float(end)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no window such as 0-0.8") from error


def _block(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no block strength such as output.3=0.5") from error


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512x768") from error


def _region(path: Path) -> torch.Tensor:
    """A mask file as a map (H, W), 0..1."""
    grey = np.asarray(Image.fromarray(read_picture(path)).convert("L"), dtype=np.float32) / 255
    if not grey.any():
        raise SettingsError(
            f"The region {path.name} is black everywhere.",
            expected="white where the person is to be",
            remedy="give another mask, or none",
        )
    return torch.from_numpy(grey)
