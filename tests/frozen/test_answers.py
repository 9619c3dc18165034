"""The API answers as it did, and the extension writes the infotexts that it wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.frozen.answers import collect
from tests.frozen.store import differences, load


def test_routes_answer_as_before(tmp_path: Path, face_pack: Path) -> None:
    found = differences(_masked(collect(tmp_path, face_pack)), _masked(load("answers")))
    assert not found, "\n".join(found[:20])


def _masked(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without hashes, which another machine's arithmetic may change."""
    return [
        one | {"infotext": {k: re.sub(r"\[[0-9a-f]{10}\]", "[HASH]", v) for k, v in one["infotext"].items()}}
        if "infotext" in one
        else one
        for one in answers
    ]
