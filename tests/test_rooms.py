"""The rooms of the package: which may import which, and who may import what from outside.

All imports count, also those inside functions and under TYPE_CHECKING: a circle that is hidden in a function is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "facesnap"

# From the ground up. A room imports itself and what stands above it in this list, never its own line's neighbours.
FLOORS = (
    "remedies requirements",
    "errors version",
    "settings files",
    "sheet",
    "models landmarks",
    "attach",
    "checkpoints",
    "faces",
    "families hosts likeness",
    "pipeline",
    "weights",
    "webui.log",
    "webui.options",
    "webui.documentation webui.generation",
    "webui.process",
    "webui.ui webui.api",
    "world",
    "training",
    "evaluation",
    "tiny",
    "demo",
    "bench",
    "cli",
    "__main__ facesnap",  # the public face, imported when it is first used
)
LAB = {"world", "training", "evaluation", "tiny", "demo", "bench"}
FLOOR = {room: number for number, line in enumerate(FLOORS) for room in line.split()} | {"webui": len(FLOORS)}
WEBUI = {room for room in FLOOR if room.startswith("webui")}

HOST_MODULES = {"modules", "modules_forge", "backend", "ldm_patched"}  # the WebUIs' own top-level packages
KNOWS_HOST = ("facesnap.webui", "facesnap.hosts.a1111", "facesnap.hosts.forge", "facesnap.hosts.forge_memory")
ONLY = {  # room -> the only packages beyond the standard library
    "remedies": set(),
    "errors": set(),
    "version": set(),
    "requirements": set(),
    "settings": set(),
    "files": {"filelock"},
    "models": {"torch"},
    "attach": {"torch"},
    "landmarks": {"numpy", "PIL"},
}
OWN_ONLY = {
    "settings": {"errors"}, "requirements": set(), "remedies": set(), "errors": {"remedies"}, "version": set(),
}  # fmt: skip

Graph = dict[str, set[str]]  # module -> the modules that it imports; those from outside by their first name


def read(root: Path, package: str = PACKAGE) -> Graph:
    """The imports of every module of a package that lies in a folder."""
    files = {_name(path.relative_to(root)): path for path in sorted((root / package).rglob("*.py"))}
    return {name: imports(path, name, files) for name, path in files.items()}


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, name: str, known: Iterable[str]) -> set[str]:
    """The modules that a file imports: of the known ones the module itself, of others the first part of the name."""
    known, found = set(known), set()
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            parts = [f"{origin}.{alias.name}" for alias in node.names]
            wanted = [part if part in known else origin for part in parts]  # a submodule, or a name of the module
        else:
            continue
        found |= {one if one in known else one.split(".")[0] for one in wanted}
    return found - {name}


def room_of(module: str) -> str:
    """The room of a module of the package: of the WebUI's, the part of it."""
    parts = module.split(".")[1:]
    return PACKAGE if not parts else ".".join(parts[:2]) if parts[0] == "webui" else parts[0]


def arrows(graph: Graph) -> list[tuple[str, str]]:
    """(module, imported module) for all imports inside the package."""
    return [(name, one) for name, found in sorted(graph.items()) for one in sorted(found) if one in graph]


def upwards(graph: Graph) -> list[str]:
    """Imports that go up or sideways, from the WebUI into the lab or back, and rooms that the table does not have."""
    wrong = [f"{name}: its room is not in FLOORS" for name in graph if room_of(name) not in FLOOR]
    for name, one in arrows(graph):
        a, b = room_of(name), room_of(one)
        apart = {a, b} & WEBUI and {a, b} & LAB
        allowed = OWN_ONLY.get(a)
        if a != b and (apart or FLOOR.get(a, 0) <= FLOOR.get(b, 99) or (allowed is not None and b not in allowed)):
            wrong.append(f"{name} imports {one}")
    return wrong


def rooms(graph: Graph) -> Graph:
    """The same graph between rooms."""
    found: Graph = {}
    for name, one in arrows(graph):
        if room_of(name) != room_of(one):
            found.setdefault(room_of(name), set()).add(room_of(one))
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of imports, the first name again at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def outsiders(graph: Graph) -> list[str]:
    """Imports from outside that a room may not have."""
    wrong = []
    for name, found in sorted(graph.items()):
        outside = {one for one in found if one not in graph} - set(sys.stdlib_module_names) - {PACKAGE}
        allowed = ONLY.get(room_of(name))
        if allowed is not None:
            wrong += [f"{name} imports {one}" for one in sorted(outside - allowed)]
        elif not any(name == place or name.startswith(place + ".") for place in KNOWS_HOST):
            wrong += [f"{name} imports {one}" for one in sorted(outside & HOST_MODULES)]
    return wrong


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read(ROOT)


