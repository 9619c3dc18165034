"""`facesnap doctor`: is everything there, and what to do if not."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict

from facesnap.version import __version__
from facesnap.weights.doctor import ERROR, examine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model-dir", action="append", default=[], help="folder of models to search (repeatable)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    findings = examine(args.model_dir)
    errors = sum(finding.level == ERROR for finding in findings)
    if args.json:
        content = {
            "facesnap": __version__, "python": platform.python_version(), "platform": platform.platform(),
            "executable": sys.executable, "errors": errors, "findings": [asdict(finding) for finding in findings],
        }  # fmt: skip
        print(json.dumps(content, indent=1))
    else:
        for finding in findings:
            print(f"{finding.level:>5}  {finding.what}")
            if finding.remedy:
                print(f"       -> {finding.remedy}")
        print(f"{errors} error{'s' * (errors != 1)}" if errors else "no errors")
    return 1 if errors else 0
