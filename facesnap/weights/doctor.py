"""Installed and missing parts, with a remedy for each fault."""

from __future__ import annotations

import contextlib
import importlib
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from facesnap.checkpoints.downloads import fault_of
from facesnap.checkpoints.files import SUFFIXES
from facesnap.errors import FaceSnapError
from facesnap.faces.encoder_files import encoder_parents
from facesnap.faces.grey_face import PARSER_FILES, find_parser, parser_folders
from facesnap.faces.known import BASE_TITLES, advice
from facesnap.faces.packs import installed_packs, model_roots, pack_parents, webui_roots
from facesnap.remedies import program
from facesnap.requirements import ONNXRUNTIMES, OPENCVS, normalised
from facesnap.version import __version__
from facesnap.weights.adapters import DiskLookup, entries
from facesnap.weights.catalogue import ADAPTERS
from facesnap.weights.folders import Folders

OK, NOTE, ERROR = "ok", "note", "error"

# Packages that the bare install needs: distribution -> (module, oldest version that works).
REQUIRED = {
    "torch": ("torch", "2.1"),
    "numpy": ("numpy", "1.26"),
    "safetensors": ("safetensors", "0.4"),
    "Pillow": ("PIL", "9.5"),
    "transformers": ("transformers", "4.30"),
    "huggingface-hub": ("huggingface_hub", "0.20"),
    "tqdm": ("tqdm", "4.65"),
    "requests": ("requests", "2.27"),
    "filelock": ("filelock", "3.10"),
    "onnx": ("onnx", "1.13"),
    "insightface": ("insightface", "0.7.3"),
}
OPTIONAL = {"diffusers": ("diffusers", "0.27"), "accelerate": ("accelerate", "0.27")}
# Wheels that install the same module over each other: at most one of each group may be there.
OVERLAPPING = {"onnxruntime": ONNXRUNTIMES, "cv2": OPENCVS}
PREFERRED = {"onnxruntime": "onnxruntime", "cv2": "opencv-python"}
# For users of onnxruntime-gpu or opencv-python-headless: insightface's dependencies bring the other wheels.
WITHOUT_DEPENDENCIES = (
    'pip install --upgrade --no-deps "insightface>=1.0" && '
    'pip install "onnx>=1.13" numpy requests scipy scikit-image tqdm'
)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok", "note" (works, but worth knowing) or "error" (something will not work).
        remedy: what to do; empty if nothing.
    """

    level: str
    what: str
    remedy: str = ""


def installed_versions() -> dict[str, str]:
    """Normalised name -> version of every distribution that Python sees."""
    named = ((distribution.metadata["Name"], distribution.version) for distribution in metadata.distributions())
    return {normalised(name): version for name, version in named if name}


def examine(model_dirs: Sequence[str] = (), versions: dict[str, str] | None = None) -> list[Finding]:
    """All findings. `versions` replaces the installed distributions, for tests."""
    versions = installed_versions() if versions is None else versions
    return [
        Finding(OK, f"facesnap {__version__}, Python {platform.python_version()} on {platform.platform()}"),
        *packages(versions),
        *overlaps(versions),
        *providers(),
        *packs(model_dirs),
        *encoders(model_dirs),
        *weights(model_dirs),
        *parsers(model_dirs),
    ]


def packages(versions: dict[str, str]) -> Iterator[Finding]:
    for level, wanted in ((ERROR, REQUIRED), (NOTE, OPTIONAL)):
        for name, (module, oldest) in wanted.items():
            yield _package(name, module, oldest, versions, level)
    for module, wheels in OVERLAPPING.items():
        present = [wheel for wheel in wheels if wheel in versions]
        if present:
            yield _importable(module, ", ".join(f"{wheel} {versions[wheel]}" for wheel in present))
        else:
            yield Finding(ERROR, f"none of {', '.join(wheels)} is installed", f"pip install {PREFERRED[module]}")


def _package(name: str, module: str, oldest: str, versions: dict[str, str], level: str) -> Finding:
    version = versions.get(normalised(name))
    if name == "insightface":
        install = f"pip install insightface; with onnxruntime-gpu or opencv-python-headless: {WITHOUT_DEPENDENCIES}"
    else:
        install = f'pip install "{name}>={oldest}"'
    if version is None:
        suffix = "" if level == ERROR else " (needed to generate without a WebUI, and to train)"
        return Finding(level, f"{name} is not installed{suffix}", install)
    if _numbers(version) < _numbers(oldest):
        return Finding(level, f"{name} {version} is older than {oldest}", install)
    return _importable(module, f"{name} {version}")


def _importable(module: str, label: str) -> Finding:
    """Really import it: a wheel for another numpy or CUDA is installed and still broken."""
    try:
        # Some packages print or warn as they are imported; stdout may be for JSON alone.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except (ImportError, OSError, AttributeError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = f"pip install --force-reinstall {label.split()[0]} (a wheel built for another numpy does this)"
        return Finding(ERROR, f"{label} is installed but cannot be imported: {reason}", remedy)
    return Finding(OK, label)


def overlaps(versions: dict[str, str]) -> Iterator[Finding]:
    """Wheels of which one overwrites the other's files; which one is then imported is a matter of chance."""
    for module, wheels in OVERLAPPING.items():
        present = [wheel for wheel in wheels if wheel in versions]
        if len(present) < 2:
            continue
        keep = next((wheel for wheel in present if wheel.endswith("-gpu")), present[0])
        yield Finding(
            ERROR,
            f"{' and '.join(present)} are both installed; they overwrite each other's module {module}",
            f"pip uninstall -y {' '.join(present)} && pip install {keep}; then, so that insightface does not "
            f"bring the other back: {WITHOUT_DEPENDENCIES}",
        )


