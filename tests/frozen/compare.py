"""Pictures of two working trees, to the bit: `python -m tests.frozen.compare --other WORKTREE`.

Every family's picture is made with this tree and with another one, by `facesnap generate` in a process of its own for
each tree, with the same interpreter and the same inputs. The exit code is 1 if any picture differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.frozen import inputs

ROOT = Path(__file__).resolve().parents[2]
# Runs the commands given on stdin; the tree must be the one that was asked for, not an installed package.
DRIVER = """
import json, pathlib, sys
import facesnap
tree, commands = json.load(sys.stdin)
found = pathlib.Path(facesnap.__file__).resolve()
if not found.is_relative_to(pathlib.Path(tree).resolve()):
    sys.exit(f"{found} is imported instead of {tree}")
from facesnap.cli import main
failed = [name for name, arguments in commands.items() if main(arguments)]
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
"""


def make(tree: Path, commands: dict[str, list[str]]) -> None:
    """Run commands with the package of a tree; raises SystemExit with what went wrong."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps([str(tree), commands]), cwd=tree, env=environment,
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr[-3000:]}")


def sha256_of(file: Path) -> str:
    """Of a picture's size and pixels."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def compare(other: Path, cache: Path, everything: bool = False) -> bool:
    """Print a line a family; whether all pictures are the same.

    Args:
        cache: folder with `face_pack` and `components`. everything: not the families alone, but all runs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs.build(folder / "in", cache / "face_pack", cache / "components")
        same = True
        outs = {tree: folder / f"out{n}" for n, tree in enumerate((ROOT, other))}
        for tree, out in outs.items():
            runs = inputs.runs(folder / "in", out)
            names = [run for run in runs if everything or run in inputs.FAMILIES]
            make(tree, {run: runs[run] for run in names})
        print(f"{'family':<18} {'here':<64} {'there':<64} identical")
        for run in names:
            here, there = (sha256_of(inputs.picture(out, run)) for out in outs.values())
            same &= here == there
            print(f"{run:<18} {here} {there} {'yes' if here == there else 'no'}")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--other", required=True, type=Path, metavar="WORKTREE", help="another working tree")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".cache", help="with face_pack and components (%(default)s)"
    )
    parser.add_argument("--everything", action="store_true", help="also the runs with other settings")
    args = parser.parse_args()
    return 0 if compare(args.other.resolve(), args.cache.resolve(), args.everything) else 1


if __name__ == "__main__":
    sys.exit(main())
