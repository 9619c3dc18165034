"""The doors into the package: everything that these tests import of it, in one place.

Whoever moves a module changes this file and no other one here. What a door gives is plain data (JSON), so that the
frozen files hold no name of a class or a module.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from facesnap import cli
from facesnap.cli import main
from facesnap.errors import FaceSnapError
from facesnap.faces.identity import Identity
from facesnap.faces.packs import find_pack, model_roots
from facesnap.families.registry import load_adapter
from facesnap.settings.api import schema, to_api
from facesnap.settings.field_types import Blocks, Number
from facesnap.settings.infotext import Named, PersonFacts, fields, line, parse_parameters, read, skipped
from facesnap.settings.model import PERSON, POSE, SETTINGS
from facesnap.settings.model import VERSION as SETTINGS_VERSION
from facesnap.settings.words import PRESETS
from facesnap.training.config import load_config
from facesnap.training.shards import Shards
from facesnap.version import __version__
from facesnap.webui import api as routes
from facesnap.webui.generation.args import defaults, parse
from facesnap.webui.generation.controls import controls as columns
from facesnap.webui.generation.controls import to_flat
from facesnap.webui.generation.paste import paste_values, pasters
from facesnap.webui.generation.xyz import apply_notes, register
from facesnap.webui.options import OPTIONS, values
from facesnap.weights.folders import Folders

__all__ = [
    "PRESETS",
    "SETTINGS_VERSION",
    "FaceSnapError",
    "Identity",
    "Shards",
    "adapter_tokens",
    "axes",
    "axis_option",
    "build_parser",
    "checked_options",
    "controls",
    "find_pack",
    "flat_defaults",
    "flat_of",
    "install_arguments",
    "load_adapter",
    "load_config",
    "main",
    "model_folders",
    "model_roots",
    "option_default",
    "options",
    "parse_parameters",
    "pasted_controls",
    "plain",
    "read_infotext",
    "refusal",
    "routes_app",
    "served",
    "settings_of",
    "settings_schema",
    "skipped_note",
    "write_infotext",
]
LABEL = "[FaceSnap] "


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples as lists, keys as texts, paths as texts."""
    return json.loads(json.dumps(value, default=str))


def option_default(action: argparse.Action) -> Any:
    """The value that an option stands for where it is not given; of those made from the settings, the declared one."""
    fields = [f for table in (SETTINGS, PERSON, POSE) for f in table.values() if f.option in action.option_strings]
    if action.default is not None or not fields:
        return action.default
    if isinstance(fields[0].kind, Blocks):
        return []
    if fields[0].name == "pulid_mode" or fields[0].default in ((), ""):  # nothing given: as the adapter says, no person
        return None
    return tuple(f.default for f in fields) if len(fields) == 2 and fields[0].default is not None else fields[0].default


