"""Find a face-analysis pack (insightface's ONNX files) and its detector and recogniser."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from facesnap.errors import PackError, importing
from facesnap.faces.known import PACK_LICENCES, PACK_SOURCES, advice
from facesnap.files import cached_sha256, unpacked_name
from facesnap.landmarks.detect import kind_of as landmarks_of

logger = logging.getLogger(__name__)

DETECTOR, RECOGNISER, OTHER = "detector", "recogniser", "other"
CROP_SIDE, EMBEDDING_WIDTH = 112, 512  # of recognisers: pixels of the aligned crop, numbers of a vector
AGE_SIDE = 96  # pixels that insightface's net of gender and age takes
Shape = tuple[int | None, ...]
MODELS_VARIABLE = "FACESNAP_MODELS"
# Below a folder of models, where the WebUI's extensions keep packs.
PACK_PARENTS = (".", "insightface/models", "insightface", "FaceSnap", "FaceSnap/packs", "auraface")
# Below a WebUI, where its ControlNet extension downloads packs to.
ANNOTATOR_PARENTS = (
    "extensions/sd-webui-controlnet/annotator/downloads/insightface/models",
    "models/ControlNetPreprocessor/insightface/models",
)


@dataclass(frozen=True)
class Pack:
    """A folder with one detector and one recogniser.

    Attributes:
        name: the alias people know it by (its folder's name); the recogniser's identity is its sha256.
        detector, recogniser: ONNX files.
        passed_over: ONNX files of the folder that are no part of a pack, each with the reason, for people.
    """

    name: str
    folder: Path
    detector: Path
    recogniser: Path
    passed_over: tuple[str, ...] = ()

    @property
    def recogniser_sha256(self) -> str:
        return cached_sha256(self.recogniser)

    @property
    def licence(self) -> str:
        """Licence of a well-known pack's weights; insightface's own packs are for research only."""
        return PACK_LICENCES.get(self.name.lower(), "not known to FaceSnap: see where the pack came from")


def webui_roots() -> list[Path]:
    """WebUI folders: the one whose extensions/ this package is in, and the current one if it is one."""
    roots = [parent.parent for parent in Path(__file__).resolve().parents if parent.name == "extensions"]
    here = Path.cwd()
    if (here / "models").is_dir() and ((here / "webui.py").is_file() or (here / "launch.py").is_file()):
        roots.append(here)
    return list(dict.fromkeys(roots))


def model_roots(model_dirs: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Folders of models in search order: the caller's, $FACESNAP_MODELS, the WebUI's models/."""
    named = [Path(folder).expanduser() for folder in model_dirs]
    variable = os.environ.get(MODELS_VARIABLE, "")
    named += [Path(folder).expanduser() for folder in variable.split(os.pathsep) if folder.strip()]
    return list(dict.fromkeys(named + [root / "models" for root in webui_roots()]))


def pack_parents(model_dirs: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Folders that may hold pack folders, in search order; ~/.insightface/models comes last."""
    parents = [root / parent for root in model_roots(model_dirs) for parent in PACK_PARENTS]
    parents += [root / parent for root in webui_roots() for parent in ANNOTATOR_PARENTS]
    return list(dict.fromkeys([*parents, Path.home() / ".insightface" / "models"]))


def find_pack(name: str | os.PathLike, model_dirs: Iterable[str | os.PathLike] = ()) -> Pack:
    """A pack by folder, or by name in the usual places (case is ignored).

    Raises:
        PackError: there is none, or its folder lacks a detector or a recogniser.
        MissingDependencyError: the package onnx is missing.
    """
    direct = Path(name).expanduser()
    if direct.is_dir():
        return load_pack(direct)
    if direct.is_file():
        raise PackError(
            f"Face-analysis pack {direct} is a file.",
            expected="the folder of a pack, or its name.",
            remedy=f"give the folder {direct.parent}."
            if direct.suffix.lower() == ".onnx"
            else "unpack it into a folder of its own, and give that.",
        )
    tried = pack_parents(model_dirs)
    if direct.name == str(name):
        for folder in _folders_named(str(name), tried):
            return load_pack(folder)
    raise _missing(str(name), tried)


def is_installed(name: str, model_dirs: Iterable[str | os.PathLike] = ()) -> bool:
    """Whether a folder of that name with ONNX files lies in the usual places; none of them is opened."""
    return next(_folders_named(name, pack_parents(model_dirs)), None) is not None


def installed_packs(model_dirs: Iterable[str | os.PathLike] = ()) -> Iterator[Pack]:
    """Every usable pack in the usual places; folders that are no packs are passed over."""
    for folder in _folders(pack_parents(model_dirs)):
        if onnx_files(folder):
            try:
                yield load_pack(folder)
            except PackError as error:
                logger.info("%s", error)


def load_pack(folder: Path) -> Pack:
    """The pack in a folder; of several detectors or recognisers those that declare all sizes count before those that
    leave some open, then the first by name.

    Files that cannot be read, or are of another kind (a face restorer), are passed over with a note.
    """
    files = onnx_files(folder)
    kinds: dict[str, Path] = {}
    passed_over = []
    for file in sorted(files, key=lambda one: _graph_of(one).open):
        graph = _graph_of(file)
        kinds.setdefault(graph.kind, file)
        if graph.kind == OTHER and not graph.beside:
            passed_over.append(f"{file.name} ({graph.problem or 'no detector, recogniser or landmarks'})")
            _note(file.parent, passed_over[-1])
    missing = [kind for kind in (DETECTOR, RECOGNISER) if kind not in kinds]
    if missing:
        reasons = {note.partition(" (")[0]: note for note in passed_over}
        found = (
            f"among {', '.join(reasons.get(file.name, file.name) for file in files)}" if files else "and no .onnx file"
        )
        raise PackError(
            f"Pack {folder}: no {' and no '.join(missing)} {found}.",
            expected="a face detector with five points (SCRFD) and a 512-d recogniser (ArcFace), both ONNX.",
            remedy="unpack the whole zip of the pack into this folder; a download cut short has to be made again.",
        )
    return Pack(folder.name, files[0].parent, kinds[DETECTOR], kinds[RECOGNISER], tuple(passed_over))


@lru_cache(maxsize=256)
def _note(folder: Path, what: str) -> None:
    """Logged once for a file."""
    logger.warning("Pack %s: %s is passed over.", folder.name, what)


def _folders(parents: Iterable[Path]) -> Iterator[Path]:
    for parent in parents:
        if parent.is_dir():
            yield from (folder for folder in sorted(parent.iterdir()) if folder.is_dir())


def _folders_named(name: str, parents: Iterable[Path]) -> Iterator[Path]:
    """Folders of a name, then those that are a copy of it or its repository's ("buffalo_l (1)", auraface-main)."""
    names, parents = (name.lower(), f"{name.lower()}-v1"), list(parents)
    exact = (folder for folder in _folders(parents) if folder.name.lower() in names)
    alike = (
        folder
        for folder in _folders(parents)
        if folder.name.lower() not in names and unpacked_name(folder.name).lower() in names
    )
    return (folder for folder in chain(exact, alike) if onnx_files(folder))


def onnx_files(folder: Path) -> list[Path]:
    """The ONNX files of a pack folder; if it has none, those of its only sub-folder that has some.

    insightface's antelopev2.zip unpacks into antelopev2/antelopev2: the inner folder is used as it is. Files whose
    names begin with a dot are macOS' own (`._x.onnx`).
    """
    if files := _onnx_in(folder):
        return files
    inner = [found for sub in sorted(folder.iterdir()) if sub.is_dir() and (found := _onnx_in(sub))]
    return inner[0] if len(inner) == 1 else []


def _onnx_in(folder: Path) -> list[Path]:
    files = (file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".onnx")
    return [file for file in files if not file.name.startswith(".") and file.is_file()]


def kind_of(file: Path) -> str:
    """The kind of a file by the shapes of its inputs and outputs: "detector", "recogniser" or "other".

    Raises:
        PackError: it cannot be read.
    """
    graph = _graph_of(file)
    if graph.problem:
        raise PackError(
            f"{file}: {graph.problem}.",
            expected="a complete .onnx file.",
            remedy="download the pack again; a download cut short or a saved web page looks like this.",
        )
    return graph.kind


class _Graph(NamedTuple):
    """The use of an ONNX file.

    Attributes:
        kind: DETECTOR, RECOGNISER or OTHER. beside: whether it is one of a pack's other models (landmarks, age).
        problem: why it cannot be read, or "". open: whether it declares no width of what it gives.
    """

    kind: str
    beside: bool = False
    problem: str = ""
    open: bool = False


def _graph_of(file: Path) -> _Graph:
    status = file.stat()
    return _read_graph(file.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_graph(file: Path, size: int, mtime_ns: int) -> _Graph:
    with importing("The package onnx cannot be imported", "insightface with its dependencies."):
        import onnx
        from google.protobuf.message import DecodeError
    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except (DecodeError, ValueError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return _Graph(OTHER, problem=f"not an ONNX model, or damaged: {first[:100]}")
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in constants]
    outputs = [_shape(value) for value in graph.output]
    undeclared = not all(found and found[-1] for found in outputs)
    if _is_detector(inputs, outputs):
        return _Graph(DETECTOR, open=undeclared)
    if _is_recogniser(inputs, outputs):
        return _Graph(RECOGNISER, open=undeclared)
    if not outputs:
        return _Graph(OTHER, problem="it is empty")
    small = len(inputs) == 1 and inputs[0][1:] == (3, AGE_SIDE, AGE_SIDE)
    return _Graph(OTHER, beside=small or (len(inputs) == 1 and landmarks_of(inputs[0], outputs) is not None))


def _shape(value: Any) -> tuple[int | None, ...]:
    """Sizes of an input or output, None where the graph leaves one open; empty where it says nothing."""
    return tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)


def _is_detector(inputs: Sequence[Shape], outputs: Sequence[Shape]) -> bool:
    """Whether shapes are SCRFD's: a picture in, and score, box and five points at three or five strides out."""
    if len(outputs) not in (9, 15) or not _is_picture(inputs):
        return False
    widths = [width for width in (1, 4, 10) for _ in range(len(outputs) // 3)]
    return all(not found or found[-1] in (None, width) for found, width in zip(outputs, widths, strict=True))


def _is_recogniser(inputs: Sequence[Shape], outputs: Sequence[Shape]) -> bool:
    """Whether shapes are ArcFace's: an aligned crop in, one vector out."""
    if not _is_picture(inputs) or inputs[0][2:] != (CROP_SIDE, CROP_SIDE) or len(outputs) != 1:
        return False
    return not outputs[0] or (len(outputs[0]) == 2 and outputs[0][1] in (None, EMBEDDING_WIDTH))


def _is_picture(inputs: Sequence[Shape]) -> bool:
    return len(inputs) == 1 and len(inputs[0]) == 4 and inputs[0][1] in (None, 3)


def _missing(name: str, tried: list[Path]) -> PackError:
    key = name.lower()
    source = PACK_SOURCES.get(key)
    home = Path.home() / ".insightface" / "models" / name
    offers = ", ".join(f"{pack} ({licence})" for pack, licence in PACK_LICENCES.items())
    if source:
        remedy = advice(key, f"unpack {source} into {home} (licence of its weights: {PACK_LICENCES[key]})") + "."
    else:
        remedy = f"give the folder of a pack, or put one into {home}. Well-known packs: {offers}."
    return PackError(
        f"Face-analysis pack '{name}' was not found.",
        expected=f"a folder of that name with .onnx files in one of: {', '.join(map(str, tried))}.",
        remedy=f"{remedy} Other model folders can be named in {MODELS_VARIABLE}.",
    )
