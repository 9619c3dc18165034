"""Run by the WebUI before it starts: installs what FaceSnap lacks and moves nothing that is installed.

`python install.py --dry-run` prints what it would do. It never fails the start: what is missing is said here and
again by FaceSnap when it is used. Set FACESNAP_ONNXRUNTIME to choose another wheel than onnxruntime.
"""

# ruff: noqa: T201 (what it prints is what people see at the start)
from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
STAMP = HERE / ".facesnap_installed.json"  # the state last seen; the same state is not looked into again
ROUNDS = 3  # a need, then what needed it, then a look
PROBE = """
import contextlib, importlib, io, json, sys, warnings
broken, out = {}, sys.stdout
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module(name)
    except BaseException as error:
        broken[name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
print(json.dumps(broken), file=out)
"""


def load_requirements() -> ModuleType:
    """facesnap/requirements.py by its path: the package need not be importable yet."""
    path = HERE / "facesnap" / "requirements.py"
    spec = importlib.util.spec_from_file_location("facesnap_requirements", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


requirements = load_requirements()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print what would be installed, and stop")
    parser.add_argument("--skip-install", action="store_true", help="do nothing")
    args, _ = parser.parse_known_args(argv)
    if args.skip_install or "--skip-install" in os.environ.get("COMMANDLINE_ARGS", "").split():
        return 0
    state, seen = look(deep=False), _read_stamp()
    if seen is not None and seen.get("state") == _digest(state) and not args.dry_run:
        if seen.get("broken"):  # no wheel helps; but a system library may have come meanwhile
            report(look(), seen.get("worked", {}))
        return 0
    state = look()
    if args.dry_run:
        dry_run(state)
        return 0
    # What one start has replaced stays as others bring it back, until others are gone or have come.
    rivals = sorted({pin.extension for pin in demands()})
    replaced = list(seen.get("replaced", ())) if seen is not None and seen.get("rivals") == rivals else []
    state, failed = install(state, replaced)
    for line in requirements.notes(state):
        say(line)
    worked = (seen or {}).get("worked", {})
    if report(state, worked) and failed:
        return 0  # the next start tries again
    _write_stamp(state, replaced, rivals, worked)
    return 0


def demands() -> list:
    """Versions that the WebUI's other extensions ask for."""
    return list(requirements.pins((HERE.parent, HERE.parent.parent / "extensions-builtin"), HERE))


def report(state: object, worked: dict) -> bool:
    """Say what is wrong, and who may have done it. Returns whether anything is.

    Args:
        worked: versions of the last start at which nothing was.
    """
    lines = requirements.advice(state)
    for line in [*lines, *(requirements.blame(state, worked, demands()) if lines else ())]:
        say(line)
    if lines:
        say("The WebUI starts without face analysis; `python -m facesnap doctor` in its environment says more.")
    return bool(lines)


def look(deep: bool = True) -> object:
    """What is installed; deep: also what of it can be imported, in a process of its own (some seconds)."""
    versions = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] if distribution.metadata else None
        if name and distribution.version:
            versions.setdefault(requirements.normalised(name), distribution.version)  # the first is the one imported
    importlib.invalidate_caches()
    names = (*requirements.PROBED, *requirements.NEEDS)
    modules = frozenset(name for name in names if _found(name))
    probed = [name for name in requirements.PROBED if name in modules]
    return requirements.Installed(versions, modules, _broken(probed) if deep and probed else {})


def _found(module: str) -> bool:
    """Whether Python finds it; a folder of that name without code in it does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _broken(modules: list[str]) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *modules], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    try:
        return dict(json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1]))
    except (ValueError, IndexError):
        return dict.fromkeys(modules[-1:], f"Python stopped with exit code {done.returncode}")


def install(state: object, replaced: list[str]) -> tuple[object, bool]:
    """Carry the plan out. Returns the state afterwards and whether a call of pip failed.

    Args:
        replaced: what earlier starts have replaced; what this one replaces is added.
    """
    tried: set[str] = set()
    for _ in range(ROUNDS):
        steps = [step for step in _plan(state, replaced) if step.package not in tried]
        if not steps:
            break
        new = list(filter(None, (requirements.replacement(state, step) for step in steps)))
        for step in steps:
            tried.add(step.package)
            say(f"{step.why}: installing {step.package}")
            if not pip(step, look(deep=False)):
                return look(), True
        replaced += new
        state = look()
    return state, False


def _uv() -> str:
    """The program uv, where this environment has no pip: those that uv has made have none."""
    return "" if importlib.util.find_spec("pip") else shutil.which("uv") or ""


def pip(step: object, state: object) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(requirements.constraints(state, step)) + "\n", encoding="utf-8")
        index = os.environ.get("INDEX_URL", "")  # the WebUI's own variable
        call = requirements.command(step, sys.executable, str(file), index, _uv())
        done = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode == 0:
        return True
    text = done.stdout.decode("utf-8", "replace").strip()
    errors = [line for line in text.splitlines() if line.lower().startswith("error")] or text.splitlines()[-3:]
    say(f"{step.package} could not be installed (pip's exit code {done.returncode}):")
    for line in errors[:5]:
        say(f"  {line}")
    say("Without network, connect once and start again, or install it by hand with the same command:")
    say("  " + _shown(requirements.command(step, "python", "CONSTRAINTS.txt", index, "uv" if _uv() else "")))
    return False


def dry_run(state: object) -> None:
    steps = _plan(state)
    for step in steps:
        index = os.environ.get("INDEX_URL", "")
        call = requirements.command(step, "python", "CONSTRAINTS.txt", index, "uv" if _uv() else "")
        print(f"# {step.why}\n{_shown(call)}")
    if steps:
        print("# CONSTRAINTS.txt pins everything that is installed now")
    for line in (*requirements.advice(state), *requirements.notes(state)):
        print(f"# {line}")
    if not steps:
        print("# nothing to install")


def _plan(state: object, replaced: list[str] | tuple[str, ...] = ()) -> list:
    return requirements.plan(state, os.environ.get("FACESNAP_ONNXRUNTIME", "onnxruntime"), replaced)


def _digest(state: object) -> str:
    """Of everything that decides whether face analysis works: versions, found modules, the interpreter."""
    content = [sorted(state.versions.items()), sorted(state.modules), sys.version, sys.prefix]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read_stamp() -> dict | None:
    try:
        found = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kinds = {"state": str, "broken": bool, "replaced": list, "rivals": list, "worked": dict}
    whole = isinstance(found, dict) and all(isinstance(found.get(key, kind()), kind) for key, kind in kinds.items())
    return found if whole else None


def _write_stamp(state: object, replaced: list[str], rivals: list[str], worked: dict) -> None:
    broken = bool(requirements.advice(state))
    versions = {
        name: state.versions[name] for name in sorted(state.versions) if name.startswith(("onnx", "insightface"))
    }
    content = {
        "state": _digest(state),
        "broken": broken,
        "replaced": replaced,
        "rivals": rivals,
        "worked": worked if broken else versions,
    }
    try:
        STAMP.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        say(f"{STAMP} cannot be written ({error}); the next start looks again.")


def _shown(call: list[str]) -> str:
    """For cmd.exe and sh alike."""
    return " ".join(f'"{part}"' if set(part) & set("<>, ") else part for part in call)


def say(line: str) -> None:
    print(f"FaceSnap: {line}", flush=True)


if __name__ == "__main__":
    try:
        code = main()
    except (OSError, subprocess.SubprocessError) as error:  # the WebUI is to start whatever happens here
        say(f"its requirements could not be checked ({type(error).__name__}: {error}).")
        code = 0
    sys.exit(code)
