"""`facesnap bench`: measurements that anyone can repeat."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    attach = subjects.add_parser("attach", help="cost and exactness of ID tokens on an SD1.5-shaped UNet")
    attach.set_defaults(measure=_attach)
    ffrnet = subjects.add_parser("ffrnet", help="cost of FFRNet's speed settings, and what they change")
    ffrnet.add_argument("--steps", type=int, default=30, help="of the schedule (%(default)s)")
    ffrnet.add_argument(
        "--diff-channels", type=int, default=64, help="of the smaller UNet for differences (%(default)s)"
    )
    ffrnet.set_defaults(measure=_ffrnet)
    for unet in (attach, ffrnet):
        unet.add_argument("--rounds", type=int, default=10)
        unet.add_argument("--latent", type=int, default=32, help="side of the latent: 64 is a picture of 512 pixels")
        unet.add_argument("--channels", type=int, default=320, help="of the first level; smaller for a quick look")
        unet.add_argument("--device", default="cpu")
        unet.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    landmarks = subjects.add_parser("landmarks", help="speed and truth of the Landmark Predictor")
    landmarks.add_argument("--pack", type=Path, help="face-analysis pack folder, for the part on photos")
    landmarks.add_argument("--orl", type=Path, metavar="DIR", help="ORL faces, s1/1.pgm to s40/10.pgm")
    landmarks.add_argument("--basis", type=Path, metavar="FILE", help="another face basis than the built-in one")
    landmarks.add_argument("--trials", type=int, default=120, help="for each noise level (%(default)s)")
    landmarks.set_defaults(measure=_landmarks)
    for subject in subjects.choices.values():
        subject.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")


def run(args: argparse.Namespace) -> int:
    report = args.measure(args)
    if args.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key}: {value}")
    return 0


def _attach(args: argparse.Namespace) -> dict[str, object]:
    from facesnap.bench import attach

    return attach.run(**_unet_options(args))


def _ffrnet(args: argparse.Namespace) -> dict[str, object]:
    from facesnap.bench import ffrnet

    return ffrnet.run(**_unet_options(args), steps=args.steps, diff_channels=args.diff_channels)


def _unet_options(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {"count": args.rounds, "latent": args.latent, "channels": args.channels, "device": args.device,
            "dtype": getattr(torch, args.dtype)}  # fmt: skip


def _landmarks(args: argparse.Namespace) -> dict[str, object]:
    from facesnap.bench import landmarks

    return landmarks.run(pack=args.pack, orl_folder=args.orl, basis=args.basis, trials=args.trials)
