"""Where another version of Python is, for an environment that wants it: `python -m tests.components.python 3.13`.

Prints its path, or nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping

ASK = "import sys; print('{}.{}'.format(*sys.version_info)); print(sys.executable)"


def _run(*command: str, more: Mapping[str, str] | None = None) -> list[str]:
    """Lines of a command's output; none where it is not there or fails."""
    found = shutil.which(command[0])
    if found is None:
        return []
    done = subprocess.run([found, *command[1:]], capture_output=True, text=True, env={**os.environ, **(more or {})})
    return done.stdout.split("\n") if done.returncode == 0 else []


def _answers(version: str) -> Iterator[list[str]]:
    """What interpreters say of themselves: on PATH, of Windows' launcher, of uv, of pyenv (whose shim fails where the
    version is not chosen)."""
    yield _run(f"python{version}", "-c", ASK)
    yield _run("py", f"-{version}", "-c", ASK)
    for path in _run("uv", "python", "find", version)[:1]:
        yield _run(path.strip(), "-c", ASK)
    for name in _run("pyenv", "versions", "--bare"):
        if name.strip().startswith(f"{version}."):
            yield _run(f"python{version}", "-c", ASK, more={"PYENV_VERSION": name.strip()})


def find(version: str) -> str:
    """The path of an interpreter of a version ("3.13"), or ""."""
    return next((answer[1] for answer in _answers(version) if answer[:1] == [version]), "")


if __name__ == "__main__":
    print(find(sys.argv[1]))
