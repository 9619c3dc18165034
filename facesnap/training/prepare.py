"""Photos -> shards that training reads: everything that does not change over the steps is computed once.

A photo that cannot be used is dropped with its reason and never stops the work. After a kill the work goes on at
the first shard that is not there.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facesnap.errors import FaceSnapError, NoFaceError, SettingsError
from facesnap.faces.align import similarity, template
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.face import Face, choose_face
from facesnap.faces.picture import read_picture
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import LandmarkDetector
from facesnap.landmarks.predictor import LandmarkPredictor, Landmarks
from facesnap.landmarks.scheme import POINT_COUNT
from facesnap.settings.sampling import LAST_SEED
from facesnap.training.draws import Purpose, generator
from facesnap.training.losses import RECOGNISER_SIDE
from facesnap.training.network_files import save_tensors
from facesnap.training.shards import FORMAT, HEAD, ZERO, claim, has_shard, read_rows, write_json, write_shard
from facesnap.training.sources import Passed, Photo, find_photos
from facesnap.training.variants import variant

logger = logging.getLogger(__name__)

REPORT = "report.json"
VAE_BATCH = 4


class SmallFaceError(NoFaceError):
    """A photo's face is there, and too small for training."""


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of the preparation; a folder is only continued with the settings that it was begun with.

    Attributes:
        size: side of the square training pictures in pixels, a multiple of 64.
        variants: CLIP states a photo, the clean crop among them. levels: CLIP hidden states that are kept.
        smallest_face: of the box's sides, in pixels of the training picture.
        caption: where a photo has none. seed: of the variants. shard: photos in one.
    """

    size: int = 512
    variants: int = 4
    levels: tuple[int, ...] = (-2,)
    smallest_face: int = 48
    caption: str = "a photo of a person"
    seed: int = 0
    shard: int = 256

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 64, 2048),
            ("variants", 1, 64),
            ("smallest_face", 8, 2048),
            ("shard", 1, 10000),
            ("seed", 0, LAST_SEED),
        ):
            value = getattr(self, name)
            if not low <= value <= high or (name == "size" and value % 64):
                raise SettingsError(
                    f"{name} is {value}.",
                    expected=f"{low} to {high}" + (", a multiple of 64" if name == "size" else ""),
                    remedy=f"correct --{name.replace('_', '-')}",
                )


@dataclass(frozen=True, eq=False)
class AnalysedPhoto:
    """One photo as far as the CPU takes it.

    Attributes:
        face: in the photo. placed: the same in the square training picture. points: (72, 2), fractions of the square.
        crops: for the encoder.
    """

    face: Face
    placed: Face
    points: np.ndarray
    crops: list[np.ndarray]


@dataclass(eq=False)
class Preparer:
    """The models that photos go through.

    Attributes:
        vae: of the base model (diffusers), on its device. base: "sd15" or "sdxl", the VAE's family.
        encoder: CLIP, or None for adapters that take the recogniser's vector alone.
    """

    settings: PrepareSettings
    analyser: FaceAnalyser
    encoder: ImageEncoder | None
    vae: Any
    base: str

    def __post_init__(self) -> None:
        detector = LandmarkDetector(self.analyser.pack.folder, self.analyser.provider)
        self._predictor = LandmarkPredictor(detector, Basis.load())

    def run(self, source: Path, folder: Path, workers: int = 1, progress: Any = iter) -> dict[str, Any]:
        """Prepare all photos of a source; returns the report.

        Args:
            workers: threads that read and analyse photos. progress: wraps the shards' numbers, such as tqdm.
        """
        passed, size = Passed(), self.settings.shard
        photos = find_photos(source, passed)
        shards = [photos[i : i + size] for i in range(0, len(photos), size)]
        folder.mkdir(parents=True, exist_ok=True)
        self._claim(folder, len(shards))
        missing = [n for n in range(len(shards)) if not _is_of(folder, n, shards[n])]
        if len(missing) < len(shards):
            logger.info("%d of %d shards are there already", len(shards) - len(missing), len(shards))
        with ThreadPoolExecutor(workers) as pool:
            for number in progress(missing):
                first = number * size
                seen = list(pool.map(self._look, shards[number], range(first, first + len(shards[number]))))
                self._write(folder, number, shards[number], seen)
        report = _report(folder, len(shards)) | passed.json()
        write_json(folder / REPORT, report)
        return report

    def _claim(self, folder: Path, shards: int) -> None:
        """Write the head, or compare it with the one that is there; then the empty picture's states."""
        head = {
            "format": FORMAT, "shards": shards, "base": self.base, "settings": asdict(self.settings),
            "recogniser": self.analyser.recogniser, "recogniser_name": self.analyser.pack.recogniser.stem,
            "pack": self.analyser.pack.name,
            "encoder": self.encoder.fingerprint if self.encoder else "",
            "encoder_name": self.encoder.name if self.encoder else "",
            "clip_width": self.encoder.config.width if self.encoder else 0, "licence": self.analyser.pack.licence,
        }  # fmt: skip
        other = claim(folder / HEAD, head)
        if other:
            raise SettingsError(
                f"{folder} was begun with another {', '.join(other)}.",
                expected="the photos, models and settings that it was begun with",
                remedy="give these again, or another folder",
            )
        zero = self.encoder.encode_zero(self.settings.levels) if self.encoder else {}
        save_tensors({str(level): states.half() for level, states in zero.items()}, folder / ZERO)

    def _look(self, photo: Photo, number: int) -> AnalysedPhoto | str:
        """An analysed photo; the reason, where it cannot be used."""
        try:
            return self._seen(photo, number)
        except (FaceSnapError, OSError) as error:
            return f"{type(error).__name__}: {getattr(error, 'what', error)}"

    def _seen(self, photo: Photo, number: int) -> AnalysedPhoto:
        pixels = read_picture(io.BytesIO(photo.read()), name=photo.key)
        faces = self.analyser.faces(pixels, name=photo.key)
        face = choose_face(faces)
        left, top, side = square_around(face.box, (pixels.shape[1], pixels.shape[0]))
        size = self.settings.size
        cut = Image.fromarray(pixels[top : top + side, left : left + side])
        picture = np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))
        scale, corner = size / side, np.array([left, top])
        box = (face.box.reshape(2, 2) - corner) * scale  # pixels of the square
        if (box[1] - box[0]).min() < self.settings.smallest_face:
            raise SmallFaceError(
                f"The face is {int((box[1] - box[0]).min())} pixels wide in the training picture.",
                expected=f"at least {self.settings.smallest_face}",
                remedy="give closer photos",
            )
        # kps count from pixel centres, the square from its corner: half a pixel each way
        kps = ((face.kps + 0.5 - corner) * scale - 0.5).astype(np.float32)
        placed = replace(face, picture=picture, box=box.reshape(4), kps=kps)
        if photo.points is None:
            fit = self._predictor.fit(placed)
            points = self._predictor.predict(fit, fit, (size, size)).points
        else:
            points = (known_points(photo.points) - corner) / side
        rngs = [generator(self.settings.seed, Purpose.AUGMENT, number, v) for v in range(1, self.settings.variants)]
        crops = [face.crop(224), *(variant(pixels, face.kps, rng) for rng in rngs)] if self.encoder else []
        return AnalysedPhoto(face, placed, points, crops)

    def _write(self, folder: Path, number: int, photos: Sequence[Photo], seen: Sequence[AnalysedPhoto | str]) -> None:
        rows: list[dict[str, Any]] = []
        tensors: dict[str, Tensor] = {}
        good = [(place, one) for place, one in enumerate(seen) if isinstance(one, AnalysedPhoto)]
        latents = self._encode([one.placed.picture for _, one in good])
        for (place, one), (mean, std) in zip(good, latents, strict=True):
            for name, tensor in self._tensors(one, mean, std).items():
                tensors[f"{place}.{name}"] = tensor
        for photo, result in zip(photos, seen, strict=True):
            row = {"key": photo.key, "person": photo.person, "caption": photo.caption or self.settings.caption}
            if isinstance(result, str):
                row["error"] = result
            rows.append(row)
        write_shard(folder, number, rows, tensors)

    def _tensors(self, one: AnalysedPhoto, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """Tensors kept of one photo; coordinates are fractions of the training picture, the matrix is in pixels."""
        size, matrix = self.settings.size, similarity(one.placed.kps, template(RECOGNISER_SIDE))
        l, t, r, b = Landmarks(one.points).box
        box = one.placed.box / size  # widened to the landmarks where these reach further, inside the picture
        joined = np.array([min(l, box[0]), min(t, box[1]), max(r, box[2]), max(b, box[3])]).clip(0, 1)
        out = {
            "mean": mean.half(), "std": std.half(),  # (C, size / f, size / f)
            "f_id": torch.from_numpy(one.face.embedding.astype(np.float32)),
            "points": torch.from_numpy(one.points.astype(np.float32)),  # (72, 2)
            "box": torch.from_numpy(joined.astype(np.float32)),
            "matrix": torch.from_numpy(matrix.astype(np.float32)),  # (2, 3)
            "crop": torch.from_numpy(one.face.crop(RECOGNISER_SIDE)),  # (112, 112, 3) RGB uint8
        }  # fmt: skip
        if self.encoder is not None:
            hidden = self.encoder.encode(one.crops, self.settings.levels)
            out |= {f"hidden.{level}": states.cpu().half() for level, states in hidden.items()}  # (V, P, W)
        return out

    @torch.no_grad()
    def _encode(self, pictures: Sequence[np.ndarray]) -> list[tuple[Tensor, Tensor]]:
        """Mean and deviation of the VAE's latents of each picture, scaled as the UNet wants them."""
        out: list[tuple[Tensor, Tensor]] = []
        weight = next(self.vae.parameters())
        for start in range(0, len(pictures), VAE_BATCH):
            pixels = torch.from_numpy(np.stack(pictures[start : start + VAE_BATCH]))
            pixels = pixels.permute(0, 3, 1, 2).to(weight) / 127.5 - 1  # (b, 3, S, S)
            found = self.vae.encode(pixels).latent_dist
            scale, shift = self.vae.config.scaling_factor, getattr(self.vae.config, "shift_factor", None) or 0.0
            for mean, std in zip(found.mean.float().cpu(), found.std.float().cpu(), strict=True):
                out.append(((mean - shift) * scale, std * scale))
        return out


def known_points(given: Any) -> np.ndarray:
    """The 72 points (72, 2) given with a photo; SettingsError where they are not 72 pairs of finite numbers."""
    try:
        points = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape != (POINT_COUNT, 2) or not np.isfinite(points).all():
        raise SettingsError(
            f"The photo's points are {str(given)[:60]}.",
            expected=f"{POINT_COUNT} pairs of finite numbers",
            remedy="correct them, or leave them out to have them detected",
        )
    return points


def square_around(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int]:
    """(left, top, side) of the largest square of a picture (width, height) whose middle is nearest to a face."""
    side = min(size)
    corner = [(box[axis] + box[axis + 2]) / 2 - side / 2 for axis in (0, 1)]
    left, top = (int(np.clip(round(float(c)), 0, size[axis] - side)) for axis, c in enumerate(corner))
    return left, top, side


def _is_of(folder: Path, number: int, photos: Sequence[Photo]) -> bool:
    """Whether a shard is there; SettingsError where it holds other photos than the source now has."""
    if not has_shard(folder, number):
        return False
    if [row["key"] for row in read_rows(folder, number)] == [photo.key for photo in photos]:
        return True
    raise SettingsError(
        f"Shard {number} of {folder} holds other photos than the source.",
        expected="the source that it was begun with",
        remedy="give another output folder",
    )


def _report(folder: Path, shards: int) -> dict[str, Any]:
    rows = [row for number in range(shards) for row in read_rows(folder, number)]
    dropped = {row["key"]: row["error"] for row in rows if "error" in row}
    kept = [row for row in rows if "error" not in row]
    people = Counter(row["person"] for row in kept)
    return {
        "photos": len(rows), "kept": len(kept), "people": len(people),
        "people_with_several": sum(count > 1 for count in people.values()),
        "reasons": dict(Counter(reason.split(":")[0] for reason in dropped.values())), "dropped": dropped,
    }  # fmt: skip
