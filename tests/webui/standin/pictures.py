"""Pictures as clients send them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> str:
    """base64 of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
