"""FaceAnalyser: real insightface models, 0.7.3 to 2.x, behind one class."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.errors import MissingDependencyError, NoFaceError, PackError, SettingsError, importing
from facesnap.faces.align import aligned_crop
from facesnap.faces.face import Choice, Face, choose_face, quality_of
from facesnap.faces.ladder import Found, climb
from facesnap.faces.looks import Hit, Size
from facesnap.faces.packs import EMBEDDING_WIDTH, Pack, find_pack
from facesnap.faces.picture import PictureSource, read_picture
from facesnap.landmarks.detect import network_errors, runtime_errors
from facesnap.remedies import remedy

logger = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
BATCH = 16
WEAKEST_SCORE = 0.3
LARGE = 3 * 4_000_000  # bytes of a picture whose search frees hundreds of MB


class FaceAnalyser:
    """Finds faces and embeds them.

    Args:
        pack: name ("buffalo_l", "antelopev2", "auraface", any folder's name) or folder of a pack.
        provider: "cpu" (default; the detector would only take memory from the diffusion model) or "cuda".
        model_dirs: folders of models to search before the usual ones.

    Attributes:
        pack: the Pack in use.
        provider: the execution provider that the sessions really run on, e.g. "CPUExecutionProvider".
        recogniser: sha256 of the recogniser's ONNX file as it was loaded: what makes two embeddings comparable.

    Raises:
        PackError: the pack is missing, incomplete or damaged.
        MissingDependencyError: insightface is missing, or CUDA was asked for and does not run.
    """

    def __init__(
        self,
        pack: str | os.PathLike = "buffalo_l",
        provider: str = "cpu",
        model_dirs: Iterable[str | os.PathLike] = (),
    ) -> None:
        if provider not in PROVIDERS:
            raise SettingsError(
                f"Execution provider '{provider}'.",
                expected=" or ".join(PROVIDERS),
                remedy="use one of these.",
            )
        model_zoo = _import_model_zoo()
        self.pack = find_pack(pack, model_dirs)
        self._detector = _load(model_zoo, self.pack, "detector", provider)
        self._detector.det_thresh = WEAKEST_SCORE  # weak hits are hints where to look closely
        self._recogniser = _load(model_zoo, self.pack, "recogniser", provider)
        self.provider = self._recogniser.session.get_providers()[0]
        running = {self.provider, self._detector.session.get_providers()[0]}
        if running != {PROVIDERS[provider]}:
            raise MissingDependencyError(
                f"Provider {provider} was asked for, the models run on {', '.join(sorted(running))}.",
                expected=PROVIDERS[provider],
                remedy=remedy("analyse on the CPU"),
            )
        self.recogniser = self.pack.recogniser_sha256
        height, width = self._detector.session.get_inputs()[0].shape[2:4]
        free = not (isinstance(width, int) and isinstance(height, int))  # the graph takes any size
        self._fixed_size: Size | None = None if free else (width, height)
        self._crop_size = int(self._recogniser.input_size[0])
        logger.debug("pack %s on %s", self.pack.folder, self.provider)

    def faces(self, picture: PictureSource, *, name: str | None = None, most_steps: int | None = None) -> list[Face]:
        """All faces of a picture, the largest first.

        Args:
            picture: anything that read_picture takes; arrays are RGB.
            name: what messages call it.
            most_steps: how far up the detection ladder to go; to its end where None.

        Raises:
            PictureError: it cannot be read.
            NoFaceError: no step of the detection ladder found a face; its details say which were tried.
        """
        name = name or (str(picture) if isinstance(picture, (str, os.PathLike)) else "the picture")
        pixels = read_picture(picture, name=name)
        found, hits = self._climb(pixels, most_steps)
        if not hits:
            raise NoFaceError(
                f"No face was found in {name} ({pixels.shape[1]} x {pixels.shape[0]} pixels). {found.extent}",
                expected="a photo with at least one face that is not hidden.",
                remedy="use a sharper or less tightly cropped photo.",
                details=f"Tried: {'; '.join(found.tried)}.",
            )
        return self._describe(pixels, hits, name)

    def place(self, pixels: np.ndarray, *, most_steps: int | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Place of the largest face of a picture (H, W, 3) uint8 RGB, without embedding it.

        Returns:
            box (4,) and kps (5, 2) in px, those that `faces` gives; or None where no face was found.
        """
        _, hits = self._climb(pixels, most_steps)
        return (hits[0].box, hits[0].kps) if hits else None

    def _climb(self, pixels: np.ndarray, most_steps: int | None) -> tuple[Found, list[Hit]]:
        """The search, and those of its hits that can be aligned."""
        large = pixels.size > LARGE
        found = climb(pixels, self._detect_trimmed if large else self._detect, self._fixed_size, most_steps)
        if large:
            _trim_heap()
        return found, [hit for hit in found.hits if np.isfinite(hit.misfit)]

    def face(self, picture: PictureSource, choose: Choice = "largest", *, name: str | None = None) -> Face:
        """One face of a picture: "largest", "leftmost", "central", or an index from the largest (0) down."""
        return choose_face(self.faces(picture, name=name), choose)

    def embed(self, crops: list[np.ndarray]) -> np.ndarray:
        """Aligned crops, RGB uint8 of the recogniser's size -> (N, 512) float32, not normalised."""
        bgr = [np.ascontiguousarray(crop[:, :, ::-1]) for crop in crops]
        size = 1 if isinstance(self._recogniser.session.get_inputs()[0].shape[0], int) else BATCH
        parts = [self._embed(bgr[start : start + size]) for start in range(0, len(bgr), size)]
        embeddings = np.concatenate(parts).astype(np.float32)  # (N, 512)
        if not np.isfinite(embeddings).all() or not np.linalg.norm(embeddings, axis=1).all():
            raise PackError(
                f"{self.pack.recogniser.name} gives embeddings that are not finite or all zero.",
                expected="a working recogniser.",
                remedy="use provider cpu, or download the pack again.",
            )
        return embeddings

    def _embed(self, bgr: list[np.ndarray]) -> np.ndarray:
        shape = (len(bgr), EMBEDDING_WIDTH)
        with _running(self.pack.recogniser, "recogniser"):
            found = np.asarray(self._recogniser.get_feat(bgr))
            if len(bgr) > 1 and found.shape != shape:  # a graph that joins or drops the batch
                found = np.concatenate([np.asarray(self._recogniser.get_feat([one])) for one in bgr])
        if found.shape != shape:
            raise PackError(
                f"{self.pack.recogniser} gives vectors of shape {found.shape[1:]}.",
                expected=f"({EMBEDDING_WIDTH},).",
                remedy="use the recogniser of buffalo_l, antelopev2 or AuraFace, and remove this file from the pack.",
            )
        return found

    def _detect(self, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The size must be an argument: from insightface 1.0 on, assigning detector.input_size has no effect.
        bgr = np.ascontiguousarray(canvas[:, :, ::-1])
        with _running(self.pack.detector, "detector"):
            found, kps = self._detector.detect(bgr, input_size=(canvas.shape[1], canvas.shape[0]))
            return np.asarray(found).reshape(-1, 5), np.asarray(kps).reshape(-1, 5, 2)

    def _detect_trimmed(self, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, for many large looks, of which each would leave its freed memory beside the next one's."""
        found = self._detect(canvas)
        _trim_heap()
        return found

    def _describe(self, pixels: np.ndarray, hits: list[Hit], name: str) -> list[Face]:
        crops = [aligned_crop(pixels, hit.kps, self._crop_size) for hit in hits]
        return [
            Face(
                box=hit.box,
                kps=hit.kps,
                score=hit.score,
                embedding=embedding,
                recogniser=self.recogniser,
                alias=self.pack.name,
                picture_size=(pixels.shape[1], pixels.shape[0]),
                quality=quality_of(crop, hit.kps, hit.score, hit.again),
                found_by=hit.found_by,
                source=name,
                picture=pixels,
            )
            for hit, crop, embedding in zip(hits, crops, self.embed(crops), strict=True)
        ]


@contextlib.contextmanager
def _running(file: Path, kind: str) -> Iterator[None]:
    """Name the file of a network that fails inside: one whose output is not what it declares, for one."""
    try:
        yield
    except network_errors() as error:
        first = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise PackError(
            f"The {kind} {file} does not run ({first}).",
            expected="SCRFD with five points as detector, ArcFace as recogniser, each giving what its file declares.",
            remedy="remove the file if it is not the pack's own, or download the pack again.",
        ) from error


def _import_model_zoo() -> Any:
    expected = "insightface 0.7.3 or newer with onnx, onnxruntime and OpenCV."
    with importing("insightface cannot be imported", expected), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-image and albumentations, about themselves
        from insightface.model_zoo import model_zoo  # the module, whose package has the same name
    return model_zoo


def _trim_heap() -> None:
    """Give freed memory back to the system: glibc keeps what lay in blocks below 32 MB, here hundreds of MB."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
        if trim is not None:
            trim(0)


def _load(model_zoo: Any, pack: Pack, kind: str, provider: str) -> Any:
    import onnxruntime
    from google.protobuf.message import DecodeError

    file = getattr(pack, kind)
    providers = list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["cpu"]]))
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that torch brings
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # it would keep for good what the largest input took, hundreds of MB
    try:
        with contextlib.redirect_stdout(sys.stderr):  # insightface 0.7.3 prints, and stdout may be for JSON alone
            # Not get_model: of a file whose name ends in .ONNX it makes nothing.
            model = model_zoo.ModelRouter(str(file)).get_model(providers=providers, sess_options=options)
        if model is not None and model.session.get_session_options().enable_cpu_mem_arena:  # 0.7.3 passes no options on
            model.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except (RuntimeError, ValueError, AssertionError, OSError, DecodeError, *runtime_errors()) as error:
        raise PackError(
            f"The {kind} {file} cannot be loaded ({str(error).splitlines()[0] if str(error) else error!r}).",
            expected="an ONNX model that insightface and onnxruntime can run.",
            remedy="download the pack again; if that does not help, update onnxruntime.",
        ) from error
    wanted = "detect" if kind == "detector" else "get_feat"
    if not hasattr(model, wanted):
        raise PackError(
            f"insightface does not take {file} for a {kind}.",
            expected="SCRFD with five points as detector, ArcFace as recogniser.",
            remedy="use a pack such as buffalo_l, antelopev2 or AuraFace.",
        )
    return model
