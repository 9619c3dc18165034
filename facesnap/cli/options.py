"""Options that several commands share: which pack, which face, which execution provider."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facesnap.settings import arguments
from facesnap.settings.model import PERSON

if TYPE_CHECKING:
    from facesnap.faces import FaceAnalyser
    from facesnap.faces.face_encoder import FaceEncoder

Options = argparse.ArgumentParser | argparse._ArgumentGroup


def add_pack_arguments(parser: Options) -> None:
    parser.add_argument("--pack", default="buffalo_l", help="folder or name of a face-analysis pack (%(default)s)")
    parser.add_argument("--model-dir", action="append", default=[], help="folder of models to search (repeatable)")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where the models run (%(default)s)")


def add_choose_argument(parser: Options) -> None:
    arguments.add(parser, PERSON, ["face"])
    parser.set_defaults(choose=PERSON["face"].default)


def add_encoder_argument(parser: Options) -> None:
    parser.add_argument(
        "--encoder", help="CLIP image encoder: file, folder, or vit-h, vit-bigg, vit-l, eva02-clip-l-14-336 (PuLID)"
    )


def picture_size(text: str) -> tuple[int, int]:
    """(width, height) of "512x768", for `type=`."""
    width, _, height = text.lower().partition("x")
    try:
        size = int(width), int(height)
    except ValueError:
        size = 0, 0
    if min(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form WIDTHxHEIGHT, such as 1024x1024")
    return size


def analyser_from(args: argparse.Namespace) -> FaceAnalyser:
    """The analyser that `add_pack_arguments` asks for."""
    from facesnap.faces import FaceAnalyser

    return FaceAnalyser(args.pack, args.provider, args.model_dir)


def encoder_from(args: argparse.Namespace) -> FaceEncoder | None:
    """The encoder that `add_encoder_argument` asks for; None where it was not given."""
    from facesnap.faces.encoder_files import find_encoder
    from facesnap.faces.tower import load_encoder

    return load_encoder(find_encoder(args.encoder, args.model_dir), args.model_dir) if args.encoder else None
