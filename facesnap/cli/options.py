"""Options that several commands share: which pack, which face, which execution provider."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facesnap.faces import FaceAnalyser
from facesnap.settings import arguments
from facesnap.settings.model import PERSON

Options = argparse.ArgumentParser | argparse._ArgumentGroup


def add_pack_arguments(parser: Options) -> None:
    parser.add_argument("--pack", default="buffalo_l", help="folder or name of a face-analysis pack (%(default)s)")
    parser.add_argument("--model-dir", action="append", default=[], help="folder of models to search (repeatable)")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where the models run (%(default)s)")


def add_choose_argument(parser: Options) -> None:
    arguments.add(parser, PERSON, ["face"])
    parser.set_defaults(choose=PERSON["face"].default)


def analyser_from(args: argparse.Namespace) -> FaceAnalyser:
    """The analyser that `add_pack_arguments` asks for."""
    from facesnap.faces import FaceAnalyser

    return FaceAnalyser(args.pack, args.provider, args.model_dir)
