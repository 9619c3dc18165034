"""Files read one by one, each in a process of its own: the outcome, and the memory that reading took.

`python -m tests.checkpoints.reader FOLDER` works in FOLDER and forks for every path on its standard input: a peak is
the file's alone, and reading starts with torch imported. One line of JSON answers each path.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from facesnap.checkpoints.files import read_outline
from facesnap.errors import CheckpointError
from facesnap.families.registry import load_adapter

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss


def peak() -> int:
    """Bytes that were resident at most. A fork starts from what its parent holds, not from its parent's peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def read(file: Path) -> dict[str, Any]:
    """The outline and the adapter of a file, as one record.

    Returns:
        outline_is_meta: no tensor was read for the outline, or it was refused. refused: the loader's message, or
        loaded: the family. peak: bytes beyond the start.
    """
    before = peak()
    found: dict[str, Any] = {"outline_is_meta": True}
    with suppress(CheckpointError):  # where the fault lies in the data alone, the loader reports it
        found["outline_is_meta"] = all(tensor.is_meta for tensor in read_outline(file).tensors.values())
    try:
        found["loaded"] = load_adapter(file).spec.family
    except CheckpointError as error:
        found["refused"] = str(error)
    return found | {"peak": peak() - before}


def main() -> None:
    os.chdir(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            answer = read(Path(line.rstrip("\n")))
        except BaseException as error:  # the test shows it
            answer = {"raised": repr(error)}
        print(json.dumps(answer), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
