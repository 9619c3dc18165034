"""Any picture a user may hand in -> RGB uint8, upright, or a PictureError that says why not."""

from __future__ import annotations

import io
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from facesnap.errors import PictureError, TooLargeError

logger = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000
# Formats whose decoders run in process, check sizes before decoding and know their files by a signature.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
_DECODING = threading.RLock()  # what must be switched around a decoder is global in Pillow and in `warnings`
ROWS_AT_ONCE = 1024  # conversions of wide samples go by strips, so that their memory stays small

PictureSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray

# What Pillow's decoders raise on damaged or hostile files; bombs are reported by an error or by a warning.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
# EXIF orientation 1 to 8 -> (quarter turns to the left, step along the columns after them: -1 mirrors).
ORIENTATIONS = ((0, 1), (0, -1), (2, 1), (2, -1), (3, -1), (3, 1), (1, -1), (1, 1))
ORIENTATION_TAG = 0x0112


def read_picture(source: PictureSource, *, name: str | None = None) -> np.ndarray:
    """Read a picture as RGB uint8 (H, W, 3), contiguous, upright by its EXIF orientation.

    Transparency is laid over white, 16-bit samples are scaled by 1/257, float samples count as 0..1 (or
    0..255 if any is above 1), of an animation the first frame is taken. Arrays are RGB(A) or grey, never BGR.

    Args:
        source: a path, a file's bytes, an open binary file, a Pillow image or an array (H, W[, 1 | 3 | 4]).
        name: what error messages call it; by default the path, or the kind of source.

    Raises:
        PictureError: it is missing, no picture, damaged or empty. TooLargeError: it is over 64 megapixels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or f"array of shape {source.shape}")
    if isinstance(source, Image.Image):
        return _from_image(source, name or f"image {source.mode} {source.width} x {source.height}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_stream(io.BytesIO(source), name or f"{len(source)} bytes")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), name or str(source))
    if hasattr(source, "read"):
        return _from_stream(source, name or str(getattr(source, "name", "open file")))
    raise PictureError(
        f"{type(source).__name__} is not a picture source.",
        expected="a path, bytes, an open binary file, a Pillow image or a numpy array.",
        remedy="pass one of these.",
    )


def reduced(pixels: np.ndarray, longest: int | None) -> np.ndarray:
    """A picture (H, W, 3) with at most so many pixels on its longer side; as it is where that is None."""
    import cv2

    height, width = pixels.shape[:2]
    if longest is None or max(height, width) <= longest:
        return pixels
    factor = longest / max(height, width)
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)


def _from_path(path: Path, name: str) -> np.ndarray:
    try:
        with path.open("rb") as stream:
            return _from_stream(stream, name)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise PictureError(
            f"{name}: cannot be opened ({error}).",
            expected="a readable picture file.",
            remedy="check the path and its permissions.",
        ) from error


def _from_stream(stream: BinaryIO, name: str) -> np.ndarray:
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]
    try:
        with _whole_files_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(stream, formats=formats)
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except DECODER_ERRORS as error:
        raise PictureError(
            f"{name}: not a picture ({_reason(error)}).",
            expected=f"a file in one of the formats {', '.join(formats)}.",
            remedy="open it in a picture editor and save it as PNG or JPEG.",
        ) from error
    with image:
        return _from_image(image, name)


def _from_image(image: Image.Image, name: str) -> np.ndarray:
    _check_size(image.width, image.height, name)
    try:
        with _whole_files_only():
            image.load()
        _check_size(image.width, image.height, name)  # some decoders find another size than their header's
        pixels = _to_rgb(image, name)
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except DECODER_ERRORS as error:
        raise PictureError(
            f"{name}: damaged or truncated ({_reason(error)}).",
            expected="a complete picture file.",
            remedy="copy or download the file again.",
        ) from error
    turns, step = ORIENTATIONS[_orientation(image, name) - 1]
    return np.ascontiguousarray(np.rot90(pixels, turns)[:, ::step])


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A decoded image of any mode -> uint8 (H, W, 3)."""
    mode = image.mode
    if mode == "F" or mode == "I" or mode.startswith("I;16"):
        grey = _samples_to_uint8(np.asarray(image), name, sixteen_bit=mode != "F")
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey = np.where(np.asarray(image) == key, np.uint8(255), grey)
        return np.repeat(grey[:, :, None], 3, axis=2)
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if not transparent:
        return np.array(image.convert("RGB"))
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return np.array(canvas)


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PictureError(
            f"{name}: not a picture.",
            expected="an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).",
            remedy="put the colour channels last.",
        )
    _check_size(array.shape[1], array.shape[0], name)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        if not (array.dtype == np.uint16 or np.issubdtype(array.dtype, np.floating)):
            raise PictureError(
                f"{name}: samples of type {array.dtype}.",
                expected="uint8, uint16, bool or float.",
                remedy="convert the array to uint8.",
            )
        array = _samples_to_uint8(array, name, sixteen_bit=array.dtype == np.uint16)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 4:
        return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)
    return np.array(array, order="C")


def _samples_to_uint8(samples: np.ndarray, name: str, *, sixteen_bit: bool) -> np.ndarray:
    """Wide samples of any shape (H, W, ...) -> uint8, rounded."""
    low, high = samples.min(), samples.max()
    limit = 65535 if sixteen_bit else 255
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > limit:
        raise PictureError(
            f"{name}: samples from {low} to {high}.",
            expected="0..65535 for integers, 0..1 or 0..255 for floats, all finite.",
            remedy="scale the picture to 8 bits and save it as PNG.",
        )
    factor = 1 / 257 if sixteen_bit else (255.0 if high <= 1 else 1.0)
    result = np.empty(samples.shape, dtype=np.uint8)
    for top in range(0, len(samples), ROWS_AT_ONCE):
        rows = slice(top, top + ROWS_AT_ONCE)
        result[rows] = np.rint(samples[rows].astype(np.float32) * np.float32(factor))
    return result


def _orientation(image: Image.Image, name: str) -> int:
    """EXIF orientation 1..8; 1 where there is none. TIFF is turned by Pillow as it loads; old versions keep the tag."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except DECODER_ERRORS as error:
        logger.warning("%s: its EXIF data is damaged (%s); the picture is taken as stored", name, _reason(error))
        return 1
    return int(value) if value in range(1, 9) else 1


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Pillow's global switch for truncated files, off: hosts turn it on, which would give half-grey faces."""
    with _DECODING:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise PictureError(
            f"{name}: {width} x {height} pixels.",
            expected="at least one pixel.",
            remedy="choose another picture.",
        )
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")


def _too_large(name: str, reason: str) -> TooLargeError:
    return TooLargeError(
        f"{name}: too large ({reason}).",
        expected=f"at most {MAX_PIXELS // 1_000_000} megapixels.",
        remedy="scale the picture down; 2 megapixels are plenty for a portrait.",
    )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
