"""The landmarks of an identity's references, kept with it: an identity file gives the face's shape without photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

TENSOR_PREFIX = "landmarks."
_DTYPES = {"points": torch.float32, "sizes": torch.int32, "sigma": torch.float32}
_ARRAYS = tuple(_DTYPES)


@dataclass(frozen=True, eq=False)
class StoredLandmarks:
    """Output of one landmark model on each of R references, before any fit.

    Attributes:
        points: (R, P, D) float32 pixels of each photo, in the order of the landmark scheme: P is 72, or 5 where the
            pack holds no landmark model; D is 2 or 3; NaN where hidden.
        sizes: (R, 2) int32, width and height of each photo.
        sigma: (R,) float32, the model's error as a fraction of the outer-eye distance.
        kind: what found them ("3d68", "106", "68" or "five"). model: its file's name.
    """

    points: np.ndarray
    sizes: np.ndarray
    sigma: np.ndarray
    kind: str
    model: str = ""

    def problem(self, references: int) -> str | None:
        """The fault of the arrays, None where there is none."""
        if self.points.ndim != 3 or len(self.points) != references or self.points.shape[1] not in (5, 72):
            return f"landmarks of shape {self.points.shape} for {references} references"
        if self.points.shape[2] not in (2, 3) or self.points.dtype != np.float32 or np.isinf(self.points).any():
            return f"landmarks of {self.points.shape[2]} dimensions, {self.points.dtype}, or not finite"
        if (self.points.shape[1] == 5) != (self.kind == "five"):
            return f"{self.points.shape[1]} landmarks of the kind {self.kind!r}"
        if self.sizes.shape != (references, 2) or self.sizes.dtype != np.int32 or (self.sizes < 1).any():
            return f"picture sizes of shape {self.sizes.shape}, {self.sizes.dtype}"
        if self.sigma.shape != (references,) or self.sigma.dtype != np.float32:
            return f"landmark errors of shape {self.sigma.shape}, {self.sigma.dtype}"
        if not ((self.sigma > 0) & (self.sigma < 1)).all():
            return "landmark errors outside 0..1"
        return None

    @property
    def content(self) -> bytes:
        """Everything that a fit depends on, for digests."""
        head = f"{self.kind} {self.points.shape}".encode()
        return head + b"".join(np.ascontiguousarray(getattr(self, name)).tobytes() for name in _ARRAYS)

    def tensors(self) -> dict[str, torch.Tensor]:
        """For an identity's file."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        return {f"{TENSOR_PREFIX}{name}": torch.from_numpy(array) for name, array in arrays.items()}

    def metadata(self) -> dict[str, str]:
        return {"landmark_kind": self.kind, "landmark_model": self.model}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
    ) -> tuple[StoredLandmarks | None, list[str]]:
        """From an identity's file.

        Args:
            tensors: those whose names begin with `TENSOR_PREFIX`.

        Returns:
            The landmarks, None where the file has none; and the names of what is missing or unknown.
        """
        names = {f"{TENSOR_PREFIX}{name}" for name in _ARRAYS}
        odd = sorted(names ^ set(tensors)) + [key for key in ("landmark_kind",) if key not in metadata]
        if not tensors and "landmark_kind" not in metadata:
            return None, []
        if odd:
            return None, odd
        given = {name: tensors[f"{TENSOR_PREFIX}{name}"] for name in _ARRAYS}
        if any(given[name].dtype != dtype for name, dtype in _DTYPES.items()):
            return None, [f"{TENSOR_PREFIX}{name} as {given[name].dtype}" for name in _ARRAYS]
        arrays = {name: tensor.numpy() for name, tensor in given.items()}
        return cls(**arrays, kind=metadata["landmark_kind"], model=metadata.get("landmark_model", "")), []
