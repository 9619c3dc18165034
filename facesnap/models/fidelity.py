"""FFRNet, the ID-preserving network: a ControlNet whose cross-attention sees the ID tokens alone.

arXiv 2602.00627, figure 2a: the fused ID features and the landmark picture go in, residuals for the
frozen UNet's skips and middle come out; the prompt goes to the UNet only. The parameter names are those
of diffusers' ControlNetModel, so that a public ControlNet of that layout (InstantID's IdentityNet among
them) loads as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.errors import AttachError, CheckpointError
from facesnap.models.fidelity_config import LANDMARK_HINT, FFRNetConfig
from facesnap.models.tensors import check_tensors, load_strictly, of_one_dtype, on_meta
from facesnap.models.unet_blocks import (
    Attention,
    Downsample,
    KeyValue,
    ResBlock,
    SpatialTransformer,
    TransformerBlock,
    VectorEmbedding,
    timestep_embedding,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # that it can compute in
_SILU_GAIN = 1.68  # keeps the second moment of normal values through SiLU
Residuals = tuple[list[Tensor], Tensor]  # (one per skip of the UNet, shallow to deep; the middle's)


class HintNetwork(nn.Module):
    """Landmark picture (B, 3, 8h, 8w), RGB in 0..1 -> hint embedding (B, C, h, w)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        picture, first, *_ = channels
        self.conv_in = nn.Conv2d(picture, first, 3, padding=1)
        self.blocks = nn.ModuleList()
        for a, b in pairwise(channels[1:]):
            self.blocks.append(nn.Conv2d(a, a, 3, padding=1))
            self.blocks.append(nn.Conv2d(a, b, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], width, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        h = F.silu(self.conv_in(picture))
        for conv in self.blocks:
            h = F.silu(conv(h))
        return self.conv_out(h)

    def draw(self) -> None:
        """Fresh weights for training under which lines of the picture reach the embedding with their strength.

        torch's own would shrink them to a thousandth in these seven layers, and zeros in the last one would hide them
        until the network's zero convolutions have moved; black stays 0.
        """
        for conv in (self.conv_in, *self.blocks, self.conv_out):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            gain = 1.0 if conv is self.conv_out else _SILU_GAIN
            nn.init.normal_(conv.weight, std=gain / conv.weight[0].numel() ** 0.5)
            nn.init.zeros_(conv.bias)


class DownLevel(nn.Module):
    """One level of the encoder: residual blocks, each with its transformer, then perhaps a halving."""

    def __init__(self, config: FFRNetConfig, level: int) -> None:
        super().__init__()
        width, depths = config.channels[level], config.depth[level]
        width_in = config.channels[max(level - 1, 0)]
        self.depths = depths
        self.resnets = nn.ModuleList(
            ResBlock(width if j else width_in, width, config.time_dim, config.norm_groups) for j in range(len(depths))
        )
        if any(depths):
            self.attentions = nn.ModuleList(_transformer(config, width, d) if d else nn.Identity() for d in depths)
        if level < len(config.channels) - 1:
            self.downsamplers = nn.ModuleList([Downsample(width)])

    def forward(self, h: Tensor, time: Tensor, kvs: list[KeyValue]) -> list[Tensor]:
        """Every feature map a skip is taken from; consumes its sites' K/V from the front of ``kvs``."""
        skips = []
        for j, (resnet, depth) in enumerate(zip(self.resnets, self.depths, strict=True)):
            h = resnet(h, time)
            if depth:
                h = self.attentions[j](h, [kvs.pop(0) for _ in range(depth)])
            skips.append(h)
        if hasattr(self, "downsamplers"):
            skips.append(self.downsamplers[0](h))
        return skips


class Middle(nn.Module):
    """Residual block, transformer, residual block; without transformer, one residual block."""

    def __init__(self, config: FFRNetConfig) -> None:
        super().__init__()
        width = config.channels[-1]
        self.resnets = nn.ModuleList(
            ResBlock(width, width, config.time_dim, config.norm_groups) for _ in range(2 if config.mid_depth else 1)
        )
        if config.mid_depth:
            self.attentions = nn.ModuleList([_transformer(config, width, config.mid_depth)])

    def forward(self, h: Tensor, time: Tensor, kvs: list[KeyValue]) -> Tensor:
        h = self.resnets[0](h, time)
        if hasattr(self, "attentions"):
            h = self.resnets[1](self.attentions[0](h, kvs), time)
        return h


class FFRNet(nn.Module):
    """ControlNet encoder and middle over ID tokens; a fresh one returns zeros (zero convolutions)."""

    def __init__(self, config: FFRNetConfig) -> None:
        super().__init__()
        self.config = config
        first, last = config.channels[0], config.channels[-1]
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.time_embedding = VectorEmbedding(first, config.time_dim)
        if config.adm_dim is not None:
            self.add_embedding = VectorEmbedding(config.adm_dim, config.time_dim)
        self.controlnet_cond_embedding = HintNetwork(config.hint_channels, first)
        _zero(self.controlnet_cond_embedding.conv_out)
        if config.landmark_hint_channels is not None:
            self.landmark_cond_embedding = HintNetwork(config.landmark_hint_channels, first)
            _zero(self.landmark_cond_embedding.conv_out)
        self.down_blocks = nn.ModuleList(DownLevel(config, i) for i in range(len(config.channels)))
        self.mid_block = Middle(config)
        self.controlnet_down_blocks = nn.ModuleList(_zero(nn.Conv2d(width, width, 1)) for width in skip_widths(config))
        self.controlnet_mid_block = _zero(nn.Conv2d(last, last, 1))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in, that of its weights; inputs are cast to it."""
        return self.conv_in.weight.dtype

    def embed_hint(self, landmark_picture: Tensor | None = None, five_point_picture: Tensor | None = None) -> Tensor:
        """The part of the input that depends on the pictures only: compute it once per pass.

        Args:
            landmark_picture: 72 dots, (1 or B, 3, 8h, 8w), RGB in 0..1, for a latent of h x w.
            five_point_picture: InstantID's five-point picture of the same size.

        Returns:
            (1 or B, C0, h, w); for a dual hint the sum of what its two networks make of their pictures.

        Raises:
            AttachError: a picture the network has no use for, or none that it needs.
        """
        pictures = {"landmarks": landmark_picture, "five_points": five_point_picture}
        given = {name: picture for name, picture in pictures.items() if picture is not None}
        networks: dict[str, nn.Module] = {self.config.donor_picture: self.controlnet_cond_embedding}
        if self.config.landmark_hint_channels is not None:
            networks["landmarks"] = self.landmark_cond_embedding
        if not given or not set(given) <= set(networks):
            raise AttachError(
                f"FFRNet was given the pictures {list(given)}.",
                expected=f"one or more of {sorted(networks)}, which this checkpoint was trained on.",
                remedy="Draw the picture that the checkpoint's metadata names.",
            )
        hints = [networks[name](picture.to(self.conv_in.weight)) for name, picture in given.items()]
        return hints[0] if len(hints) == 1 else hints[0] + hints[1]

    def project_tokens(self, tokens: Tensor) -> list[KeyValue]:
        """K and V of the ID tokens for every attn2 site, shallow to deep, the middle last.

        ID tokens do not change over the steps, so this is done once and ``forward`` given the result. Weights are
        raised to float32 one site at a time, so that half-precision networks can do it on the CPU and lose nothing.

        Args:
            tokens: (1 or B, T, context dim).

        Returns:
            one pair per site, each (1 or B, heads, T, head dim), float32 (float64 of float64 weights) where the
            weights lie.
        """
        weight = self.conv_in.weight
        tokens = tokens.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        return [site.project_exactly(tokens) for site in self.sites()]

    def sites(self) -> Iterator[Attention]:
        """Every attn2, in running order; ``to_k`` and ``to_v`` are used by ``project_tokens`` alone."""
        attentions = [a for level in self.down_blocks for a in getattr(level, "attentions", [])]
        attentions += getattr(self.mid_block, "attentions", [])
        for attention in attentions:
            if isinstance(attention, SpatialTransformer):
                for block in attention.transformer_blocks:
                    assert isinstance(block, TransformerBlock)
                    yield block.attn2

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor | Sequence[KeyValue],
        hint: Tensor,
        y: Tensor | None = None,
    ) -> Residuals:
        """Residuals for one UNet call.

        Args:
            x: latents as the UNet sees them, (B, 4, h, w).
            t: timesteps, (B,) or (1,).
            tokens: ID tokens (1 or B, T, context dim), or what ``project_tokens`` made of them.
            hint: hint embedding of ``embed_hint``, (1 or B, C0, h, w).
            y: SDXL's vector (B, 2816): the pooled text embedding followed by the sinusoidal embeddings of
                the six size ids. ldm and sgm pass it ready made; diffusers builds the same vector from
                ``text_embeds`` and ``time_ids``. None for SD 1.5.

        Returns:
            one residual per skip of the UNet, shallow to deep, and the middle's, each of the size of the
            feature map it belongs to (a stride-2 convolution rounds odd sides up).

        Raises:
            AttachError: y is given to a network without it or left out, or the hint has another size.
        """
        self._check_inputs(x, hint, y)
        weight = self.conv_in.weight
        kvs = self.project_tokens(tokens) if isinstance(tokens, Tensor) else list(tokens)
        if len(kvs) != len(self.config.attention_widths()):
            raise AttachError(
                f"FFRNet was given K and V for {len(kvs)} sites.",
                expected=f"{len(self.config.attention_widths())}, one pair per attn2.",
                remedy="Project the tokens with this very network.",
            )
        sinusoid = timestep_embedding(t.expand(x.shape[0]).to(weight.device), self.config.channels[0])
        time = self.time_embedding(sinusoid.to(self.dtype))  # (B, time dim)
        if y is not None:
            time = time + self.add_embedding(y.to(weight))
        h = self.conv_in(x.to(weight)) + hint.to(weight)
        skips = [h]
        for level in self.down_blocks:
            skips += level(skips[-1], time, kvs)
        h = self.mid_block(skips[-1], time, kvs)
        down = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return down, self.controlnet_mid_block(h)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], **overrides: Any) -> FFRNet:
        """The network that a state dict in diffusers' ControlNet layout describes, with its tensors.

        The tensors are taken over as they are (dtype and device too) and not copied; those of a file that mixes dtypes
        are raised to the widest.

        Args:
            overrides: ``heads``, ``head_dim``, ``norm_groups``, ``donor_picture``; see
                ``FFRNetConfig.from_state_dict``.

        Raises:
            CheckpointError: tensors are missing, unknown, of another shape, or not floating point.
        """
        config = FFRNetConfig.from_state_dict(state, **overrides)
        odd = [f"{name} {t.dtype}" for name, t in state.items() if t.dtype not in DTYPES]
        if odd:
            raise CheckpointError(
                f"The FFRNet holds tensors that it cannot compute with: {', '.join(odd[:6])}.",
                expected="float16, bfloat16 or float32 weights.",
                remedy="Choose the 16-bit file instead of the quantised one.",
            )
        with on_meta():
            net = cls(config)
        load_strictly(net, of_one_dtype(state), network="FFRNet")
        return net.requires_grad_(False).eval()

    @classmethod
    def from_unet_state_dict(cls, config: FFRNetConfig, unet: Mapping[str, Tensor]) -> FFRNet:
        """A network to train: encoder and middle copied from a UNet, its hint and outputs fresh.

        Args:
            config: its shape; the encoder's must be the UNet's.
            unet: the UNet's state dict under diffusers' names. Of an inpaint UNet's ``conv_in`` the
                latent's four channels are taken.

        Raises:
            CheckpointError: the UNet lacks a tensor of the encoder or has it in another shape.
        """
        net = cls(config)
        net.controlnet_cond_embedding.draw()  # its outputs are zero convolutions, so that it changes nothing yet
        fresh = {k: v for k, v in net.state_dict().items() if k.startswith(("controlnet_", LANDMARK_HINT))}
        encoder = {k: v for k, v in net.state_dict().items() if k not in fresh}
        donor = {name: tensor for name, tensor in unet.items() if name in encoder}
        if "conv_in.weight" in donor:
            donor["conv_in.weight"] = donor["conv_in.weight"][:, : config.in_channels]
        check_tensors(encoder, donor, network="UNet's encoder")
        net.load_state_dict({**fresh, **donor}, strict=True)
        return net

    def _check_inputs(self, x: Tensor, hint: Tensor, y: Tensor | None) -> None:
        width = None if y is None else y.shape[-1]
        if width != self.config.adm_dim:
            raise AttachError(
                f"FFRNet was given a vector y of width {width}.",
                expected=f"width {self.config.adm_dim} (None: no vector; 2816: SDXL).",
                remedy="Use a checkpoint made for the loaded Stable Diffusion version.",
            )
        if x.shape[1] != self.config.in_channels or hint.shape[-2:] != x.shape[-2:]:
            raise AttachError(
                f"FFRNet was given latents {tuple(x.shape)} with a hint {tuple(hint.shape)}.",
                expected=f"{self.config.in_channels} channels and a hint of the latent's height and width.",
                remedy="Draw the landmark picture at eight times the latent's size.",
            )


def skip_widths(config: FFRNetConfig) -> list[int]:
    """Channels of each residual: after conv_in, after every layer, after every halving."""
    widths = [config.channels[0]]
    for level, (width, layers) in enumerate(zip(config.channels, config.depth, strict=True)):
        widths += [width] * (len(layers) + (level < len(config.channels) - 1))
    return widths


def _transformer(config: FFRNetConfig, width: int, depth: int) -> SpatialTransformer:
    return SpatialTransformer(
        width,
        config.context_dim,
        config.heads_of(width),
        depth,
        config.linear_projection,
        config.norm_groups,
    )


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Zero-initialised: a fresh network changes nothing until it is trained."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
