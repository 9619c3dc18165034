"""Activations of one training step, counted at full size on the meta device: shapes are real, numbers are never made.

Counted is what the graph keeps: every tensor that an operation saves for its backward pass. Where activations are
recomputed, that is the input of every block, and inside of the block that needs the most. Mixed precision is taken as
CUDA's autocast has it (matrix products and convolutions in 16 bits, norms in 32), attention as fused kernels have it
(queries, keys, values and the output, no matrix of weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import MissingDependencyError
from facesnap.training.config import StageConfig, TrainingConfig
from facesnap.training.losses import latent_window
from facesnap.training.wiring import Inputs, TrainableAdapter, recomputed_blocks

LATENT_SIDE = {"sd15": 64, "sdxl": 128}  # of pictures of 512 and 1024 pixels
TEXT_TOKENS, CLIP_TOKENS, POOLED = 77, 257, 1280
CLIP_WIDTH = 1280  # ViT-H/14, the encoder of the public adapters
FACE = (0.25, 0.25, 0.75, 0.75)  # of the picture, where a decoded face box is counted
HALF_OPERATIONS = {"linear", "conv2d", "matmul", "bmm", "baddbmm", "scaled_dot_product_attention"}
FULL_OPERATIONS = {"group_norm", "layer_norm", "softmax", "log_softmax"}


class SavedBytes:
    """Bytes of tensors that graphs keep, each storage once; parameters are counted elsewhere.

    Attributes:
        deepest: bytes inside of the block that keeps the most, where blocks are recomputed.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._known = {_storage(p) for module in modules for p in module.parameters()}
        self._alive: list[Tensor] = []  # their storages' addresses must not be used again
        self.outside, self.deepest = 0, 0

    def keep(self, tensor: Tensor) -> int:
        """Its bytes, 0 where they are known already."""
        address = _storage(tensor)
        if address in self._known:
            return 0
        self._known.add(address)
        self._alive.append(tensor)
        return tensor.untyped_storage().nbytes()

    @contextmanager
    def counting(self) -> Iterator[None]:
        def pack(tensor: Tensor) -> Tensor:
            self.outside += self.keep(tensor)
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def block(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a block that is recomputed in the backward pass: its inputs stay, what it saves comes and goes."""
        self.outside += sum(self.keep(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        before = self.outside
        with self.counting():
            out = forward(*args, **kwargs)
        self.deepest = max(self.deepest, self.outside - before)
        self.outside = before
        return out


class CudaPrecision(TorchFunctionMode):
    """CUDA's autocast and fused attention for tensors that are not on a card."""

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self.half = half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if self.half is not None and name in HALF_OPERATIONS | FULL_OPERATIONS:
            cast = partial(_cast, dtype=self.half if name in HALF_OPERATIONS else torch.float32)
            args, kwargs = tuple(map(cast, args)), {key: cast(value) for key, value in kwargs.items()}
        if name == "scaled_dot_product_attention":
            query, key, value = (*args, *(kwargs.get(n) for n in ("query", "key", "value")[len(args) :]))[:3]
            return _Attention.apply(query, key, value)
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """Tensors that a fused attention keeps for its backward pass, which is never run."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


def activation_bytes(config: TrainingConfig, unet: Any, adapter: Adapter, side: int | None = None) -> int:
    """Bytes that one micro-batch keeps until its backward pass, of the stage that keeps the most.

    Args:
        unet: diffusers' UNet of the base. adapter: the fresh one. Both are on the meta device.
        side: of the latents; by default that of pictures of 512 (SD1.5) or 1024 pixels (SDXL).
    """
    base = adapter.spec.base
    side, batch = side or LATENT_SIDE[base], config.optimiser.batch
    half = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}[config.precision]
    module = TrainableAdapter(unet.to(half or torch.float32), adapter, use_projections=config.adapter.projections)
    with torch.device("meta"):
        inputs = _inputs(base, batch, side, half or torch.float32, config)
    decoder = (1 if config.save_activations else batch) * _decoder_bytes(side) if _judging(config) else 0
    kept: dict[frozenset[str], SavedBytes] = {}  # what a graph keeps depends on the trained parts alone
    most = 0
    for stage in config.stages:
        trained = frozenset(stage.lr)
        if trained not in kept:
            kept[trained] = _graph_bytes(config, module, trained, inputs, half)
        saved = kept[trained]
        deepest = max(saved.deepest, decoder) if stage.judges else saved.deepest  # decoded before the blocks begin
        most = max(most, round(_calls(stage, batch) * saved.outside) + deepest)
    return most


def _judging(config: TrainingConfig) -> bool:
    return any(stage.judges for stage in config.stages)


def _graph_bytes(
    config: TrainingConfig, module: TrainableAdapter, trained: frozenset[str], inputs: Inputs, half: torch.dtype | None
) -> SavedBytes:
    """Count one forward pass with these parts trained."""
    module.requires_grad_(False)
    for part in trained:
        module.part(part).requires_grad_(True)
    saved = SavedBytes(module.unet, module)
    if config.save_activations and not recomputed_blocks(module, saved.block):
        raise MissingDependencyError(
            "This diffusers does not let its blocks be counted.",
            expected="diffusers 0.33 or newer, for the plan alone",
            remedy="pip install --upgrade diffusers in the training environment",
        )
    with module.wiring, saved.counting(), CudaPrecision(half):
        module(inputs)
    return saved


def _calls(stage: StageConfig, batch: int) -> float:
    """Micro-batches whose graphs are alive at once: each step of a sampling that the gradient goes through is one."""
    if stage.align is None:
        return 1
    return max(1.0, stage.align.through * min(stage.align.samples or batch, batch) / batch)


def base_unet(base: str) -> Any:
    """diffusers' UNet of a base model, on the current device."""
    from diffusers import UNet2DConditionModel

    if base == "sd15":
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10), cross_attention_dim=2048, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def _inputs(base: str, batch: int, side: int, dtype: torch.dtype, config: TrainingConfig) -> Inputs:
    xl = base == "sdxl"
    levels = (-2, *config.adapter.levels)
    return Inputs(
        latents=torch.empty(batch, 4, side, side, dtype=dtype), timesteps=torch.empty(batch, dtype=torch.long),
        text=torch.empty(batch, TEXT_TOKENS, 2048 if xl else 768, dtype=dtype), f_id=torch.empty(batch, 1, 512),
        hidden={level: torch.empty(batch, 1, CLIP_TOKENS, CLIP_WIDTH) for level in levels},
        landmarks=torch.empty(batch, 3, 8 * side, 8 * side),
        pooled=torch.empty(batch, POOLED, dtype=dtype) if xl else None,
        time_ids=torch.empty(batch, 6, dtype=dtype) if xl else None,
    )  # fmt: skip


def _decoder_bytes(side: int) -> int:
    """Bytes that decoding one face box in float32 keeps."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae: Any = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        _, _, height, width = latent_window(torch.tensor(FACE, device="cpu"), (side, side))
        latents = torch.empty(1, 4, height, width, requires_grad=True)
    vae.requires_grad_(False)
    saved = SavedBytes(vae)
    with saved.counting(), CudaPrecision(None):
        vae.decode(latents)
    return saved.outside


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