def providers() -> Iterator[Finding]:
    """Run a one-node model on every provider that FaceSnap offers: only a session shows what really runs."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper
    except (ImportError, AttributeError):
        return  # reported with the packages
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", shape[:1], shape[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()
    available = onnxruntime.get_available_providers()
    for provider in ("CPUExecutionProvider", "CUDAExecutionProvider"):
        if provider not in available:
            yield Finding(
                NOTE,
                f"{provider} is not in this onnxruntime; faces are analysed on the CPU",
                "fine for most: analysing takes a fraction of a second. For CUDA replace onnxruntime by "
                "onnxruntime-gpu (never both)",
            )
            continue
        running = onnxruntime.InferenceSession(model, providers=[provider]).get_providers()[0]
        if running == provider:
            yield Finding(OK, f"{provider} runs")
        else:
            yield Finding(
                NOTE,
                f"{provider} is offered, but a session falls back to {running}",
                "install the CUDA and cuDNN versions that this onnxruntime-gpu asks for",
            )


def packs(model_dirs: Sequence[str]) -> Iterator[Finding]:
    try:
        found = list(installed_packs(model_dirs))
    except FaceSnapError as error:
        yield Finding(ERROR, str(error), error.remedy)
        return
    for pack in found:
        licence = f"{pack.licence}, recogniser {pack.recogniser_sha256[:12]}"
        yield Finding(OK, f"pack {pack.name} in {pack.folder} ({licence})")
        for one in pack.passed_over:
            yield Finding(NOTE, f"pack {pack.name}: {one} is passed over", "remove it, if it is no part of the pack")
    if not found:
        yield Finding(
            NOTE,
            f"no face-analysis pack in: {', '.join(map(str, pack_parents(model_dirs)))}",
            f"{advice('buffalo_l', '')}, or {advice('auraface', '')}",
        )


def encoders(model_dirs: Sequence[str]) -> Iterator[Finding]:
    parents = [parent for parent in encoder_parents(model_dirs) if parent.name in ("clip_vision", "CLIP")]
    weights = [file for parent in parents for file in sorted(parent.rglob("*")) if file.suffix.lower() in SUFFIXES]
    files = [file for file in weights if file.is_file() or file.is_symlink()]
    for file in files:
        if fault := fault_of(file):
            yield Finding(NOTE, f"image encoder {file} cannot be used: {fault.reason}", fault.remedy)
        else:
            yield Finding(OK, f"image encoder {file} ({file.stat().st_size / 1e6:.0f} MB)")
    if not files:
        yield Finding(
            NOTE,
            "no image encoder in models/clip_vision or models/CLIP",
            f"FaceID-Plus and PlusV2 need one: {advice('vit-h', '')}",
        )


def weights(model_dirs: Sequence[str]) -> Iterator[Finding]:
    """Which adapters there are, and what each public family lacks, with the command that fetches it."""
    roots = model_roots(model_dirs)
    places = [str(root) for root in roots]
    listed = [one for root in roots for one in entries(Folders.of(root), places=places)]
    found = {(one.path.resolve(), one.family): one for one in listed}
    for one in found.values():
        if one.fits:
            yield Finding(OK, f"adapter {one.title} ({one.path})")
        else:
            yield Finding(NOTE, f"adapter {one.path}: {one.note}", one.remedy or "fetch it again, or remove it")
    where = "" if webui_roots() else f' --folder "{roots[0] if roots else "path/to/models"}"'
    offered = {(family.key, item.base): (family, item) for item, family in reversed(ADAPTERS)}  # the first of several
    look = DiskLookup(places)
    for (key, base), (family, item) in reversed(offered.items()):
        mine = [one for one in found.values() if (one.family, one.base) == (key, base) and one.fits and not one.choice]
        title = f"{family.title} for {BASE_TITLES[base]}"
        needs = {need for one in mine[:1] for need in one.needs} or set(look.needs(family.recogniser, family.encoder))
        missing = [need for need in sorted(needs, key=str) if not need.there]
        names = [need.download for need in missing]
        if not mine:
            names.insert(0, item.name)
        if not names:
            yield Finding(OK, f"{title}: everything is there")
            continue
        lacks = [*([] if mine else ["its adapter"]), *(need.what for need in missing)]
        yield Finding(NOTE, f"{title}: {', '.join(lacks)} missing", f"{program()} download {' '.join(names)}{where}")


def parsers(model_dirs: Sequence[str]) -> Iterator[Finding]:
    """The face-parsing network, with which PuLID sees better."""
    file = find_parser(model_dirs)
    if file is not None:
        yield Finding(OK, f"face-parsing network {file}")
        return
    yield Finding(
        NOTE,
        f"no face-parsing network ({' or '.join(PARSER_FILES)}) in: "
        f"{', '.join(map(str, parser_folders(model_dirs))) or 'no model folder is known'}",
        "used by PuLID only, which else cuts the background of photos off by an ellipse: put "
        "https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth into one of them",
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, enough to compare it with a lower bound."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
