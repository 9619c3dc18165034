"""The linear 3D face basis of the 72 points: S(a, b) = S0 + sum_k a_k A_k + sum_m b_m B_m.

Frame: x to the image's right, y down, z away from the viewer (right-handed); unit: the mean face's outer-eye
distance; origin: the mean of the 72 mean points. Every mode carries one standard deviation, so a, b are
N(0, I).
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facesnap.errors import LandmarkError
from facesnap.landmarks.scheme import OUTER_EYE_CORNERS, POINT_COUNT

DEFAULT_FILE = Path(__file__).with_name("basis.npz")
FORMAT = "facesnap-face-basis-1"
_ARRAYS = ("mean", "identity", "expression", "presets", "residuals")
_EYE_DISTANCE_RANGE = (0.8, 1.25)
_LARGEST_COORDINATE = 20.0
_MAX_MODES = 400


@dataclass(frozen=True, eq=False)
class Basis:
    """A face basis.

    Attributes:
        mean: (72, 3) float64, the neutral mean face.
        identity: (K, 72, 3), one standard deviation of shape each.
        expression: (M, 72, 3), one standard deviation of expression each; b = 0 is neutral.
        presets: name -> (72, 3) offset of the expression at full strength.
        identity_residual: standard deviation, per coordinate, of natural shapes outside the identity modes.
        expression_residual: the same for expressions.
        source: where the basis comes from, in words, with its licence.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    presets: dict[str, np.ndarray]
    identity_residual: float
    expression_residual: float
    source: str

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Basis:
        """Read a basis file; None reads the one that comes with FaceSnap.

        Raises:
            LandmarkError: the file is missing, damaged, of another format, or no face basis.
        """
        file = DEFAULT_FILE if path is None else Path(path)
        arrays, header = _read(file)
        names = header.get("presets")
        if not isinstance(names, list) or len(names) != len(arrays["presets"]) or len(set(names)) != len(names):
            raise _unusable(file, "its list of preset names does not fit the preset offsets")
        return cls(
            mean=arrays["mean"],
            identity=arrays["identity"],
            expression=arrays["expression"],
            presets={str(name): offset for name, offset in zip(names, arrays["presets"], strict=True)},
            identity_residual=float(arrays["residuals"][0]),
            expression_residual=float(arrays["residuals"][1]),
            source=str(header.get("source", "not stated")),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the basis as float32 rounded to 1e-5 outer-eye distances (npz, no pickles)."""
        header = {"format": FORMAT, "presets": list(self.presets), "source": self.source}
        arrays = {
            "mean": self.mean,
            "identity": self.identity,
            "expression": self.expression,
            "presets": np.stack(list(self.presets.values())) if self.presets else np.zeros((0, POINT_COUNT, 3)),
            "residuals": np.array([self.identity_residual, self.expression_residual]),
        }
        rounded = {name: np.round(array, 5).astype(np.float32) for name, array in arrays.items()}
        with Path(path).open("wb") as stream:
            np.savez_compressed(stream, header=np.array(json.dumps(header)), **rounded)  # type: ignore[arg-type]

    def shape(self, a: np.ndarray | None = None, offset: np.ndarray | None = None) -> np.ndarray:
        """S0 + sum a_k A_k + offset: (72, 3). `a` (K,) or None for the mean face; offset (72, 3) or None."""
        shape = self.mean if a is None else self.mean + np.tensordot(a, self.identity, 1)
        return shape.copy() if offset is None else shape + offset

    def expression_offset(self, b: np.ndarray) -> np.ndarray:
        """sum b_m B_m: (72, 3) for b (M,)."""
        return np.tensordot(b, self.expression, 1)


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The validated arrays (float64) and the header of a basis file."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in (*_ARRAYS, "header") if name not in archive.files]
            if missing:
                raise _unusable(file, f"it has no entry {missing[0]!r}")
            arrays = {name: np.asarray(archive[name], dtype=np.float64) for name in _ARRAYS}
            header = json.loads(str(archive["header"]))
    except FileNotFoundError as error:
        raise _unusable(file, "it does not exist") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise _unusable(file, f"it cannot be read as a basis ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _unusable(file, f"its format is not {FORMAT!r}")
    _validate(file, arrays)
    return arrays, header


def _validate(file: Path, arrays: dict[str, np.ndarray]) -> None:
    if arrays["mean"].shape != (POINT_COUNT, 3):
        raise _unusable(file, f"its mean has the shape {arrays['mean'].shape}, not ({POINT_COUNT}, 3)")
    for name in ("identity", "expression", "presets"):
        if arrays[name].ndim != 3 or arrays[name].shape[1:] != (POINT_COUNT, 3):
            raise _unusable(file, f"its {name} has the shape {arrays[name].shape}, not (N, {POINT_COUNT}, 3)")
    if not all(1 <= len(arrays[name]) <= _MAX_MODES for name in ("identity", "expression")):
        raise _unusable(file, f"it needs 1 to {_MAX_MODES} identity and expression modes")
    if arrays["residuals"].shape != (2,) or not (arrays["residuals"] >= 0).all():
        raise _unusable(file, "its residuals are not two non-negative numbers")
    for name, array in arrays.items():
        if not np.isfinite(array).all() or np.abs(array).max(initial=0) > _LARGEST_COORDINATE:
            raise _unusable(file, f"its {name} holds values that are not finite or far too large")
    mean = arrays["mean"]
    distance = float(np.linalg.norm(mean[OUTER_EYE_CORNERS[0]] - mean[OUTER_EYE_CORNERS[1]]))
    if not _EYE_DISTANCE_RANGE[0] <= distance <= _EYE_DISTANCE_RANGE[1]:
        raise _unusable(file, f"its mean face has an outer-eye distance of {distance:.3g}, not 1")
    upright = mean[OUTER_EYE_CORNERS[1], 0] > mean[OUTER_EYE_CORNERS[0], 0] and mean[8, 1] > mean[27, 1]
    if not upright or mean[30, 2] > mean[:17, 2].mean():
        raise _unusable(
            file, "its mean face is not in the frame x right, y down, z away, or its order of points differs"
        )


def _unusable(file: Path, reason: str) -> LandmarkError:
    return LandmarkError(
        f"The face basis {file} is unusable: {reason}.",
        expected="an .npz file that Basis.save or facesnap.landmarks.build_basis has written.",
        remedy="Leave the basis setting empty to use the built-in one, or rebuild the file.",
    )
