"""Freeze what the code that runs does: `python -m tests.frozen.make [facts|files|pictures]...`.

Only for behaviour that is meant to change: every file that comes out differently is a promise that was broken.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.frozen import answers, filefacts, inputs
from tests.frozen.facts import FACTS
from tests.frozen.store import PICTURES, save

CACHE = Path(__file__).resolve().parents[2] / ".cache"  # as tests/conftest.py fills it


def facts() -> None:
    """Write every fact about the code alone."""
    for name, find in FACTS.items():
        save(name, find())


def files() -> None:
    """Write every fact about the frozen files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, find in filefacts.FACTS.items():
            save(name, find(Path(folder) / name))
        save("outputs", filefacts.outputs(Path(folder) / "outputs", CACHE / "face_pack", CACHE / "components"))


def routes() -> None:
    """Ask every route."""
    with tempfile.TemporaryDirectory() as folder:
        save("answers", answers.collect(Path(folder), CACHE / "face_pack"))


def pictures() -> None:
    """Make every picture, and keep what the command line reports of it."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        inputs.build(folder, CACHE / "face_pack", CACHE / "components")
        reports = {}
        PICTURES.mkdir(exist_ok=True)
        for run, arguments in inputs.runs(folder, out).items():
            reports[run] = filefacts.report(arguments)
            shutil.copyfile(inputs.picture(out, run), PICTURES / f"{run}.png")
            landmarks = out / run / "landmarks.png"
            if landmarks.is_file():
                shutil.copyfile(landmarks, PICTURES / f"{run}-landmarks.png")
        save("reports", reports)
    save("pasted", filefacts.pasted(PICTURES, list(reports)))


if __name__ == "__main__":
    for part in sys.argv[1:] or ("facts", "files", "routes", "pictures"):
        {"facts": facts, "files": files, "routes": routes, "pictures": pictures}[part]()
