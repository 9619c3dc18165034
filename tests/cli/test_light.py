"""Start-up: what `import facesnap`, --version and --help may load, seen in sys.modules of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "PIL", "transformers", "diffusers", "onnxruntime", "insightface", "cv2", "scipy"}
CALL = """
import sys
{code}
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & set({heavy!r}))
print("LOADED", *heavy)
"""


def loaded(code: str) -> set[str]:
    """The heavy packages in sys.modules after some code."""
    script = CALL.format(code=code, heavy=sorted(HEAVY))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, encoding="utf-8")
    return set(done.stdout.strip().splitlines()[-1].split()[1:])


def call(*argv: str) -> str:
    return f"""
from facesnap.cli import main
try:
    main({list(argv)!r})
except SystemExit:
    pass
"""


@pytest.mark.parametrize("argv", [("--version",), ("--help",), ("-v", "--help"), ("nonsense",), ()])
def test_the_command_line_is_light_until_a_command_runs(argv):
    assert loaded(call(*argv)) == set()


def test_importing_the_package_is_light():
    assert loaded("import facesnap; assert 'load_adapter' in dir(facesnap)") == set()
    assert loaded("import facesnap.__main__") == set()


def test_a_heavy_import_is_seen():
    """The measurement itself: the public names are the real ones, and using one loads torch."""
    code = """
from facesnap import FaceSnapPipeline, load_adapter
from facesnap.families.registry import load_adapter as own
assert load_adapter is own and FaceSnapPipeline.__name__ == "FaceSnapPipeline"
"""
    assert {"torch", "numpy"} <= loaded(code)


def test_an_unknown_public_name_is_an_attribute_error():
    import facesnap

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        facesnap.nonsense  # noqa: B018
    assert {"load_adapter", "FaceSnapPipeline", "__version__"} <= set(dir(facesnap))


def test_every_command_has_a_module_and_every_module_a_command():
    import importlib
    import pkgutil

    from facesnap import cli

    modules = {one.name for one in pkgutil.iter_modules(cli.__path__)} - {"options"}
    assert modules == set(cli.COMMANDS)
    for name in cli.COMMANDS:
        module = importlib.import_module(f"facesnap.cli.{name}")
        assert callable(module.add_arguments)
        assert callable(module.run)


@pytest.mark.parametrize("command", ["generate", "doctor", "bench"])
def test_a_command_explains_itself(command, capsys):
    from facesnap.cli import COMMANDS, main

    with pytest.raises(SystemExit) as stop:
        main(["-v", command, "--help"])
    assert stop.value.code == 0
    assert " ".join(COMMANDS[command].split()) in " ".join(capsys.readouterr().out.split())
