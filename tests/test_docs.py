"""README and docs/: their links, commands and messages exist, and no sentence stands twice."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from facesnap.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = 8  # words: shorter sentences may come again
TAGS = {"script", "editing", "manipulations"}  # of those that the index of extensions knows


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without code blocks, tables and headings; a paragraph a line."""
    without = re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)
    lines = ["" if line.startswith(("|", "#", "!")) else line for line in without.split("\n")]
    marked = re.sub(r"^\s*([-*]|\d+\.) ", "\n", "\n".join(lines), flags=re.MULTILINE)
    return "\n".join(" ".join(one.split()) for one in re.split(r"\n\s*\n", marked))


def sentences(page: Path) -> Iterator[tuple[str, ...]]:
    """The longer sentences as words in lower case."""
    for sentence in re.split(r"(?<=[.!?])\s+|\n", prose(page)):
        words = tuple(re.findall(r"[^\W_]+", sentence.lower()))
        if len(words) >= SHORT:
            yield words


def test_no_sentence_stands_twice() -> None:
    seen: dict[tuple[str, ...], str] = {}
    twice = []
    for page in PAGES:
        for words in sentences(page):
            if words in seen:
                twice.append(f"{seen[words]} and {page.name}: {' '.join(words)}")
            seen[words] = page.name
    assert len(seen) > 200
    assert not twice


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(page: Path) -> Iterator[list[str]]:
    """Each command of the shell blocks, as its words."""
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n", " ", block).split("\n"):
            for part in re.split(r"&&| > ", line):
                words = shlex.split(part, comments=True) if "<<" not in line else []
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words:
                    yield words


def arguments(words: list[str]) -> list[str] | None:
    """What follows `facesnap` or `-m facesnap`; None where another program is called."""
    if words[0] == "facesnap":
        return words[1:]
    return words[words.index("facesnap") + 1 :] if words[:-1] and "-m facesnap" in " ".join(words) else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    for words in commands(page):
        given = arguments(words)
        if given is not None:
            try:
                build_parser(next((one for one in given if not one.startswith("-")), None)).parse_args(given)
            except SystemExit:
                pytest.fail(f"{' '.join(words)}\n{capsys.readouterr().err}")
        elif words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words


def test_there_are_commands() -> None:
    found = [given[0] for page in PAGES for words in commands(page) if (given := arguments(words))]
    assert {"analyse", "identity", "landmarks", "generate", "inspect", "convert", "download", "doctor"} <= {*found}
    assert {"bench", "prepare", "train", "evaluate", "world", "tiny"} <= {*found}


def messages() -> list[str]:
    """The messages that the README quotes."""
    section = text(ROOT / "README.md").split("## When it says no")[1].split("\n## ")[0]
    return re.findall(r"^\| \*(.+?)\* \|", section, re.MULTILINE)


def literals() -> Iterator[list[str]]:
    """Every sentence in the package's strings, as the pieces around what is formatted into it."""
    for file in (ROOT / "facesnap").rglob("*.py"):
        for node in ast.walk(ast.parse(text(file))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importing":  # adds the reason to its words
                parts = [*ast.unparse(node.args[0]).strip("'"), " (", "\0", ")."]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            for sentence in re.split(r"(?<=\.) ", "".join(map(str, parts))):
                yield sentence.split("\0")


def stands_for(pieces: list[str], message: str) -> bool:
    """Whether something can be formatted in between the pieces so that they make the message."""
    words = sum(len(re.findall(r"[^\W\d_]{2,}", piece)) for piece in pieces)
    if words < 4 or not message.startswith(pieces[0]) or not message.endswith(pieces[-1]):
        return False
    return re.fullmatch(".+?".join(map(re.escape, pieces)), message, re.DOTALL) is not None


def test_messages_of_the_readme_are_those_of_the_code() -> None:
    quoted = messages()
    assert len(quoted) >= 8
    known = list(literals())
    missing = [message for message in quoted if not any(stands_for(pieces, message) for pieces in known)]
    assert not missing


def test_python_blocks_compile() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block, str(page), "exec")


def test_entry_of_the_extension_index() -> None:
    entry = json.loads(text(ROOT / "docs" / "extension-index.json"))
    assert set(entry) == {"name", "url", "description", "tags"}
    assert entry["url"].startswith("https://") and entry["url"].endswith(".git")
    assert set(entry["tags"]) <= TAGS and len(entry["description"]) < 250
