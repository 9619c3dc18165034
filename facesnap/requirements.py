"""The plan of `install.py`. Standard library only: it is loaded by path before anything else is there.

The WebUIs pin numpy, protobuf, Pillow and others and compare every pin exactly at each start, so nothing installed may
move: onnx and insightface, whose metadata ask for another protobuf, come without their dependencies; those are added
one by one, under constraints of everything that is installed. Which onnx can be imported is for the protobuf that is
there to say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm",
                "onnxruntime-silicon", "onnxruntime-training", "ort-nightly", "ort-nightly-gpu")  # fmt: skip
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
# Module -> distribution, of what insightface needs besides onnx, onnxruntime and cv2.
NEEDS = {"numpy": "numpy", "scipy": "scipy", "skimage": "scikit-image", "tqdm": "tqdm", "requests": "requests"}
PROBED = ("cv2", "onnx", "onnxruntime", "insightface")
INSIGHTFACE = "insightface>=2.1,<3"  # pure Python; 0.7.3 needs a compiler
OLD_ONNXRUNTIME = ">=1.17,<1.27"
NEW_PROTOBUF = (4, 25, 1)  # what onnx 1.18 and newer need
# Protobuf from which on -> the onnx to take. Older ones have no `runtime_version`, which newer onnx imports.
ONNX = {(6, 31, 1): "onnx>=1.17,<2", NEW_PROTOBUF: "onnx>=1.18,<1.23", (0,): "onnx==1.17.0"}
LAST_PYTHON = (3, 12)  # that onnx 1.17.0 has wheels for
LONGEST = 200_000  # characters of another extension's file that are looked through
_PIN = re.compile(
    r"\b(insightface|onnxruntime(?:-gpu|-directml)?|onnx)\s*(?:\[[\w,]*\])?\s*(==|<=|~=|<)\s*([0-9][\w.]*)"
)


@dataclass(frozen=True)
class Installed:
    """The packages and modules of an environment.

    Attributes:
        versions: normalised distribution name -> version.
        modules: names of the modules (of PROBED and NEEDS) that Python finds.
        broken: module -> why it cannot be imported, of those that are found.
        python: its version.
    """

    versions: Mapping[str, str]
    modules: frozenset[str]
    broken: Mapping[str, str] = field(default_factory=dict)
    python: tuple[int, int] = sys.version_info[:2]


@dataclass(frozen=True)
class InstallStep:
    """One call of pip.

    Attributes:
        why: for people. package: pip's requirement. no_deps: without its dependencies. again: even if it is there.
    """

    why: str
    package: str
    no_deps: bool = False
    again: bool = False

    @property
    def distribution(self) -> str:
        """Normalised name of what it installs."""
        return normalised(re.split(r"[^A-Za-z0-9._-]", self.package)[0])


def normalised(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plan(state: Installed, onnxruntime: str = "onnxruntime", replaced: Collection[str] = ()) -> list[InstallStep]:
    """Steps of the installation, in this order; empty if nothing is to be done or nothing can be.

    Args:
        onnxruntime: which wheel to take where there is none.
        replaced: "distribution version" of what was replaced at an earlier start: not again, whoever brought it back.
    """
    steps = _steps(state, onnxruntime)
    return [step for step in steps if not (step.again and _label(state, step.distribution) in replaced)]


def _label(state: Installed, distribution: str) -> str:
    return f"{distribution} {state.versions.get(distribution, '')}"


def replacement(state: Installed, step: InstallStep) -> str:
    """Entry of `replaced` for a step that replaces something; "" for others."""
    return _label(state, step.distribution) if step.again else ""


def _steps(state: Installed, onnxruntime: str) -> list[InstallStep]:
    steps = [
        InstallStep(f"insightface needs {distribution}", distribution)
        for module, distribution in NEEDS.items()
        if module not in state.modules and distribution not in state.versions
    ]
    if "cv2" not in state.modules and state.versions.keys().isdisjoint(OPENCVS):
        steps.append(InstallStep("there is no OpenCV", "opencv-python"))
    steps += _onnx(state)
    if "onnxruntime" not in state.modules and state.versions.keys().isdisjoint(ONNXRUNTIMES):
        old = OLD_ONNXRUNTIME if _old_protobuf(state) else ">=1.17"
        steps.append(InstallStep("there is no onnxruntime", f"{onnxruntime}{old}"))
    if "insightface" not in state.modules:
        steps.append(InstallStep("there is no insightface", INSIGHTFACE, no_deps=True))
    elif not steps and set(state.broken) == {"insightface"} and set(PROBED) <= state.modules:
        # All it needs works: the fault is its own.
        why = f"insightface {state.versions.get('insightface', '')} cannot be imported ({state.broken['insightface']})"
        steps.append(InstallStep(why, INSIGHTFACE, no_deps=True, again=True))
    return steps


def _onnx(state: Installed) -> list[InstallStep]:
    """onnx itself and what it imports; an onnx that cannot be imported is replaced by one that suits protobuf."""
    broken = "onnx" in state.broken
    package = _onnx_package(state)
    if ("onnx" in state.modules and not broken) or not package:
        return []
    steps = []
    if "protobuf" not in state.versions:
        steps.append(InstallStep("onnx needs protobuf", _protobuf(state)))
    if not _old_protobuf(state):
        for name in ("ml-dtypes", "typing-extensions"):
            if name not in state.versions:
                steps.append(InstallStep(f"onnx needs {name}", name))
    why = f"onnx cannot be imported ({state.broken['onnx']})" if broken else "there is no onnx"
    steps.append(InstallStep(why, package, no_deps=True, again=broken))
    return steps


def _onnx_package(state: Installed) -> str:
    """Requirement of the onnx that suits protobuf and Python; "" where there is none."""
    package = next(package for oldest, package in ONNX.items() if _protobuf_version(state) >= oldest)
    return "" if _old_protobuf(state) and state.python > LAST_PYTHON else package


def _protobuf(state: Installed) -> str:
    """Requirement of the protobuf to take where there is none."""
    return "protobuf>=4.25.8,<5" if state.python > LAST_PYTHON else "protobuf>=3.20.2,<4"


def _protobuf_version(state: Installed) -> tuple[int, ...]:
    version = state.versions.get("protobuf") or _protobuf(state).partition(">=")[2].partition(",")[0]
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _old_protobuf(state: Installed) -> bool:
    return _protobuf_version(state) < NEW_PROTOBUF


def constraints(state: Installed, step: InstallStep) -> list[str]:
    """Lines of the constraints file: everything installed stays as it is, but for what the step itself replaces."""
    kept = {name: version for name, version in state.versions.items() if name != step.distribution}
    return [f"{name}=={kept[name]}" for name in sorted(kept) if re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", kept[name])]


def command(step: InstallStep, python: str, constraints_file: str, index_url: str = "", uv: str = "") -> list[str]:
    """The call of pip, or of uv where its program is named: environments that uv has made hold no pip."""
    if uv:
        call = [uv, "pip", "install", "--python", python, "--constraint", constraints_file]
        again = ["--reinstall-package", step.distribution]
    else:
        call = [python, "-m", "pip", "install", "--prefer-binary", "--disable-pip-version-check", "--no-input"]
        call += ["--retries", "2", "--timeout", "15", "--constraint", constraints_file]
        again = ["--force-reinstall"]
    call += ["--index-url", index_url] if index_url else []
    call += ["--no-deps"] if step.no_deps else []
    call += again if step.again else []
    return [*call, step.package]


def advice(state: Installed) -> list[str]:
    """Obstacles to face analysis, one line each; empty if there are none."""
    lines = [f"{module} cannot be imported: {why}." for module, why in sorted(state.broken.items())]
    lines += [f"{module} is missing." for module in PROBED if module not in state.modules]
    if ("onnx" not in state.modules or "onnx" in state.broken) and not _onnx_package(state):
        python = ".".join(map(str, state.python))
        lines.append(
            f"No onnx for Python {python} works with protobuf {state.versions.get('protobuf')}, which the WebUI pins: "
            f"run it with Python 3.10 to {'.'.join(map(str, LAST_PYTHON))}, or use a WebUI that pins protobuf 4.25.1 "
            "or newer."
        )
    return lines


@dataclass(frozen=True)
class Pin:
    """Another extension's demand of a version: its folder's name, the file inside, the requirement."""

    extension: str
    file: str
    requirement: str


def pins(folders: Collection[Path], own: Path) -> Iterator[Pin]:
    """Demands that other extensions make of insightface, onnx and onnxruntime, in their requirements and installers.

    Args:
        folders: that hold extensions. own: this one's, which is passed over.
    """
    for folder in folders:
        for extension in sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else ():
            if extension.resolve() == own.resolve():
                continue
            for file in sorted({*extension.glob("*requirements*.txt"), *extension.glob("install.py")}):
                try:
                    text = file.read_text(encoding="utf-8", errors="replace")[:LONGEST]
                except OSError:
                    continue
                for found in sorted({"".join(match.groups()) for match in _PIN.finditer(text)}):
                    yield Pin(extension.name, file.name, found)


def blame(state: Installed, before: Mapping[str, str], demands: Collection[Pin]) -> list[str]:
    """Sentences on what other extensions did to face analysis that does not work.

    Args:
        before: distribution -> version, of the last start at which all worked.
    """
    lines = []
    for name in ("onnx", "insightface", *ONNXRUNTIMES):
        now = state.versions.get(name)
        if before.get(name) and now and now != before[name]:
            lines.append(f"{name} is {now} now and was {before[name]} when face analysis worked.")
    lines += [
        f"The extension {pin.extension} asks for {pin.requirement} ({pin.file}): if it takes turns with FaceSnap, "
        "disable one of them, or ask its author to allow other versions."
        for pin in demands
    ]
    return lines


def notes(state: Installed) -> list[str]:
    """Doubts that need no action: wheels that overwrite each other's files."""
    present = [[name for name in names if name in state.versions] for names in (ONNXRUNTIMES, OPENCVS)]
    return [
        f"{' and '.join(names)} are both installed and overwrite each other's files; if faces cannot be analysed, "
        "uninstall both and install one."
        for names in present
        if len(names) > 1
    ]
