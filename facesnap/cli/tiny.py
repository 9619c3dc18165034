"""`facesnap tiny`: the tiny base, stage by stage."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from facesnap.cli.options import add_pack_arguments, analyser_from
from facesnap.remedies import command

STAGES = (
    "data", "outer", "inner", "autoencoder", "recogniser", "encoder", "unet", "landmarks", "attributes", "all", "ship"
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", choices=STAGES, help="all: one after another; ship: write the demo's weights")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="every stage goes on where it stopped")
    parser.add_argument("--people", type=int, default=2048, metavar="N", help="to train on (%(default)s)")
    parser.add_argument("--held-out", type=int, default=64, metavar="N", help="people to measure on (%(default)s)")
    parser.add_argument("--pictures", type=int, default=5, metavar="K", help="of each person (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that render (%(default)s)")
    parser.add_argument("--hours", type=float, default=math.inf, metavar="H", help="for each stage in this call")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the budget's; the same at every call")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the training (%(default)s)")
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE", help="ship: the adapter trained on the state's pipeline"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="ship: folder for the weights (the package's own)")
    add_pack_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from facesnap.tiny import stages

    if args.stage == "ship":
        return _ship(args)
    wanted = stages.STAGES if args.stage == "all" else (args.stage,)
    workspace = stages.Workspace(
        state=args.state, people=args.people, held_out=args.held_out, pictures=args.pictures, workers=args.workers,
        hours=args.hours, steps=args.steps, seed=args.seed, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    if {"autoencoder", "landmarks"} & set(wanted):
        workspace.analyser = analyser_from(args)
    for stage in wanted:
        stages.run(stage, workspace)
    return 0


def _ship(args: argparse.Namespace) -> int:
    from facesnap.demo.ship import ship
    from facesnap.demo.shipped import WEIGHTS
    from facesnap.errors import SettingsError

    if args.adapter is None:
        raise SettingsError(
            f"{command('tiny ship')} without an adapter.", expected="--adapter FILE", remedy="train one on the pipeline"
        )
    out = args.out or WEIGHTS
    sizes = ship(args.state, args.adapter, out)
    for name, size in sorted(sizes.items()):
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  {out}")
    return 0
