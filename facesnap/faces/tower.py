"""EVA02-CLIP's image tower as an encoder of faces: what PuLID's adapters look through."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from facesnap.errors import EncoderError
from facesnap.faces.encoder import CLIP_MEAN, CLIP_STD, ImageEncoder, fingerprint_of
from facesnap.faces.encoder_files import StateDict, fill, read_tensors
from facesnap.faces.face import Face
from facesnap.faces.face_encoder import Encoded, FaceEncoder
from facesnap.faces.grey_face import ELLIPSE, aligned_head, grey_faces, load_parser
from facesnap.faces.known import EVA_TOWER
from facesnap.models.eva_tower import EvaConfig, EvaTower, tower_tensors
from facesnap.models.face_parsing import Parser
from facesnap.models.pulid import TOWER_LEVELS
from facesnap.models.tensors import on_meta

PUBLISHED = EvaConfig(width=1024, layers=24, ff=2730, patch=14, grid=24, projection=768)


class TowerEncoder:
    """Grey faces on white -> hidden states of the tower and its class vector.

    Attributes:
        config: the tower's sizes.
        fingerprint: sha256 of the class token in float16, the same for the model's files in every layout.
        name: for people; "EVA02-CLIP-L-14-336" by its sizes.
        parser: separates a face from its background; None where an ellipse does.
    """

    levels: tuple[int, ...] = TOWER_LEVELS

    def __init__(self, model: EvaTower, fingerprint: str, parser: Parser | None, device: torch.device) -> None:
        self._model, self.fingerprint, self.parser, self.device = model, fingerprint, parser, device
        self.config = model.config

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        model_dirs: Iterable[str | os.PathLike] = (),
        state: StateDict | None = None,
    ) -> TowerEncoder:
        """Load the official EVA02_CLIP_L_336_psz14_s6B.pt, or the same model in OpenCLIP's or timm's layout.

        Args:
            model_dirs: folders of models that may hold a face-parsing network, searched before the usual ones.
            state: the file's tensors, where it has been read.

        Raises:
            EncoderError: not readable, no such tower, incomplete, or not finite.
        """
        path = Path(path)
        tensors = tower_tensors(read_tensors(path) if state is None else state)
        if tensors is None:
            raise EncoderError(
                f"{path} holds no EVA-CLIP image tower.",
                expected="visual.blocks.0.attn.q_proj.weight, or the same model in OpenCLIP's or timm's layout",
                remedy="use EVA02_CLIP_L_336_psz14_s6B.pt of huggingface.co/QuanSun/EVA-CLIP",
            )
        target = torch.device(device)
        with on_meta():
            model = EvaTower(EvaConfig.from_state_dict(tensors))
        fill(model, tensors, path, "EVA-CLIP image tower")
        model = model.to(device=target, dtype=dtype).eval().requires_grad_(False)
        return cls(model, fingerprint_of(tensors["cls_token"]), load_parser(model_dirs), target)

    @property
    def name(self) -> str:
        c = self.config
        return EVA_TOWER if c == PUBLISHED else f"EVA02-CLIP {c.width}x{c.layers}-{c.patch}-{c.image_size}"

    def see(self, faces: Sequence[Face], levels: Sequence[int] = TOWER_LEVELS, *, bgr: bool = False) -> Encoded:
        """As `facesnap.faces.face_encoder.FaceEncoder`."""
        heads = [aligned_head(face) for face in faces]
        pixels = grey_faces([head[:, :, ::-1].copy() for head in heads] if bgr else heads, self.parser)
        side = self.config.image_size
        # PuLID's pinned torchvision resizes tensors without antialiasing; nothing clips what bicubic overshoots.
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        pixels = (pixels - mean) / std
        hidden: dict[int, list[torch.Tensor]] = {level: [] for level in levels}
        vectors = []
        autocasts = self.device.type in ("cpu", "cuda")  # the tower keeps its own precision inside a host's autocast
        own = torch.autocast(self.device.type, enabled=False) if autocasts else contextlib.nullcontext()
        dtype = self._model.cls_token.dtype
        with torch.inference_mode(False), torch.no_grad(), own:
            for one in pixels:
                found = self._model(one[None].to(self.device, dtype), levels)
                vectors.append(found.class_vector.cpu())
                for level, kept in hidden.items():
                    kept.append(found.hidden[level].cpu())
        made = f"background told by {self.parser.title if self.parser else ELLIPSE}"
        return Encoded({level: torch.cat(kept) for level, kept in hidden.items()}, torch.cat(vectors), made)


def load_encoder(path: str | os.PathLike, model_dirs: Iterable[str | os.PathLike] = ()) -> FaceEncoder:
    """An encoder of faces of whichever kind a file holds: EVA-CLIP's image tower, or a CLIP vision model.

    Raises:
        EncoderError: as `TowerEncoder.load` and `ImageEncoder.load`. MissingDependencyError: transformers is missing.
    """
    path = Path(path)
    state = read_tensors(path)
    if tower_tensors(state) is not None:
        return TowerEncoder.load(path, model_dirs=model_dirs, state=state)
    return ImageEncoder.load(path, state=state)
