"""Variants of a reference's crop: what the CLIP encoder sees of a person besides the clean crop (paper design 2.5).

Variant 0 is the clean crop. The others draw a shift and scale of up to 10 %, a colour jitter, grey with probability
0.1, and blur or JPEG with probability 0.2.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from facesnap.faces.align import ENCODER_SIZE, aligned_crop

CROP, COLOUR, GREY, DAMAGE = 0.1, 0.2, 0.1, 0.2


def variant(picture: np.ndarray, kps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A varied crop (224, 224, 3) of a picture (H, W, 3), both RGB uint8; kps: (5, 2) of the face in it."""
    centre, extent = kps.mean(0), np.ptp(kps, axis=0).max()
    moved = (kps - centre) * rng.uniform(1 - CROP, 1 + CROP) + centre + rng.uniform(-CROP, CROP, 2) * extent
    image = Image.fromarray(aligned_crop(picture, moved.astype(np.float32), ENCODER_SIZE))
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(float(rng.uniform(1 - COLOUR, 1 + COLOUR)))
    if rng.random() < GREY:
        image = image.convert("L").convert("RGB")
    damaged, by_jpeg = rng.random() < DAMAGE, rng.random() < 0.5
    amount = rng.random()
    if damaged and by_jpeg:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(30 + 50 * amount))
        image = Image.open(stream).convert("RGB")
    elif damaged:
        image = image.filter(ImageFilter.GaussianBlur(0.5 + 2 * amount))
    return np.array(image)
