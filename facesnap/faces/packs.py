"""Find a face-analysis pack (insightface's ONNX files) and its detector and recogniser."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from facesnap.errors import PackError, importing
from facesnap.faces.known import PACK_LICENCES, PACK_SOURCES, advice
from facesnap.files import cached_sha256

logger = logging.getLogger(__name__)

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
    """

    name: str
    folder: Path
    detector: Path
    recogniser: Path

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
        if _onnx_files(folder):
            try:
                yield load_pack(folder)
            except PackError as error:
                logger.info("%s", error)


def load_pack(folder: Path) -> Pack:
    """The pack in a folder; of several detectors or recognisers the first by name counts."""
    files = _onnx_files(folder)
    kinds: dict[str, Path] = {}
    for file in files:
        kinds.setdefault(kind_of(file), file)
    missing = [kind for kind in ("detector", "recogniser") if kind not in kinds]
    if missing:
        found = ", ".join(file.name for file in files) or "no .onnx file"
        raise PackError(
            f"Pack {folder}: no {' and no '.join(missing)} among {found}.",
            expected="a face detector with five points (SCRFD) and a 512-d recogniser (ArcFace), both ONNX.",
            remedy="unpack the whole zip of the pack into this folder.",
        )
    return Pack(folder.name, files[0].parent, kinds["detector"], kinds["recogniser"])


def _folders(parents: Iterable[Path]) -> Iterator[Path]:
    for parent in parents:
        if parent.is_dir():
            yield from (folder for folder in sorted(parent.iterdir()) if folder.is_dir())


def _folders_named(name: str, parents: Iterable[Path]) -> Iterator[Path]:
    names = (name.lower(), f"{name.lower()}-v1")
    return (folder for folder in _folders(parents) if folder.name.lower() in names and _onnx_files(folder))


def _onnx_files(folder: Path) -> list[Path]:
    """The ONNX files of a pack folder; if it has none, those of its only sub-folder that has some.

    insightface's antelopev2.zip unpacks into antelopev2/antelopev2: the inner folder is used as it is.
    """
    files = sorted(folder.glob("*.onnx"))
    if files:
        return files
    inner = [sorted(sub.glob("*.onnx")) for sub in sorted(folder.iterdir()) if sub.is_dir()]
    inner = [found for found in inner if found]
    return inner[0] if len(inner) == 1 else []


def kind_of(file: Path) -> str:
    """The kind of a file by the shapes of its inputs and outputs: detector, recogniser or other."""
    status = file.stat()
    return _kind_of(file.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _kind_of(file: Path, size: int, mtime_ns: int) -> str:
    with importing("The package onnx cannot be imported", "insightface with its dependencies."):
        import onnx
        from google.protobuf.message import DecodeError
    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except (DecodeError, ValueError) as error:
        raise PackError(
            f"{file}: not an ONNX model, or damaged ({error}).",
            expected="a complete .onnx file.",
            remedy="download the pack again; a download cut short or a saved web page looks like this.",
        ) from error
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(graph.output) in (9, 15):  # score, box and five points at three or five strides
        return "detector"
    if len(inputs) != 1 or len(graph.output) != 1:
        return "other"
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    square = len(shape) == 4 and shape[2] == shape[3] and shape[2] >= 112 and shape[2] % 16 == 0
    return "recogniser" if square and shape[2] != 192 else "other"  # 192 x 192 are landmark models


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
