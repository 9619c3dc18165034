"""The CLIP image encoder: aligned face crops -> hidden states, the low-level input of the mixer."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from facesnap.errors import EncoderError, importing
from facesnap.faces.align import ENCODER_SIZE
from facesnap.faces.encoder_files import StateDict, VisionConfig, fill, read_config, read_tensors, vision_tensors
from facesnap.faces.face import Face
from facesnap.faces.face_encoder import Encoded

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FAMILIES = {(1280, 32): "ViT-H", (1664, 48): "ViT-bigG", (1024, 24): "ViT-L", (768, 12): "ViT-B"}
BATCH = 8
PENULTIMATE = (-2,)


class ImageEncoder:
    """transformers' CLIPVisionModelWithProjection, configured from its tensors.

    Attributes:
        config: a VisionConfig; config.chosen_by records how heads and activation were chosen.
        fingerprint: sha256 of the class embedding in float16: the same for one model's files in every layout and
            in float32 or float16, another for another training.
        name: for people, such as "ViT-H/14 1280x32 proj1024".
    """

    levels: tuple[int, ...] = PENULTIMATE

    def __init__(self, model: Any, config: VisionConfig, fingerprint: str, device: torch.device) -> None:
        self._model = model
        self.config = config
        self.fingerprint = fingerprint
        self.device = device

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        heads: int | None = None,
        hidden_act: str | None = None,
        state: StateDict | None = None,
    ) -> ImageEncoder:
        """Load a file in transformers' or OpenCLIP's layout; of a full CLIP model the vision half is taken.

        Args:
            heads, hidden_act: override what config.json or the rule of read_config says.
            state: the file's tensors, where it has been read.

        Raises:
            EncoderError: not readable, not a CLIP vision model, incomplete, or not finite.
            MissingDependencyError: transformers is missing.
        """
        path = Path(path)
        tensors = vision_tensors(read_tensors(path) if state is None else state, path)
        config = read_config(tensors, path, heads, hidden_act)
        model = _build(config)
        positions = torch.arange((config.image_size // config.patch) ** 2 + 1)[None]  # (1, 1 + P), in no file
        model.vision_model.embeddings.register_buffer("position_ids", positions, persistent=False)
        fill(model, tensors, path, "CLIP vision model")
        fingerprint = fingerprint_of(tensors["vision_model.embeddings.class_embedding"])
        target = torch.device(device)
        model = model.to(device=target, dtype=dtype).eval().requires_grad_(False)
        return cls(model, config, fingerprint, target)

    @property
    def name(self) -> str:
        config = self.config
        family = FAMILIES.get((config.width, config.layers), "ViT")
        return f"{family}/{config.patch} {config.width}x{config.layers} proj{config.projection}"

    @property
    def tokens(self) -> int:
        """1 + P: the class token and the patches."""
        return 1 + (self.config.image_size // self.config.patch) ** 2

    def see(self, faces: Sequence[Face], levels: Sequence[int] = PENULTIMATE, *, bgr: bool = False) -> Encoded:
        """As `facesnap.faces.face_encoder.FaceEncoder`, of the aligned 224 px crops."""
        crops = [face.crop(ENCODER_SIZE) for face in faces]
        hidden = self.encode([crop[:, :, ::-1] for crop in crops] if bgr else crops, levels)
        return Encoded({level: states.cpu() for level, states in hidden.items()})

    def encode(
        self, crops: Sequence[np.ndarray] | np.ndarray, levels: Sequence[int] = PENULTIMATE
    ) -> dict[int, torch.Tensor]:
        """Hidden states of square crops.

        Args:
            crops: B pictures (S, S, 3) RGB uint8, normally aligned 224 crops.
            levels: indices into the hidden states: 0 the embeddings, n the state after layer n, -1 the last,
                -2 the penultimate, which the public adapters use.

        Returns:
            level -> (B, 1 + P, width), on the encoder's device, in its dtype.
        """
        return self._hidden(preprocess(crops, self.config.image_size), levels)

    def encode_zero(self, levels: Sequence[int] = PENULTIMATE) -> dict[int, torch.Tensor]:
        """Hidden states (1, 1 + P, width) of a zero pixel tensor, the public adapters' unconditional."""
        size = self.config.image_size
        return self._hidden(torch.zeros(1, 3, size, size), levels)

    def _hidden(self, pixels: torch.Tensor, levels: Sequence[int]) -> dict[int, torch.Tensor]:
        count = self.config.layers + 1
        wrong = [level for level in levels if not -count <= level < count]
        if wrong or not levels:
            raise EncoderError(
                f"Levels {list(levels)} of {self.name}.",
                expected=f"at least one level from {-count} to {count - 1}.",
                remedy="use the encoder that the adapter was made for.",
            )
        parts: dict[int, list[torch.Tensor]] = {level: [] for level in levels}
        dtype = next(self._model.parameters()).dtype
        # A host may be in autocast; the encoder keeps its own precision. On other devices torch 2.1 has none.
        autocasts = self.device.type in ("cpu", "cuda")
        own = torch.autocast(self.device.type, enabled=False) if autocasts else contextlib.nullcontext()
        with torch.inference_mode(False), torch.no_grad(), own:
            for start in range(0, len(pixels), BATCH):
                batch = pixels[start : start + BATCH].to(device=self.device, dtype=dtype)  # (b, 3, S, S)
                states = self._model(pixel_values=batch, output_hidden_states=True).hidden_states
                for level, kept in parts.items():
                    kept.append(states[level])
        return {level: torch.cat(kept) for level, kept in parts.items()}


def fingerprint_of(class_embedding: torch.Tensor) -> str:
    """`ImageEncoder.fingerprint` of an encoder with this class embedding (width,)."""
    return hashlib.sha256(class_embedding.to("cpu", torch.float16).numpy().tobytes()).hexdigest()


def preprocess(crops: Sequence[np.ndarray] | np.ndarray, size: int) -> torch.Tensor:
    """B square crops RGB uint8 -> (B, 3, size, size) float32, normalised with CLIP's mean and deviation.

    The same as CLIPImageProcessor on square pictures: bicubic resize where the size differs, no crop.
    """
    tensors = []
    for crop in crops:
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[0] != crop.shape[1] or crop.shape[2] != 3:
            raise EncoderError(
                f"A crop of shape {crop.shape} and type {crop.dtype}.",
                expected="(S, S, 3) RGB uint8.",
                remedy="pass face.crop(224).",
            )
        if crop.shape[0] != size:
            crop = np.array(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        tensors.append(torch.from_numpy(np.ascontiguousarray(crop)))
    if not tensors:
        raise EncoderError("No crops to encode.", expected="at least one.", remedy="pass the faces' crops.")
    pixels = torch.stack(tensors).permute(0, 3, 1, 2).float() / 255  # (B, S, S, 3) -> (B, 3, S, S)
    mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    return (pixels - mean) / std


def _build(config: VisionConfig) -> Any:
    """The empty model on the meta device: no time or memory for weights that the file replaces."""
    with importing("transformers cannot be imported", "transformers 4.30 or newer."), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    settings = CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.intermediate,
        projection_dim=config.projection,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=config.patch,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
    )
    try:
        with torch.device("meta"):
            return CLIPVisionModelWithProjection(settings)
    except KeyError as error:  # of transformers' table of activations
        raise EncoderError(
            f"Activation {error}.",
            expected="gelu or quick_gelu.",
            remedy="correct hidden_act or config.json.",
        ) from error
