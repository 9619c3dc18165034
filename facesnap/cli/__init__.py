"""The command line. A command is a module of this package with add_arguments(parser) and run(args) -> exit code; it is
imported when it is called, so that `facesnap --help` and `--version` need no torch."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from facesnap.errors import FaceSnapError
from facesnap.remedies import command
from facesnap.version import __version__

COMMANDS = {
    "demo": "Run the whole way once on a photo, with a miniature model.",
    "analyse": "Find the faces in photos: boxes, points, quality, and which step of the detection ladder found them.",
    "identity": "Make an identity from photos of one person, compare two, or show the content of one.",
    "landmarks": "Draw a person's 72 landmarks in the pose and expression of a driver picture or of numbers.",
    "generate": "Make pictures of the person on the reference photos.",
    "inspect": "Describe an adapter file: family, base, parts, recogniser, licence.",
    "convert": "Make a FaceSnap checkpoint from a public adapter.",
    "download": "Fetch public adapters, encoders and face-analysis packs.",
    "prepare": "Prepare photos for training: faces, landmarks, latents, CLIP states; goes on where it was stopped.",
    "train": "Train an adapter on photos that `facesnap prepare` has prepared.",
    "evaluate": "Measure adapters on people, prompts and poses that are the same for all of them.",
    "world": "Render portraits of synthetic people whose identity, landmarks and attributes are known (needs anny).",
    "tiny": "Train the demo's miniature models on synthetic people (needs anny and diffusers; hours on a CPU).",
    "bench": "Measure speed, memory and error against reference implementations.",
    "doctor": "Check packages, execution providers, packs and encoders; give the remedy for each thing missing.",
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Args:
        command: the one whose own arguments are added, which imports its module; None or unknown: none has any.
    """
    parser = argparse.ArgumentParser(prog="facesnap", description="Identity-preserving portraits from one photo.")
    parser.add_argument("--version", action="version", version=f"facesnap {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show debug messages")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name == command:
            module = importlib.import_module(f"facesnap.cli.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 a FaceSnapError (its text on stderr), 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # Windows consoles and pipes default to a legacy code page
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    argv = sys.argv[1:] if argv is None else argv
    command = next((arg for arg in argv if not arg.startswith("-")), None)  # options before it take no values
    args = build_parser(command).parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr
    )
    if not args.verbose:
        for name in ("httpx", "httpx2"):  # a line for every request
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except FaceSnapError as error:
        print(f"facesnap: error: {error}", file=sys.stderr)
        if args.verbose and error.details:
            print(f"facesnap: {error.details}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `facesnap inspect ... | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at exit
        return 0
    except OSError as error:  # a file or folder that was named; others are faults of ours
        if error.filename is None or args.verbose:
            raise
        print(f"facesnap: error: {_about_file(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("facesnap: interrupted", file=sys.stderr)
        return 130


def _about_file(error: OSError) -> FaceSnapError:
    return FaceSnapError(
        f"{error.filename}: {error.strerror or type(error).__name__}.",
        expected="a file or folder that can be read or written there",
        remedy=f"correct the path or its permissions; {command('-v')} shows where it failed",
    )
