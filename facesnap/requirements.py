"""The plan of `install.py`. Standard library only: it is loaded by path before anything else is there.

The WebUIs pin numpy, protobuf, Pillow and others and compare every pin exactly at each start, so nothing installed may
move: onnx and insightface, whose metadata ask for another protobuf, come without their dependencies; those are added
one by one, under constraints of everything that is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm",
                "onnxruntime-silicon", "onnxruntime-training", "ort-nightly", "ort-nightly-gpu")  # fmt: skip
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
# Module -> distribution, of what insightface needs besides onnx, onnxruntime and cv2.
NEEDS = {"numpy": "numpy", "scipy": "scipy", "skimage": "scikit-image", "tqdm": "tqdm", "requests": "requests"}
PROBED = ("cv2", "onnx", "onnxruntime", "insightface")
INSIGHTFACE = "insightface>=2.1,<3"  # pure Python; 0.7.3 needs a compiler
OLD_ONNX, NEW_ONNX = "onnx==1.17.0", "onnx>=1.17,<2"  # the last that runs under protobuf 3.20.0
OLD_ONNXRUNTIME = ">=1.17,<1.27"
NEW_PROTOBUF = (4, 25, 1)  # what newer onnx needs


@dataclass(frozen=True)
class Installed:
    """The packages and modules of an environment.

    Attributes:
        versions: normalised distribution name -> version.
        modules: names of the modules (of PROBED and NEEDS) that Python finds.
        broken: module -> why it cannot be imported, of those that are found.
    """

    versions: Mapping[str, str]
    modules: frozenset[str]
    broken: Mapping[str, str] = field(default_factory=dict)


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


def plan(state: Installed, onnxruntime: str = "onnxruntime") -> list[InstallStep]:
    """Steps of the installation, in this order; empty if nothing is to be done or nothing can be.

    Args:
        onnxruntime: which wheel to take where there is none.
    """
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
    if "onnx" in state.modules and not broken:
        return []
    steps = []
    if "protobuf" not in state.versions:
        steps.append(InstallStep("onnx needs protobuf", "protobuf>=3.20.2,<4"))
    if not _old_protobuf(state):
        for name in ("ml-dtypes", "typing-extensions"):
            if name not in state.versions:
                steps.append(InstallStep(f"onnx needs {name}", name))
    why = f"onnx cannot be imported ({state.broken['onnx']})" if broken else "there is no onnx"
    steps.append(InstallStep(why, OLD_ONNX if _old_protobuf(state) else NEW_ONNX, no_deps=True, again=broken))
    return steps


def _old_protobuf(state: Installed) -> bool:
    version = state.versions.get("protobuf")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])
    return numbers < NEW_PROTOBUF


def constraints(state: Installed, step: InstallStep) -> list[str]:
    """Lines of the constraints file: everything installed stays as it is, but for what the step itself replaces."""
    kept = {name: version for name, version in state.versions.items() if name != step.distribution}
    return [f"{name}=={kept[name]}" for name in sorted(kept) if re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", kept[name])]


def command(step: InstallStep, python: str, constraints_file: str, index_url: str = "") -> list[str]:
    """The call of pip."""
    pip = [python, "-m", "pip", "install", "--prefer-binary", "--disable-pip-version-check", "--no-input"]
    pip += ["--retries", "2", "--timeout", "15", "--constraint", constraints_file]
    pip += ["--index-url", index_url] if index_url else []
    pip += ["--no-deps"] if step.no_deps else []
    pip += ["--force-reinstall"] if step.again else []
    return [*pip, step.package]


def advice(state: Installed) -> list[str]:
    """Obstacles to face analysis, one line each; empty if there are none."""
    lines = [f"{module} cannot be imported: {why}." for module, why in sorted(state.broken.items())]
    return lines + [f"{module} is missing." for module in PROBED if module not in state.modules]


def notes(state: Installed) -> list[str]:
    """Doubts that need no action: wheels that overwrite each other's files."""
    present = [[name for name in names if name in state.versions] for names in (ONNXRUNTIMES, OPENCVS)]
    return [
        f"{' and '.join(names)} are both installed and overwrite each other's files; if faces cannot be analysed, "
        "uninstall both and install one."
        for names in present
        if len(names) > 1
    ]
