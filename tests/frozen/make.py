"""Freeze what the code that runs does: `python -m tests.frozen.make [facts|files|pictures]...`.

Only for behaviour that is meant to change: every file that comes out differently is a promise that was broken.
"""

from __future__ import annotations

import sys

from tests.frozen.facts import FACTS
from tests.frozen.store import save


def facts() -> None:
    """Write every fact."""
    for name, find in FACTS.items():
        save(name, find())


if __name__ == "__main__":
    for part in sys.argv[1:] or ("facts",):
        {"facts": facts}[part]()