def build_parser() -> argparse.ArgumentParser:
    """The command line with the arguments of all its commands."""
    parser = cli.build_parser()
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name in cli.COMMANDS:
        whole = cli.build_parser(name)
        found = next(a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
        subparsers.choices[name] = found.choices[name]  # type: ignore[index]
    return parser


# Settings: the API's objects, the flat list, the controls, the settings page


def settings_of(args: Sequence[Any], most_people: int = 3) -> dict[str, Any]:
    """What `args` of a script mean, as the full API object."""
    return plain(to_api(parse(list(args), most_people)))


def refusal(args: Sequence[Any], most_people: int = 3) -> str:
    """The message with which `args` are refused."""
    try:
        parse(list(args), most_people)
    except FaceSnapError as error:
        return str(error)
    raise AssertionError(f"{args} were taken")


def flat_of(args: Sequence[Any], most_people: int = 3) -> list[Any]:
    """The same settings as the UI's flat list."""
    return plain(to_flat(parse(list(args), most_people), most_people))


def flat_defaults(most_people: int = 3) -> list[Any]:
    return plain(defaults(most_people))


def settings_schema(most_people: int = 3) -> dict[str, Any]:
    return plain(schema(most_people))


def controls(most_people: int = 3) -> list[dict[str, Any]]:
    """The UI's controls in their order."""
    return [
        plain({
            "label": column.label, "txt2img": column.elem_id("txt2img"), "img2img": column.elem_id("img2img"),
            "control": column.component, "default": column.default, "help": column.field.help, "part": column.part,
            "name": column.name, "person": column.person,
        })
        for column in columns(most_people)
    ]  # fmt: skip


def options() -> list[dict[str, Any]]:
    """The lines of the settings page."""
    found = []
    for one in OPTIONS:
        bounds = [one.kind.low, one.kind.high, one.kind.step] if isinstance(one.kind, Number) else None
        allowed = list(getattr(one.kind, "options", ())) or bounds
        kind = "Lines" if one.kind is None else type(one.kind).__name__
        found.append({"key": one.key, "default": one.default, "label": one.label, "info": one.info, "kind": kind,
                      "allowed": allowed, "reload": one.reload, "whole": one.whole})  # fmt: skip
    return plain(found)


def checked_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings page's values as they are used, from config.json's."""
    return plain(values(saved))


# Infotexts


def write_infotext(args: Sequence[Any], most_people: int, adapter: Sequence[str], seen: Sequence[Mapping]) -> str:
    """The line of parameters that the WebUI writes for `args`.

    Args:
        adapter: name and hash of the one used, or nothing. seen: what each generation found out about the people.
    """
    found = fields(
        parse(list(args), most_people),
        Named(*adapter) if adapter else None,
        [PersonFacts(**person) for person in seen],
        version=__version__,
    )
    return line(found)


def read_infotext(text: str, most_people: int = 3, identities: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a text restores. identities: name -> digest of those on this machine."""
    pasted = read(parse_parameters(text), most_people, identities)
    return plain({"settings": to_api(pasted.settings), "missing": pasted.missing, "problems": pasted.problems})


def pasted_controls(text: str, most_people: int = 3) -> list[Any]:
    """What a text puts into each control, through the functions that the WebUI calls; None leaves it as it is."""
    params = parse_parameters(text)
    found = [paster(params) for paster in pasters(most_people)]
    assert plain(found) == plain(paste_values(read(params, most_people), columns(most_people)))
    return plain(found)


def skipped_note(error: Exception) -> str:
    return line(skipped(error))


# X/Y/Z plot


class _Option:
    """As the host declares an axis."""

    def __init__(self, label: str, type: type, apply: Any, format_value: Any = None, confirm: Any = None,
                 cost: float = 0.0, choices: Any = None, prepare: Any = None) -> None:  # fmt: skip
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


def axes(adapters: Sequence[str], identities: Sequence[str]) -> list[_Option]:
    """The axes that are put into the host's grid."""
    grid: Any = ModuleType("xyz_grid")
    grid.AxisOption, grid.axis_options = _Option, [_Option("Nothing", str, None)]
    register(grid, lambda: list(adapters), lambda: list(identities))
    return grid.axis_options[1:]


def axis_option(args: Sequence[Any], noted: Sequence[tuple[_Option, Any]]) -> dict[str, Any]:
    """The settings of `args` after these axes have put these values into a cell."""
    p = SimpleNamespace()
    for option, value in noted:
        option.confirm(p, [value])
        option.apply(p, value, [value])
    return plain(to_api(apply_notes(parse(list(args)), p)))


# The API's routes


def routes_app() -> Any:
    """A FastAPI app with the routes alone; nothing can be asked of it but what it describes."""
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(routes.router(SimpleNamespace()))  # type: ignore[arg-type]
    return app


@contextmanager
def served(folder: Path, pack: Path) -> Iterator[tuple[Any, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """A client of the routes beside a stand-in host with a tiny model, and the host's own txt2img."""
    from fastapi.testclient import TestClient

    from tests.webui.standin.server import running, with_routes

    with running(folder, pack) as server, TestClient(with_routes(server)) as client:
        yield client, server.txt2img


# Folders


def model_folders(models: Path, facesnap_dir: str | None, extra: str) -> dict[str, Any]:
    """Where adapters, packs and identities are looked for."""
    found = Folders.of(models, facesnap_dir, extra)
    return plain({"own": found.own, "adapters": found.adapters, "packs": found.packs, "identities": found.identities})


def install_arguments() -> argparse.ArgumentParser:
    """The options that the extension adds to the host's command line."""
    from preload import preload

    parser = argparse.ArgumentParser()
    preload(parser)
    return parser


# Checkpoints


def adapter_tokens(file: Path, f_id: Any, hidden: Mapping[int, Any], class_vector: Any = None) -> dict[str, Any]:
    """A checkpoint's ID tokens of given inputs: name of the group -> (people, tokens, width)."""
    adapter = load_adapter(file)
    more = {} if class_vector is None else {"class_vector": class_vector}
    return {name: group.tokens for name, group in adapter.mixer.float()(f_id, hidden, **more).items()}
