"""`facesnap demo`: the main job on photos, with the trained miniature that the package ships, or an untrained one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from facesnap.cli.options import add_pack_arguments, analyser_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pack_arguments(parser)
    parser.add_argument("--photo", type=Path, help="another photo than the astronaut's portrait")
    parser.add_argument("--out", type=Path, default=Path("out") / "demo", metavar="DIR")
    parser.add_argument("--untrained", action="store_true",
                        help="an untrained model, with any pack: noise, but every part works")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from facesnap.demo.trained import run_trained
    from facesnap.demo.untrained_run import run_untrained

    report = (run_untrained if args.untrained else run_trained)(args.out, analyser_from(args), args.photo)
    print(f"{report['note']}\n")
    (_untrained if args.untrained else _trained)(report)
    print(f"contact sheet: {args.out / 'contact_sheet.png'}\nreport: {args.out / 'report.json'}")
    return 0


def _untrained(report: dict[str, Any]) -> None:
    print(f"face found in {report['photo']} ({report['face']['found_by']}), score {report['face']['score']}")
    for picture in report["pictures"]:
        print(f"  {picture['file']}: mean change {picture['mean_change']} of 255 at strength {picture['strength']}")
    print(f"UNet bit-identical afterwards: {report['unet_unchanged_afterwards']}")


def _trained(report: dict[str, Any]) -> None:
    for kind, found in report["similarity"].items():
        mean = "no face" if found["mean"] is None else f"{found['mean']:.3f}"
        print(f"  {kind}: mean similarity {mean}, faces found on {found['found']} of {found['of']} pictures")
    print(f"{len(report['pictures'])} pictures of {len(report['people'])} people in {report['seconds']} s")
