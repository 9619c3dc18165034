"""Losses (paper: L_diff + lambda_id L_id; the face-box and leak terms are FaceSnap's own additions).

Every function returns one value a sample, (B,): the trainer weighs and averages them. Sizes of boxes are fractions
of the picture: left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from facesnap.errors import SettingsError

RECOGNISER_SIDE = 112
PREDICTIONS = ("epsilon", "v_prediction")


def check_prediction(kind: str) -> str:
    """The scheduler's prediction type, or SettingsError where it is not one that can be trained."""
    if kind not in PREDICTIONS:
        raise SettingsError(
            f"The base model predicts {kind!r}.",
            expected=" or ".join(PREDICTIONS),
            remedy="choose a base model of Stable Diffusion 1.5 or SDXL",
        )
    return kind


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """sqrt(a) x0 + sqrt(1 - a) noise; alpha_bar (B,), the others (B, C, h, w)."""
    a = _wide(alpha_bar)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target_of(kind: str, latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Target of the prediction: the noise, or v = sqrt(a) noise - sqrt(1 - a) x0 (arXiv 2202.00512)."""
    if check_prediction(kind) == "epsilon":
        return noise
    a = _wide(alpha_bar)
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def clean_of(kind: str, prediction: Tensor, noised: Tensor, alpha_bar: Tensor) -> Tensor:
    """The one-step estimate of x0 that a prediction stands for, (B, C, h, w)."""
    a = _wide(alpha_bar)
    if check_prediction(kind) == "epsilon":
        return (noised - (1 - a).sqrt() * prediction) / a.sqrt()
    return a.sqrt() * noised - (1 - a).sqrt() * prediction


def min_snr_weight(kind: str, alpha_bar: Tensor, gamma: float | None) -> Tensor:
    """min-SNR-gamma weights (arXiv 2303.09556): min(snr, gamma) over snr (epsilon) or snr + 1 (v); (B,).

    gamma None leaves every weight at 1.
    """
    if gamma is None:
        return torch.ones_like(alpha_bar)
    # Zero-terminal-SNR schedules end at alpha_bar 0, where an epsilon weight would be 0 / 0.
    snr = (alpha_bar / (1 - alpha_bar)).clamp(min=1e-8)
    return snr.clamp(max=gamma) / (snr if check_prediction(kind) == "epsilon" else snr + 1)


def diffusion_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean square error of each sample, (B,), in float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1) * weight


def box_mask(boxes: Tensor, size: tuple[int, int], margin: float = 0.0) -> Tensor:
    """1 inside each box, 0 outside: (B, 4) -> (B, 1, height, width). margin: of the box's sides, on every side.

    A box covers at least the cell of its middle, so that small faces never vanish.
    """
    height, width = size
    sides = boxes[:, 2:] - boxes[:, :2]
    low, high = boxes[:, :2] - margin * sides, boxes[:, 2:] + margin * sides  # (B, 2) each
    middle = (low + high) / 2
    masks = []
    for axis, cells in ((1, height), (0, width)):
        edges = torch.arange(cells, device=boxes.device)
        starts, ends = low[:, axis, None] * cells, high[:, axis, None] * cells
        centre = (middle[:, axis, None] * cells).floor().clamp(0, cells - 1)
        masks.append(((edges + 0.5 > starts) & (edges + 0.5 < ends)) | (edges == centre))  # (B, cells)
    return (masks[0][:, None, :, None] & masks[1][:, None, None, :]).float()


def face_box_loss(prediction: Tensor, target: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    """The diffusion loss inside the face box alone (RealisID's L_facebox), (B,)."""
    mask = box_mask(boxes, (prediction.shape[-2], prediction.shape[-1]))
    error = (prediction.float() - target.float()).square().mean(1, keepdim=True)  # (B, 1, h, w)
    return (error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1) * weight


def leak_loss(residuals: Sequence[Tensor], boxes: Tensor, margin: float) -> Tensor:
    """Mean square of FFRNet's residuals outside the head, the mean over the feature maps; (B,).

    Args:
        residuals: (B, C, h, w) of any sizes. boxes: of the faces. margin: by which the box is widened to the head.
    """
    parts = []
    for residual in residuals:
        outside = 1 - box_mask(boxes, (residual.shape[-2], residual.shape[-1]), margin)
        energy = residual.float().square().mean(1, keepdim=True) * outside  # (B, 1, h, w)
        parts.append(energy.flatten(1).sum(1) / outside.flatten(1).sum(1).clamp(min=1))
    return torch.stack(parts).mean(0)


def latent_window(box: Tensor, size: tuple[int, int], margin: float = 0.25) -> tuple[int, int, int, int]:
    """(top, left, height, width) in latent cells around one face box (4,), widened, inside the latent."""
    height, width = size
    left, top, right, bottom = (float(v) for v in box)
    dx, dy = margin * (right - left), margin * (bottom - top)
    x0, x1 = max(int((left - dx) * width), 0), min(int((right + dx) * width) + 1, width)
    y0, y1 = max(int((top - dy) * height), 0), min(int((bottom + dy) * height) + 1, height)
    return y0, x0, max(y1 - y0, 1), max(x1 - x0, 1)


def warp(picture: Tensor, matrix: Tensor, side: int = RECOGNISER_SIDE) -> Tensor:
    """The aligned crop of a picture, differentiable in the picture.

    Args:
        picture: (1, 3, H, W). matrix: (2, 3), picture pixels -> crop pixels, centres at whole numbers, as
            `facesnap.faces.align.similarity` gives it.

    Returns:
        (1, 3, side, side), bilinear; outside the picture 0, which is black at the recogniser's range 0..1.
    """
    matrix = matrix.to(picture.device, torch.float32)
    inverse = torch.linalg.inv(matrix[:, :2])
    axis = torch.arange(side, device=picture.device, dtype=torch.float32)
    crop = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (side, side, 2)
    source = (crop - matrix[:, 2]) @ inverse.T
    sizes = torch.tensor([picture.shape[-1], picture.shape[-2]], device=picture.device, dtype=torch.float32)
    grid = (2 * source + 1) / sizes - 1  # pixel centres at (i + 0.5) / n, as grid_sample without align_corners
    return F.grid_sample(picture.float(), grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)


def identity_loss(
    clean: Tensor,
    boxes: Tensor,
    matrices: Tensor,
    wanted: Tensor,
    decode: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
) -> Tensor:
    """1 - cosine of the face in a one-step estimate and the target's own; (B,).

    Only the face box is decoded, and it is warped with the target's known five points: no detector is in the loop
    (the GT-aligned form of WithAnyone, arXiv 2510.14975).

    Args:
        clean: (B, C, h, w) estimates of x0. boxes: (B, 4). matrices: (B, 2, 3), whole picture -> crop.
        wanted: (B, D) embeddings of the targets under the same recogniser.
        decode: latents (1, C, h, w) -> picture (1, 3, fh, fw) in 0..1, f the VAE's factor.
        embed: crops (B, 3, 112, 112) in 0..1 -> (B, D).
    """
    crops = []
    for latent, box, matrix in zip(clean, boxes, matrices, strict=True):
        top, left, height, width = latent_window(box, (latent.shape[-2], latent.shape[-1]))
        piece = decode(latent[None, :, top : top + height, left : left + width])
        factor = piece.shape[-1] // width  # pixels of a latent cell
        moved = matrix.clone()
        moved[:, 2] += matrix[:, :2] @ matrix.new_tensor([left * factor, top * factor])  # the piece's corner
        crops.append(warp(piece, moved))
    return 1 - F.cosine_similarity(embed(torch.cat(crops)).float(), wanted.float(), dim=-1)


def _wide(alpha_bar: Tensor) -> Tensor:
    return alpha_bar.view(-1, 1, 1, 1)  # (B,) -> (B, 1, 1, 1)
