"""`facesnap bench`: measurements that anyone can repeat."""

from __future__ import annotations

import argparse
import json

import torch

HELP = "measure speed, memory and error against reference implementations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    attach = subjects.add_parser("attach", help="cost and exactness of ID tokens on an SD1.5-shaped UNet")
    attach.add_argument("--rounds", type=int, default=10)
    attach.add_argument("--latent", type=int, default=32, help="side of the latent: 64 is a picture of 512 pixels")
    attach.add_argument("--channels", type=int, default=320, help="of the first level; smaller for a quick look")
    attach.add_argument("--device", default="cpu")
    attach.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    attach.set_defaults(measure=_attach)
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

    return attach.run(
        count=args.rounds,
        latent=args.latent,
        channels=args.channels,
        device=args.device,
        dtype=getattr(torch, args.dtype),
    )
