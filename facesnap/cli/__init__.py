"""The command line: one module a command, each with HELP, add_arguments(parser) and run(args) -> exit code."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from facesnap.errors import FaceSnapError
from facesnap.version import __version__

# fmt: off
COMMANDS = (
    "demo", "analyse", "identity", "landmarks", "generate", "inspect", "convert", "download", "prepare", "train",
    "evaluate", "world", "tiny", "bench", "doctor",
)
# fmt: on


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="facesnap", description="Identity-preserving portraits from one photo.")
    parser.add_argument("--version", action="version", version=f"facesnap {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show debug messages")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"facesnap.cli.{name}")
        command = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 a FaceSnapError (its text on stderr), 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # Windows consoles and pipes default to a legacy code page
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr
    )
    if not args.verbose:
        for name in ("httpx", "httpx2"):  # a line for every request
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return int(args.run(args))
    except FaceSnapError as error:
        print(f"facesnap: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("facesnap: interrupted", file=sys.stderr)
        return 130
