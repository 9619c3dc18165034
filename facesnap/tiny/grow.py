"""The inner levels of the autoencoder, which it grows after the outer ones.

Trained at once, the innermost levels learn last, and every step costs whole pictures: 26.5 dB after 1,700 steps. So
the outer levels learn first, in an autoencoder that makes pictures a quarter as large; the inner levels alone then
learn to carry that one's features through the smaller latent, at a tenth of the cost (29.9 dB after 3,400 steps); last,
all but the outer encoder learn from pictures (31.0 dB).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from facesnap.tiny.autoencoder import OUTER_FACTOR, importance, pixels
from facesnap.tiny.data import Portraits
from facesnap.tiny.loop import Draws, Losses

KL_WEIGHT = 3e-7  # of an error in parts of the features' variance


def outer_encoder(model: Any, levels: int) -> list[Any]:
    """The encoder's modules before the last level's resolution changes again."""
    blocks = model.encoder.down_blocks
    return [model.encoder.conv_in, *blocks[: levels - 1], blocks[levels - 1].resnets]


def transplant(outer: Any, whole: Any) -> None:
    """Give the whole autoencoder the outer levels of the other one, an AutoencoderKL of one level less."""
    levels = len(outer.encoder.down_blocks)
    pairs = list(zip(outer_encoder(outer, levels), outer_encoder(whole, levels), strict=True))
    pairs += list(zip(outer.decoder.up_blocks, whole.decoder.up_blocks[1:], strict=True))
    pairs += [(getattr(outer.decoder, name), getattr(whole.decoder, name)) for name in ("conv_norm_out", "conv_out")]
    for source, target in pairs:
        target.load_state_dict(source.state_dict())


def freeze_outer_encoder(whole: Any) -> None:
    """Freeze what the latent is made from: only what is made of it goes on to learn."""
    for module in outer_encoder(whole, len(whole.encoder.down_blocks) - 1):
        module.requires_grad_(False)


@torch.no_grad()
def features(outer: Any, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Features that the inner levels get, and those to give: (B, C, S / 4, S / 4) both, of (B, S, S, 3) uint8.

    The first is what the encoder's last level has of the pictures, the second what the decoder's middle makes of it.
    """
    encoder, decoder = outer.encoder, outer.decoder
    given = encoder.conv_in(pixels(images))
    for block in encoder.down_blocks:
        given = block(given)
    moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(given))))
    mean = DiagonalGaussianDistribution(outer.quant_conv(moments)).mean
    return given, decoder.mid_block(decoder.conv_in(outer.post_quant_conv(mean)))


def carried(whole: Any, given: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Features that the inner levels make of others (B, C, h, w), through the latent; and its KL divergence, (B,)."""
    encoder, decoder = whole.encoder, whole.decoder
    for layer in encoder.down_blocks[-2].downsamplers:
        given = layer(given)
    given = encoder.mid_block(encoder.down_blocks[-1](given))
    moments = whole.quant_conv(encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(given))))
    posterior = DiagonalGaussianDistribution(moments)
    latent = posterior.mean + posterior.std * draws.noise(posterior.mean)
    return decoder.up_blocks[0](decoder.mid_block(decoder.conv_in(whole.post_quant_conv(latent)))), posterior.kl()


class InnerLoss:
    """The loss of one step of the inner levels.

    Args:
        kept: `features` of the pictures `rows` (N,) of `portraits`, (N, C, h, w) float16 each.
    """

    def __init__(
        self, whole: Any, portraits: Portraits, rows: np.ndarray, kept: tuple[np.ndarray, np.ndarray], batch: int
    ) -> None:
        self.whole, self.portraits, self.rows, self.kept, self.batch = whole, portraits, rows, kept, batch
        self.variance = float(np.asarray(kept[1][:256], np.float32).var())

    def __call__(self, step: int, draws: Draws) -> Losses:
        chosen = draws.rows(len(self.rows), self.batch)
        given, wanted = (torch.from_numpy(a[chosen].astype(np.float32)) for a in self.kept)
        points, boxes = (torch.from_numpy(a[self.rows[chosen]]) for a in (self.portraits.points, self.portraits.boxes))
        side = self.portraits.images.shape[1]
        weight = F.avg_pool2d(importance(points, boxes, side), OUTER_FACTOR)  # (B, 1, h, w)
        made, kl = carried(self.whole, given, draws)
        error = (weight * (made - wanted).square()).sum() / (weight.sum() * made.shape[1] * self.variance)
        return {"loss": error + KL_WEIGHT * kl.mean(), "error": error.detach(), "kl": kl.detach().mean()}
