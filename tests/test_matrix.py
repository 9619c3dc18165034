"""The table of hosts keeps what other runs wrote, whatever order they come in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.live.matrix import BEGIN, END, cell, read, update


def test_runs_fill_in_their_column(tmp_path: Path) -> None:
    file = tmp_path / "hosts.md"
    file.write_text(f"# Hosts\n\n{BEGIN}\n{END}\n\nThe rest.\n", encoding="utf-8")
    update(file, "Neo", {"api": Counter(passed=5), "rows": Counter(passed=1, failed=2)}, "a" * 8)
    update(file, "A1111", {"api": Counter(passed=4, skipped=1)}, "b" * 8)
    update(file, "Neo", {"rows": Counter(passed=3)}, "c" * 8)
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Hosts\n\n") and text.endswith("\n\nThe rest.\n")
    table = read(text)
    assert table["api"] == {"A1111": "4 passed, 1 skipped", "Neo": "5 passed"}
    assert table["rows"] == {"A1111": "", "Neo": "3 passed"}
    assert list(table) == ["api", "rows", "on date, FaceSnap"] and table["on date, FaceSnap"]["Neo"].endswith("c" * 8)
    assert cell(Counter()) == "nothing" and cell(Counter(error=1, passed=2)) == "2 passed, 1 error"
