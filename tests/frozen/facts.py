"""Facts about the code that runs, as plain data: each is kept in `data` under its own name.

`python -m tests.frozen.make` writes them, the tests compare them.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.frozen import cases, doors


def commands() -> dict[str, Any]:
    """Every option of every command of the command line, by its spellings; their order is of the help alone."""
    found: dict[str, Any] = {"facesnap": _arguments(doors.build_parser())}
    for name, parser in _subparsers(doors.build_parser()):
        found[name] = _arguments(parser)
    found["webui"] = _arguments(doors.install_arguments())
    return doors.plain({name: {" ".join(row["strings"]) or row["name"]: row for row in rows}
                        for name, rows in found.items()})  # fmt: skip


def _subparsers(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield before + name, one
                yield from _subparsers(one, f"{before}{name} ")


def _arguments(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    exclusive = {id(a): n for n, g in enumerate(parser._mutually_exclusive_groups, 1) for a in g._group_actions}
    needed = {n: g.required for n, g in enumerate(parser._mutually_exclusive_groups, 1)}
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        choices = None if action.choices is None else list(action.choices)
        row = {
            "strings": action.option_strings, "name": action.dest, "kind": type(action).__name__.strip("_"),
            "default": doors.option_default(action), "choices": choices, "required": action.required,
            "nargs": action.nargs, "metavar": action.metavar,
        }  # fmt: skip
        if id(action) in exclusive:
            row["one of"] = exclusive[id(action)]
            row["one needed"] = needed[exclusive[id(action)]]
        rows.append(row)
    return rows


def catalogue() -> list[dict[str, Any]]:
    """What `facesnap download --list` shows."""
    out = io.StringIO()
    with TemporaryDirectory() as folder, redirect_stdout(out):
        assert doors.main(["download", "--list", "--folder", folder, "--json"]) == 0
    return json.loads(out.getvalue())


def schema() -> dict[str, Any]:
    return doors.settings_schema(3)


def controls() -> list[dict[str, Any]]:
    return doors.controls(3)


def options() -> dict[str, Any]:
    return {"lines": doors.options(), "used": [doors.checked_options(saved) for saved in cases.SAVED_OPTIONS]}


def presets() -> dict[str, Any]:
    return doors.plain({"presets": doors.PRESETS, "version": doors.SETTINGS_VERSION})


def api() -> list[dict[str, Any]]:
    """Payloads with the settings that they mean."""
    return [
        {"args": args, "settings": doors.settings_of(args), "flat": doors.flat_of(args)} for args in cases.ARGS
    ]  # fmt: skip


def refused() -> list[dict[str, Any]]:
    """Payloads with the message that refuses them."""
    return [{"args": args, "message": doors.refusal(args)} for args in cases.REFUSED]


def flat() -> list[dict[str, Any]]:
    """Flat lists with the settings that they mean."""
    lists = cases.flat_lists(doors.flat_defaults(3), doors.controls(3))
    return [{"name": name, "args": args, "settings": doors.settings_of(args)} for name, args in lists.items()]


def infotexts() -> list[dict[str, Any]]:
    """Settings with the text that is written for them, and what the text restores."""
    found = []
    for case in cases.WRITTEN:
        most = case.get("most_people", 3)
        text = doors.write_infotext(case["args"], most, case.get("adapter", ()), case.get("seen", ()))
        found.append({"case": case, "text": text, **restored(text, most)})
    return found


def restored(text: str, most: int = 3) -> dict[str, Any]:
    """What a text restores, in settings and in the controls."""
    return {"restored": doors.read_infotext(text, most), "controls": doors.pasted_controls(text, most)}


def texts() -> list[dict[str, Any]]:
    """Texts that were not written for these settings, and what they restore."""
    found = [{"name": name, "text": text, **restored(text)} for name, text in cases.TEXTS.items()]
    text = "FaceSnap identity: Ann [0123456789], FaceSnap strength: 0.5, FaceSnap version: 0.1.0"
    for name, known in cases.KNOWN.items():
        found.append({"name": name, "text": text, "known": known, "restored": doors.read_infotext(text, 3, known)})
    return found


def axes() -> list[dict[str, Any]]:
    """The X/Y/Z plot's axes, and what their values do."""
    ours = {one.label.removeprefix(doors.LABEL): one for one in doors.axes(["own", "other"], ["Zoe", "Ann"])}
    found: list[dict[str, Any]] = []
    for name, one in ours.items():
        done = [
            {"value": v, "settings": doors.axis_option(cases.GRID_ARGS, [(one, v)])} for v in cases.CELLS.get(name, ())
        ]
        choices = one.choices() if one.choices else None
        found.append({"label": one.label, "type": one.type.__name__, "choices": choices, "cells": done})
    for cell in cases.TOGETHER:
        settings = doors.axis_option(cases.GRID_ARGS, [(ours[name], value) for name, value in cell])
        found.append({"together": cell, "settings": settings})
    return doors.plain(found)


def routes() -> list[dict[str, Any]]:
    """The API's routes with methods, query parameters and the schema of the request."""
    paths = doors.routes_app().openapi()["paths"]
    found = []
    for path, methods in paths.items():
        for method, told in methods.items():
            asked = [{k: one.get(k) for k in ("name", "in", "required")} for one in told.get("parameters", ())]
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            found.append({"path": path, "method": method, "summary": told.get("summary"), "parameters": asked,
                          "body": body})  # fmt: skip
    return doors.plain(found)


def environment() -> dict[str, Any]:
    """Folders and environment variables that are honoured."""
    before = os.environ.get("FACESNAP_MODELS")
    os.environ["FACESNAP_MODELS"] = os.pathsep.join(["/first", "/second"])
    try:
        roots = [root.as_posix() for root in doors.model_roots(["/own"])][:3]
    finally:
        os.environ.pop("FACESNAP_MODELS")
        if before is not None:
            os.environ["FACESNAP_MODELS"] = before
    models = Path("/webui/models")
    return {
        "FACESNAP_MODELS": roots,
        "folders": doors.model_folders(models, None, ""),
        "folders with --facesnap-dir and further ones": doors.model_folders(models, "/own", "/a\n /b \n"),
        "named in the sources": sorted(name for name in VARIABLES if any(name in text for text in _sources())),
    }


VARIABLES = (
    "COMMANDLINE_ARGS", "FACESNAP_MODELS", "FACESNAP_ONNXRUNTIME", "GRADIO_TEMP_DIR", "HF_ENDPOINT", "INDEX_URL",
)  # fmt: skip


@functools.cache
def _sources() -> tuple[str, ...]:
    root = Path(__file__).resolve().parents[2]
    files = [root / "install.py", root / "preload.py", *(root / "facesnap").rglob("*.py")]
    return tuple(file.read_text(encoding="utf-8") for file in files)


FACTS: dict[str, Callable[[], Any]] = {
    one.__name__: one
    for one in (commands, catalogue, schema, controls, options, presets, api, refused, flat, infotexts, texts, axes,
                routes, environment)
}  # fmt: skip
