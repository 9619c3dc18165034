"""Options that several commands share: which pack, which face, which execution provider."""

from __future__ import annotations

import argparse
from pathlib import Path

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import Choice


def add_pack_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--pack, --model-dir, --provider, --choose."""
    parser.add_argument("--pack", metavar="NAME|DIR", help="face-analysis pack: buffalo_l (default), antelopev2, ...")
    parser.add_argument("--model-dir", type=Path, action="append", default=[], metavar="DIR",
                        help="further folder to look for packs and encoders in")  # fmt: skip
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where faces are analysed")
    parser.add_argument("--choose", default="largest", metavar="FACE",
                        help="largest (default), leftmost, central, or a number: 0 is the largest face")  # fmt: skip


def analyser_from(args: argparse.Namespace) -> FaceAnalyser:
    """The analyser that the options ask for."""
    return FaceAnalyser(args.pack or "buffalo_l", args.provider, args.model_dir)


def choice(args: argparse.Namespace) -> Choice:
    """--choose as a name or an index."""
    return int(args.choose) if args.choose.lstrip("-").isdigit() else str(args.choose)
