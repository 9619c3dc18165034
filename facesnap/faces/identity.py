"""Identity: what is known of one person from one or more references, its file, and the faces that it was made of."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facesnap.errors import CheckpointError, IdentityMismatchError, NoFaceError, SettingsError
from facesnap.faces.align import ENCODER_SIZE
from facesnap.faces.doubts import different_people
from facesnap.faces.face import Face, Quality
from facesnap.faces.face_encoder import Encoded, FaceEncoder
from facesnap.faces.stored_landmarks import TENSOR_PREFIX, StoredLandmarks
from facesnap.files import write_atomically
from facesnap.remedies import remedy

FORMAT, VERSION = "facesnap-identity", "1"
EMBEDDING_WIDTH = 512
HIDDEN_PREFIX, VECTORS = "hidden.", "class_vectors"
_ARRAYS = ("embeddings", "weights", "scores")
CONTRADICTION = 1e-3  # length of the weighted sum of unit vectors; strangers give about 0.7
LOWEST_WEIGHT = 1e-3  # no reference is dropped: its tokens enter attention with log weight


@dataclass(frozen=True, eq=False)
class Identity:
    """One person, from R references, each of which stays a token group of its own beside the fused vector.

    Attributes:
        name: for people.
        recogniser: sha256 of the recogniser's ONNX file; alias: its pack's name.
        embeddings: (R, 512) float32, raw.
        weights: (R,) float32, positive, sum 1, by quality.
        scores: (R,) float32, quality of each reference, 0..1.
        hidden: level -> (R, 1 + P, W), the encoder's hidden states on the CPU; empty without an encoder.
        class_vectors: (R, V) of length 1, the class vectors of an encoder that gives some (PuLID's); else None.
        encoder, encoder_name: the encoder's fingerprint and name, or None.
        preparation: how the encoder's pictures were made; see `facesnap.faces.face_encoder.Encoded`.
        crops: (R, 224, 224, 3) RGB uint8, only if asked for.
        landmarks: of every reference, or None; needed for FFRNet only.
    """

    name: str
    recogniser: str
    alias: str
    embeddings: np.ndarray
    weights: np.ndarray
    scores: np.ndarray
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    encoder: str | None = None
    encoder_name: str | None = None
    crops: np.ndarray | None = field(default=None, repr=False)
    landmarks: StoredLandmarks | None = field(default=None, repr=False)
    class_vectors: torch.Tensor | None = field(default=None, repr=False)
    preparation: str = ""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise CheckpointError(
                f"Identity '{self.name}': {problem}.",
                expected="finite arrays that fit each other.",
                remedy="make the identity anew from its photos.",
            )

    @classmethod
    def from_faces(
        cls,
        faces: Sequence[Face],
        encoder: FaceEncoder | None = None,
        levels: Sequence[int] | None = None,
        name: str = "unnamed",
        keep_crops: bool = False,
        landmarks: StoredLandmarks | None = None,
        *,
        bgr: bool = False,
    ) -> Identity:
        """From one face for each reference. No picture is kept unless keep_crops is set.

        Args:
            levels: of the encoder's hidden states; its own where None.
            landmarks: those of the faces, in their order; see facesnap.pipeline.shape.landmarks_of.
            bgr: show the encoder faces with red and blue swapped.

        Raises:
            NoFaceError: no face.
            IdentityMismatchError: the faces were embedded by different recognisers.
        """
        if not faces:
            raise NoFaceError("No reference.", expected="at least one face.", remedy="give a photo of the person.")
        first = faces[0]
        for face in faces[1:]:
            _require(face.recogniser, face.alias, first.recogniser, first.alias, face.source)
        scores = np.array([face.quality.score for face in faces], dtype=np.float32)
        crops = np.stack([face.crop(ENCODER_SIZE) for face in faces]) if keep_crops else None  # (R, 224, 224, 3)
        seen = Encoded({}) if encoder is None else encoder.see(faces, levels or encoder.levels, bgr=bgr)
        return cls(
            name=name,
            recogniser=first.recogniser,
            alias=first.alias,
            embeddings=np.stack([face.embedding for face in faces]).astype(np.float32),
            weights=quality_weights(scores),
            scores=scores,
            hidden=seen.hidden,
            encoder=encoder.fingerprint if encoder else None,
            encoder_name=encoder.name if encoder else None,
            crops=crops,
            landmarks=landmarks,
            class_vectors=seen.class_vectors,
            preparation=seen.preparation,
        )

    @property
    def references(self) -> int:
        """R."""
        return len(self.embeddings)

    def f_id(self, kind: str = "normed") -> np.ndarray:
        """The fused vector (512,) float32 of all references.

        Args:
            kind: "normed": normalise(sum_r w_r f_r / |f_r|), as FaceID needs; "raw": that times the weighted
                mean of |f_r|, as InstantID and PuLID need. One reference gives its own vector either way.
                "none": zeros, for a mixer that sees the image encoder's tokens alone.
        """
        if kind not in ("normed", "raw", "none"):
            raise SettingsError(f"Vector kind '{kind}'.", expected="normed, raw or none.", remedy="use one of these.")
        if kind == "none":
            return np.zeros(self.embeddings.shape[1], np.float32)
        norms = np.linalg.norm(self.embeddings.astype(np.float64), axis=1)  # (R,)
        total = (self.weights[:, None] * self.embeddings / norms[:, None]).sum(axis=0)  # (512,)
        fused = total / np.linalg.norm(total)
        return (fused * (self.weights @ norms if kind == "raw" else 1.0)).astype(np.float32)

    def require_recogniser(self, sha256: str, alias: str) -> None:
        """Raises IdentityMismatchError, naming both, unless this identity was made with that recogniser."""
        _require(self.recogniser, self.alias, sha256, alias, f"identity '{self.name}'")

    def doubts(self, names: Sequence[str] = ()) -> list[str]:
        """Reasons to doubt that the references show one person. names: of the R photos, for people to read."""
        return different_people(self.embeddings, names or [f"reference {n}" for n in range(1, self.references + 1)])

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over everything that generation depends on (not the name, not the crops): a cache key."""
        digest = hashlib.sha256(json.dumps([self.recogniser, self.encoder, sorted(self.hidden)]).encode())
        for array in (self.embeddings, self.weights):
            digest.update(np.ascontiguousarray(array).tobytes())
        seen: dict[int | str, torch.Tensor] = {level: self.hidden[level] for level in sorted(self.hidden)}
        if self.class_vectors is not None:
            seen[VECTORS] = self.class_vectors
        for key, tensor in seen.items():
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        if self.landmarks is not None:
            digest.update(self.landmarks.content)
        return digest.hexdigest()

    def save(self, path: str | os.PathLike) -> None:
        """Write one .safetensors file; it appears under its name only when it is complete."""
        from safetensors.torch import save_file

        tensors = {key: torch.from_numpy(np.ascontiguousarray(getattr(self, key))) for key in _ARRAYS}
        tensors |= {f"{HIDDEN_PREFIX}{level}": tensor.contiguous() for level, tensor in self.hidden.items()}
        if self.class_vectors is not None:
            tensors[VECTORS] = self.class_vectors.contiguous()
        if self.crops is not None:
            tensors["crops"] = torch.from_numpy(np.ascontiguousarray(self.crops))
        if self.landmarks is not None:
            tensors |= self.landmarks.tensors()
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "recogniser": self.recogniser,
            "alias": self.alias,
            "references": str(self.references),
            "scores": " ".join(f"{score:.3f}" for score in self.scores),
        }
        if self.encoder is not None:
            metadata |= {"encoder": self.encoder, "encoder_name": self.encoder_name or "", "told": self.preparation}
        if self.landmarks is not None:
            metadata |= self.landmarks.metadata()
        path = Path(path)
        try:
            write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))
        except OSError as error:
            raise CheckpointError(
                f"Identity cannot be written to {path} ({error}).",
                expected="a folder that can be written to.",
                remedy="choose another place.",
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> Identity:
        """Read a file that save wrote.

        Raises:
            CheckpointError: missing, damaged, of another kind or of an unknown version.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") == FORMAT:
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
        except (OSError, SafetensorError, ValueError) as error:
            raise _not_identity(path, f"cannot be read ({error})") from error
        if metadata.get("format") != FORMAT:
            raise _not_identity(path, "is of another kind")
        if metadata.get("version") != VERSION:
            raise CheckpointError(
                f"Identity {path} has format version {metadata.get('version')}.",
                expected=f"version {VERSION}.",
                remedy="update FaceSnap, or make the identity anew from its photos.",
            )
        return _from_tensors(tensors, metadata, path)


@dataclass(frozen=True)
class ReferenceFace:
    """The face that was taken from one reference photo.

    Attributes:
        source: what the photo is called. index: among the photo's faces, 0 the largest; faces: how many there are.
        box: left, top, right, bottom in pixels of the upright photo. score: the detector's, 0..1.
        quality: see `facesnap.faces.face.Quality`. found_by: the step of the detection ladder.
    """

    source: str
    index: int
    faces: int
    box: tuple[float, float, float, float]
    score: float
    quality: Quality
    found_by: str

    @classmethod
    def of(cls, chosen: Face, faces: Sequence[Face]) -> ReferenceFace:
        """From what an analyser found in a photo, the largest face first."""
        index = next(n for n, face in enumerate(faces) if face is chosen)
        left, top, right, bottom = (round(float(side), 2) for side in chosen.box)
        box = (left, top, right, bottom)
        return cls(chosen.source, index, len(faces), box, chosen.score, chosen.quality, chosen.found_by)

    def json(self) -> dict[str, Any]:
        """For the API."""
        return {
            "face": self.index, "faces": self.faces, "box": list(self.box), "score": round(self.score, 4),
            "quality": self.quality.json(), "found_by": self.found_by,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class AnalysedIdentity:
    """A person, and the face that was taken from each reference; none where the identity was saved before."""

    identity: Identity
    faces: tuple[ReferenceFace, ...] = ()

    @property
    def doubts(self) -> list[str]:
        """Reasons to doubt the references, each with the photo that it is about; empty where there are none."""
        of_faces = [f"{face.source}: {doubt}" for face in self.faces for doubt in face.quality.doubts]
        return of_faces + self.identity.doubts([face.source for face in self.faces])


def quality_weights(scores: np.ndarray) -> np.ndarray:
    """Qualities (R,) 0..1 -> weights (R,) float32, positive, sum 1, proportional to the quality."""
    raised = np.maximum(np.asarray(scores, dtype=np.float64), LOWEST_WEIGHT)
    return (raised / raised.sum()).astype(np.float32)


def similarity(a: Identity, b: Identity) -> float:
    """Cosine of the two fused vectors, -1..1.

    Raises:
        IdentityMismatchError: they were made with different recognisers, whose vectors cannot be compared.
    """
    b.require_recogniser(a.recogniser, a.alias)
    return float(np.clip(a.f_id().astype(np.float64) @ b.f_id().astype(np.float64), -1, 1))


def _require(found: str, found_alias: str, wanted: str, wanted_alias: str, what: str) -> None:
    if found != wanted:
        raise IdentityMismatchError(
            f"{what} was made with the recogniser of {found_alias} ({found[:12]}).",
            expected=f"the recogniser of {wanted_alias} ({wanted[:12]}); vectors are not interchangeable.",
            remedy=remedy("analyse with a pack", pack=wanted_alias),
        )


def _problem(identity: Identity) -> str | None:
    """The fault of an identity's arrays, None where there is none."""
    count = len(identity.embeddings)
    if identity.embeddings.shape != (count, EMBEDDING_WIDTH) or count < 1:
        return f"embeddings of shape {identity.embeddings.shape} instead of (R, {EMBEDDING_WIDTH})"
    for key in ("weights", "scores"):
        if getattr(identity, key).shape != (count,):
            return f"{key} of shape {getattr(identity, key).shape} instead of ({count},)"
    for key in _ARRAYS:
        if getattr(identity, key).dtype != np.float32 or not np.isfinite(getattr(identity, key)).all():
            return f"{key} are not finite float32 numbers"
    if not np.linalg.norm(identity.embeddings, axis=1).all():
        return "an embedding is zero"
    if (identity.weights <= 0).any() or abs(float(identity.weights.sum()) - 1) > 1e-4:
        return "weights are not positive with sum 1"
    normed = identity.embeddings / np.linalg.norm(identity.embeddings, axis=1, keepdims=True)
    if np.linalg.norm(identity.weights @ normed) < CONTRADICTION:
        return "its references contradict each other: their vectors cancel out"
    if bool(identity.hidden) != (identity.encoder is not None):
        return "hidden states without their encoder, or the reverse"
    for level, tensor in identity.hidden.items():
        if tensor.ndim != 3 or len(tensor) != count or not tensor.is_floating_point():
            return f"hidden states of level {level} of shape {tuple(tensor.shape)} for {count} references"
        if not torch.isfinite(tensor).all():
            return f"hidden states of level {level} are not finite"
    vectors = identity.class_vectors
    if vectors is not None:
        if vectors.ndim != 2 or len(vectors) != count or not vectors.is_floating_point() or not identity.hidden:
            return f"class vectors of shape {tuple(vectors.shape)} for {count} references"
        if not torch.isfinite(vectors).all():
            return "class vectors that are not finite"
    if identity.crops is not None and identity.crops.shape != (count, ENCODER_SIZE, ENCODER_SIZE, 3):
        return f"crops of shape {identity.crops.shape}"
    return None if identity.landmarks is None else identity.landmarks.problem(count)


def _from_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> Identity:
    missing = [key for key in _ARRAYS if key not in tensors]
    missing += [key for key in ("recogniser", "alias", "name") if key not in metadata]
    hidden, unknown = {}, []
    stored = {key: tensor for key, tensor in tensors.items() if key.startswith(TENSOR_PREFIX)}
    landmarks, odd = StoredLandmarks.from_tensors(stored, metadata)
    for key, tensor in tensors.items():
        level = key.removeprefix(HIDDEN_PREFIX)
        if key.startswith(HIDDEN_PREFIX) and level.lstrip("-").isdigit():
            hidden[int(level)] = tensor
        elif key not in (*_ARRAYS, "crops", VECTORS, *stored):
            unknown.append(key)
    if missing or unknown:
        raise _not_identity(path, f"lacks {missing} and has {unknown} that are unknown")
    if odd:
        raise _not_identity(path, f"has landmarks with {odd} missing or unknown")
    if any(tensors[key].dtype != torch.float32 for key in _ARRAYS) or (
        "crops" in tensors and tensors["crops"].dtype != torch.uint8
    ):
        raise _not_identity(path, "has tensors of another type")
    return Identity(
        name=metadata["name"],
        recogniser=metadata["recogniser"],
        alias=metadata["alias"],
        hidden=hidden,
        encoder=metadata.get("encoder"),
        encoder_name=metadata.get("encoder_name"),
        crops=tensors["crops"].numpy() if "crops" in tensors else None,
        landmarks=landmarks,
        class_vectors=tensors.get(VECTORS),
        preparation=metadata.get("told", ""),
        **{key: tensors[key].numpy() for key in _ARRAYS},
    )


def _not_identity(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"Identity {path} {reason}.",
        expected=f"an identity file, made by {remedy('make an identity')}.",
        remedy="check the path, or make the identity anew from its photos.",
    )
