"""Pictures as the WebUI and its API hand them over -> what `read_picture` takes. Never a path, never an address."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from facesnap.errors import PictureError
from facesnap.faces.picture import read_picture


def decode(value: Any, name: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) from base64 text, a data URL, a Pillow image or an array.

    Args:
        name: what messages call it.

    Raises:
        PictureError: neither of these, or no picture.
    """
    if not isinstance(value, str):
        return read_picture(value, name=name)
    text = value.strip()
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return read_picture(base64.b64decode("".join(text.split()), validate=True), name=name)
    except (binascii.Error, ValueError) as error:
        raise PictureError(
            f"{name} is text that is no base64 ({error}).",
            expected="a picture as base64 or a data URL",
            remedy="encode the file's bytes as base64; paths and addresses are not accepted",
        ) from error
