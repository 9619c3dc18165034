"""Pictures as the WebUI and its API hand them over -> arrays. Never a path, never an address: see `photos`."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from facesnap.errors import PictureError, TooLargeError
from facesnap.faces.picture import read_picture

MOST_BYTES = 32 << 20  # of a picture's file
_MOST_TEXT = MOST_BYTES * 3 // 2  # base64 takes 4/3, line breaks a little more


def decode(value: Any, name: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) from base64 text, a data URL, a Pillow image or an array.

    Args:
        name: what messages call it.

    Raises:
        PictureError: neither of these, or no picture. TooLargeError: over 32 MiB, or over 64 megapixels.
    """
    if not isinstance(value, str):
        return read_picture(value, name=name)
    if len(value) > _MOST_TEXT:
        raise too_many_bytes(name)
    text = value.strip()
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return read_picture(base64.b64decode("".join(text.split()), validate=True), name=name)
    except (binascii.Error, ValueError) as error:
        raise PictureError(
            f"{name} is text that is no base64 ({error}).",
            expected="a picture as base64 or a data URL",
            remedy="encode the file's bytes as base64",
        ) from error


def too_many_bytes(name: str) -> TooLargeError:
    """The error for a picture whose file is over the bound."""
    return TooLargeError(
        f"{name} is larger than {MOST_BYTES >> 20} MiB.",
        expected=f"a file of at most {MOST_BYTES >> 20} MiB",
        remedy="scale the picture down; 2 megapixels are plenty for a portrait",
    )