def test_no_arrow_upwards(graph):
    assert not upwards(graph), "\n".join(upwards(graph))


def test_no_circle_between_rooms(graph):
    assert circle(rooms(graph)) == []


def test_no_circle_between_modules(graph):
    assert circle({name: found & graph.keys() for name, found in graph.items()}) == []


def test_rooms_import_from_outside_what_they_may(graph):
    assert not outsiders(graph), "\n".join(outsiders(graph))


def test_the_installer_needs_the_standard_library_alone():
    for file in ("install.py", "preload.py"):
        assert imports(ROOT / file, file, ()) <= set(sys.stdlib_module_names)


def test_the_whole_package_was_read(graph):
    assert {"facesnap", "facesnap.attach.attachment", "facesnap.webui.ui.accordion"} <= graph.keys()
    assert "facesnap.attach.topology" in graph["facesnap.attach.attachment"]
    assert "torch" in graph["facesnap.attach.attachment"]


def made(folder: Path, files: Mapping[str, str]) -> Graph:
    """The graph of a package of these files: path -> source."""
    for path, source in files.items():
        file = folder / PACKAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    return read(folder)


def test_a_sound_package_passes(tmp_path):
    graph = made(tmp_path, {
        "__init__.py": "from facesnap.version import __version__",
        "version.py": "",
        "errors.py": "import os",
        "models/__init__.py": "import torch\nfrom facesnap.errors import FaceSnapError",
        "attach/__init__.py": "from facesnap.attach.hooks import attach",
        "attach/hooks.py": "from .. import models\nfrom ..errors import FaceSnapError",
        "webui/process.py": "from modules import shared",
    })  # fmt: skip
    assert graph["facesnap.attach.hooks"] == {"facesnap.models", "facesnap.errors"}
    assert (upwards(graph), outsiders(graph), circle(rooms(graph))) == ([], [], [])


@pytest.mark.parametrize("source", [
    "from facesnap.faces.face import Face",
    "import facesnap.faces.face",
    "from facesnap.faces import face",
    "from ..faces import face as f",
    "def f():\n    from facesnap.faces.face import Face",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from facesnap.faces.face import Face",
])  # fmt: skip
def test_an_arrow_upwards_is_found_however_it_is_written(tmp_path, source):
    graph = made(tmp_path, {"faces/__init__.py": "", "faces/face.py": "", "models/mixer.py": source})
    assert upwards(graph) == ["facesnap.models.mixer imports facesnap.faces.face"]


@pytest.mark.parametrize(("name", "source"), [
    ("settings/model.py", "from facesnap.version import __version__"),
    ("hosts/base.py", "from facesnap.families import registry"),
    ("weights/doctor.py", "from facesnap.tiny import ship"),
    ("webui/ui/page.py", "from facesnap.tiny import ship"),
    ("tiny/ship.py", "from facesnap.webui import log"),
    ("webui/generation/job.py", "from facesnap.webui import process"),
    ("webui/api/routes.py", "from facesnap.webui.ui import lists"),
    ("attach/hooks.py", "from facesnap import __version__"),
    ("attic/old.py", ""),
])  # fmt: skip
def test_what_else_the_floors_forbid(tmp_path, name, source):
    files = {"version.py": "", "__init__.py": "", "families/registry.py": "", "tiny/ship.py": "", "webui/log.py": "",
             "webui/process.py": "", "webui/ui/lists.py": "", name: source}  # fmt: skip
    found = upwards(made(tmp_path, files))
    assert len(found) == 1
    assert found[0].startswith(f"facesnap.{name.removesuffix('.py').replace('/', '.')}")


def test_circles_are_found(tmp_path):
    graph = made(tmp_path, {
        "faces/a.py": "from facesnap.faces import b",
        "faces/b.py": "def f():\n    from facesnap.faces.c import x",
        "faces/c.py": "import facesnap.faces.a",
        "weights/d.py": "import facesnap.webui.e",
        "webui/e.py": "import facesnap.weights.d",
    })  # fmt: skip
    assert set(circle({n: f for n, f in graph.items() if ".faces." in n})) == {f"facesnap.faces.{n}" for n in "abc"}
    assert set(circle(rooms(graph))) == {"weights", "webui.e"}


@pytest.mark.parametrize(("name", "source"), [
    ("models/mixer.py", "import gradio"),
    ("attach/hooks.py", "from diffusers import UNet2DConditionModel"),
    ("landmarks/fit.py", "import torch"),
    ("requirements.py", "import numpy"),
    ("settings/model.py", "from modules import shared"),
    ("pipeline/cache.py", "def f():\n    from modules import shared"),
    ("hosts/generation.py", "import backend.memory_management"),
])  # fmt: skip
def test_imports_from_outside_are_found(tmp_path, name, source):
    assert len(outsiders(made(tmp_path, {name: source}))) == 1
