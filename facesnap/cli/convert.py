"""`facesnap convert`: public adapters in, one FaceSnap checkpoint out that does the same and can be trained on."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from facesnap.checkpoints import native
from facesnap.checkpoints.convert import add_landmark_hint, add_stage2, default_name, with_structure
from facesnap.cli.inspect import describe
from facesnap.errors import SettingsError
from facesnap.families.registry import FAMILIES, find, load_adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="public adapter, or a FaceSnap checkpoint")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    parser.add_argument("--structure", type=Path, metavar="CONTROLNET",
                        help="ControlNet that becomes its FFRNet (InstantID's is found by itself)")  # fmt: skip
    parser.add_argument("--picture", choices=("landmarks", "five_points"),
                        help="what that ControlNet looks at (five_points for InstantID, else landmarks)")  # fmt: skip
    parser.add_argument("--family", choices=FAMILIES, help="where tensors and name leave a choice")
    parser.add_argument("--add-stage2", action="store_true", help="a fresh stage 2 behind gates of 0, to train")
    parser.add_argument("--add-landmarks", action="store_true",
                        help="a fresh landmark hint beside the five-point one, to train")  # fmt: skip
    parser.add_argument("--no-lora", action="store_true", help="leave the LoRA of a FaceID file out")
    parser.add_argument("--name", help="shown to people")
    parser.add_argument("--json", action="store_true", help="print a report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    if args.out.suffix.lower() != ".safetensors" or args.out.exists():
        raise _no_place(args.out, "is there already, and is kept" if args.out.exists() else "ends otherwise")
    adapter = load_adapter(args.source, args.family)
    if args.structure:
        family = find(adapter.spec.family)
        picture, strength = args.picture or family.picture, family.structure
        adapter = with_structure(adapter, args.structure, picture=picture, strength=strength)
    if args.add_stage2:
        adapter = add_stage2(adapter)
    if args.add_landmarks:
        adapter = add_landmark_hint(adapter)
    if args.no_lora:
        adapter = dataclasses.replace(adapter, lora=None)
    spec = dataclasses.replace(adapter.spec, name=args.name or default_name(args.source, args.structure))
    try:
        native.save(dataclasses.replace(adapter, spec=spec), args.out)
    except OSError as error:
        raise _no_place(args.out, f"cannot be written ({error})") from error
    report = {"file": str(args.out)} | describe(native.load(args.out))
    print(json.dumps(report, indent=1, ensure_ascii=False) if args.json else args.out)
    return 0


def _no_place(out: Path, why: str) -> SettingsError:
    return SettingsError(
        f"The checkpoint cannot go to {out}: it {why}.",
        expected="a new file that ends in .safetensors, in a folder with room for it that you may write to",
        remedy="give another --out",
    )
