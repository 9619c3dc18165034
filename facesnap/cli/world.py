"""`facesnap world`: pictures of synthetic people, with their truth."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from facesnap.cli.options import add_pack_arguments, analyser_from
from facesnap.errors import SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for tar shards; goes on where it stopped")
    parser.add_argument("--people", type=int, default=12, metavar="N", help="(%(default)s)")
    parser.add_argument("--pictures", type=int, default=8, metavar="K", help="of each person (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S",
        help="number of the first person; training people from 0 on, held-out people from 1000000 on (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="side of a picture (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (%(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="also draw all pictures on one sheet")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="instead: how the face pack distinguishes held-out people, as a table",
    )
    parser.add_argument("--json", action="store_true", help="with --measure: JSON in place of the table")
    add_pack_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if not (args.out or args.sheet or args.measure):
        raise SettingsError(
            "Nothing to do.", expected="--out, --sheet or --measure.", remedy="add one of them; --help explains."
        )
    if args.measure:
        return _measure(args)
    from tqdm import tqdm

    from facesnap.faces.drawing import save_png
    from facesnap.world.dataset import Dataset, mosaic
    from facesnap.world.splits import people

    if args.sheet:
        save_png(mosaic(people(args.seed, args.people), args.pictures, size=args.size), args.sheet)
        print(f"wrote {args.sheet}")
    if args.out:
        dataset = Dataset(args.seed, args.people, args.pictures, args.size)
        started = time.monotonic()
        shards = dataset.write(
            args.out, workers=args.workers, progress=lambda done, count: tqdm(done, total=count, unit="shard")
        )
        print(
            f"{args.out}: {dataset.people * dataset.pictures} pictures of {dataset.people} people in {len(shards)} "
            f"shards, {sum(s.stat().st_size for s in shards) / 1e6:.0f} MB, {time.monotonic() - started:.0f} s"
        )
    return 0


def _measure(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from facesnap.world.measure import measure, table

    report = measure(
        analyser_from(args),
        people=args.people,
        pictures=args.pictures,
        size=args.size,
        progress=lambda people: tqdm(people, unit="person"),
    )
    print(json.dumps(report, indent=1) if args.json else table(report))
    return 0
