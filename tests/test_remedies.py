"""Remedies work where they stand: every message, read off the code, and each deed in each place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from facesnap import remedies
from facesnap.cli import build_parser
from facesnap.errors import FaceSnapError, MissingDependencyError, importing
from facesnap.faces.known import DOWNLOADS, advice
from facesnap.remedies import COMMAND_LINE, DEEDS, PLACES, WEBUI, command, remedy, stand_in
from facesnap.weights.catalogue import find

ROOT = Path(__file__).resolve().parents[1] / "facesnap"
# Rooms that no WebUI enters: the lab and the command line; the doctor speaks on the command line alone.
ELSEWHERE = ("world", "training", "evaluation", "tiny", "demo", "bench", "cli", "weights/doctor.py", "remedies.py",
             "requirements.py", "hosts/diffusers.py", "hosts/model_files.py", "checkpoints/convert.py",
             "landmarks/anny_heads.py", "landmarks/build_basis.py", "settings/arguments.py")  # fmt: skip
COMMAND = re.compile(r"`facesnap |facesnap download|python -m|pip install")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OF_THE_WEBUI = {"--facesnap-dir", "--api", "--medvram", "--lowvram"}  # its own start takes these
WORDS = {"name": "auraface", "licence": "Apache-2.0", "pack": "buffalo_l", "package": "pillow-heif", "one": "faceid",
         "other": "portrait", "mark": " as "}  # fmt: skip


@pytest.fixture(autouse=True)
def _back() -> Iterator[None]:
    yield
    stand_in(COMMAND_LINE)


def _texts(node: ast.AST) -> str:
    """All literal text inside an expression."""
    return " ".join(one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def _messages() -> Iterator[tuple[str, str]]:
    """Place and text of what errors and logs say in the rooms that a WebUI enters."""
    for file in sorted(ROOT.rglob("*.py")):
        if file.relative_to(ROOT).as_posix().startswith(ELSEWHERE):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            logged = isinstance(node.func, ast.Attribute) and node.func.attr in ("warning", "error", "info")
            if logged or any(keyword.arg == "remedy" for keyword in node.keywords):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", _texts(node)


def test_no_message_in_a_webui_speaks_of_the_command_line() -> None:
    found = dict(_messages())
    assert len(found) > 150
    for place, text in found.items():
        assert not COMMAND.search(text) and {*FLAG.findall(text)} <= OF_THE_WEBUI, (place, text)


def _done(deed: str, place: str) -> str:
    stand_in(place)
    names = {name for _, name, _, _ in Formatter().parse(DEEDS[deed][PLACES.index(place)]) if name}
    return remedy(deed, **{name: WORDS[name] for name in names - {"facesnap"}})


@pytest.mark.parametrize("deed", DEEDS)
def test_each_deed_in_each_place(deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    webui = _done(deed, WEBUI)
    assert "`" not in webui and "pip" not in webui and "facesnap " not in webui.replace("FaceSnap", ""), webui
    assert {*FLAG.findall(webui)} <= {*OF_THE_WEBUI, "--no-deps"}
    for name, called in (("/usr/bin/facesnap", "facesnap"), ("C:/x/FaceSnap.exe", "facesnap"),
                         ("/x/facesnap/__main__.py", "python -m facesnap")):  # fmt: skip
        monkeypatch.setattr("sys.argv", [name])
        monkeypatch.setattr("shutil.which", lambda _: None)
        text = _done(deed, COMMAND_LINE)
        for line in re.findall("`([^`]+)`", text):
            assert line.startswith(f"{called} "), line
            first, *rest = line.removeprefix(f"{called} ").split()
            flags = {word for word in rest if word.startswith("--")}
            # The command is there, and takes these flags.
            parser = build_parser(first)
            commands = next(a for a in parser._actions if isinstance(a.choices, dict)).choices
            assert flags <= {flag for action in commands[first]._actions for flag in action.option_strings}, line


def test_what_an_error_says_is_for_its_place() -> None:
    def missing() -> MissingDependencyError:
        with pytest.raises(MissingDependencyError) as caught, importing("A package", "it"):
            raise ImportError("broken")
        return caught.value

    assert "doctor" in str(missing())
    stand_in(WEBUI)
    assert "restart the WebUI" in str(missing()) and "doctor" not in str(missing())
    with pytest.raises(FaceSnapError, match="Models at the foot of FaceSnap's accordion"):
        find("no such thing")
    item = DOWNLOADS[0]
    assert f"choose {item.name} and press Download" in advice(item.name, "")
    stand_in(COMMAND_LINE)
    assert f"download {item.name}`" in advice(item.name, "")
    assert command("doctor").endswith("facesnap doctor`")
    with pytest.raises(ValueError):
        stand_in("nowhere")
    assert remedies.program() in ("facesnap", "python -m facesnap")
