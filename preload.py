"""Command-line options of FaceSnap, added to the WebUI's own."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--facesnap-dir",
        default=None,
        help="folder of FaceSnap's adapters, packs and saved identities, instead of models/FaceSnap",
    )
    parser.add_argument(
        "--facesnap-cache",
        type=int,
        default=256,
        metavar="MB",
        help="memory for faces, ID tokens, keys and values that are kept between generations (default 256)",
    )
