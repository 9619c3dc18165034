"""The table of docs/hosts.md: what passed in which WebUI, written by the run itself.

FACESNAP_HOSTS names the file, FACESNAP_WEBUI_NAME the WebUI's column ("Forge dfdcbab6"). The rows of the files that ran
are replaced; others stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path

BEGIN, END = "<!-- written by tests/live -->", "<!-- end -->"
COUNTED = ("passed", "failed", "error", "skipped")
Table = dict[str, dict[str, str]]  # row -> column -> cell


def cell(outcomes: Mapping[str, int]) -> str:
    """ "20 passed, 2 skipped"."""
    return ", ".join(f"{outcomes[one]} {one}" for one in COUNTED if outcomes.get(one)) or "nothing"


def read(text: str) -> Table:
    """The table between the marks; empty where there is none."""
    found = re.search(rf"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", text, re.DOTALL)
    lines = [line.strip().strip("|").split("|") for line in found[1].strip().splitlines()] if found else []
    if len(lines) < 2:
        return {}
    columns = [one.strip() for one in lines[0][1:]]
    return {line[0].strip(): dict(zip(columns, map(str.strip, line[1:]), strict=False)) for line in lines[2:]}


def written(table: Table) -> str:
    """The table as Markdown, rows in order of their names, dates last."""
    columns = sorted({column for row in table.values() for column in row})
    names = sorted(table, key=lambda name: (name.startswith("on "), name))
    rows = [["", *columns], ["---"] * (1 + len(columns))]
    rows += [[name, *(table[name].get(column, "") for column in columns)] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def update(file: Path, column: str, outcomes: Mapping[str, Counter[str]], commit: str) -> None:
    """Put a run into the file. outcomes: test file -> counts; commit: FaceSnap's own."""
    text = file.read_text(encoding="utf-8")
    table = read(text)
    for name, counts in outcomes.items():
        table.setdefault(name, {})[column] = cell(counts)
    table.setdefault("on date, FaceSnap", {})[column] = f"{date.today().isoformat()}, {commit}"
    block = f"{BEGIN}\n{written(table)}\n{END}"
    file.write_text(re.sub(rf"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, text, flags=re.DOTALL), "utf-8")
