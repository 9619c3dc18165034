"""`facesnap prepare PHOTOS OUT`: analyse and encode photos once, for training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from facesnap.cli.options import add_pack_arguments, analyser_from
from facesnap.errors import SettingsError
from facesnap.files import check_folder
from facesnap.settings.sampling import whole

# Errors that drop a photo, in the words of the summary.
REASONS = {
    "NoFaceError": "no face was found",
    "SmallFaceError": "its face is too small in a training picture of this size",
    "PictureError": "damaged, or no picture",
    "TooLargeError": "too many pixels or bytes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", type=Path, help="folder (a sub-folder a person), .tar shards, or a .csv/.json/.jsonl list"
    )
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--base", type=Path, required=True, help="model whose VAE encodes: diffusers folder or checkpoint"
    )
    parser.add_argument("--config", type=Path, help="folder with the configuration of a single-file checkpoint")
    parser.add_argument("--encoder", type=Path, help="CLIP image encoder; without it the mixer has no CLIP branch")
    parser.add_argument("--size", type=int, default=512, help="side of the training pictures (%(default)s)")
    parser.add_argument("--variants", type=int, default=4, help="CLIP states a photo (%(default)s)")
    parser.add_argument("--levels", type=int, nargs="+", default=[-2], help="CLIP hidden states (%(default)s)")
    parser.add_argument("--caption", default="a photo of a person", help="where a photo has none (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the variants (%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="threads that read and analyse (%(default)s)")
    parser.add_argument("--device", help="of VAE and encoder; cuda where there is one")
    add_pack_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from facesnap.faces.encoder import ImageEncoder
    from facesnap.hosts.diffusers import DiffusersHost
    from facesnap.training.prepare import REPORT, Preparer, PrepareSettings

    whole(args.workers, "--workers", 1, 256)
    check_folder(args.out, "OUT")
    settings = PrepareSettings(
        size=args.size, variants=args.variants, levels=tuple(args.levels), caption=args.caption, seed=args.seed
    )
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    analyser = analyser_from(args)
    encoder = ImageEncoder.load(args.encoder, device) if args.encoder else None
    host = DiffusersHost.load(args.base, device="cpu", dtype=torch.float32, config=args.config)
    vae = host.pipeline.vae.to(device)
    preparer = Preparer(settings, analyser, encoder, vae, host.topology.base)
    report = preparer.run(args.photos, args.out, args.workers, lambda shards: tqdm(shards, unit="shard"))
    print(f"{report['kept']} of {report['photos']} photos of {report['people']} people, {args.out}")
    for line in report_lines(report):
        print(line)
    if not report["kept"]:
        raise SettingsError(
            f"None of {report['photos']} photos can be used.",
            expected="photos with one face that is large enough",
            remedy=f"read {args.out / REPORT}, which says why each was dropped",
        )
    return 0


def report_lines(report: dict[str, Any]) -> list[str]:
    """What was dropped and passed over: a line a reason, with how many and the first names."""
    from facesnap.training.photos import Passed, named

    dropped: dict[str, list[str]] = {}
    for key, error in report["dropped"].items():
        kind = error.split(":")[0]
        dropped.setdefault(REASONS.get(kind, kind), []).append(key)
    lines = [f"dropped {len(keys)}: {reason} ({named(keys, len(keys))})" for reason, keys in dropped.items()]
    return lines + Passed(report["passed_over"], report["passed_over_names"]).lines()
