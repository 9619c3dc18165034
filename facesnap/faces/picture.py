"""Any picture a user may hand in -> RGB uint8, upright, or a PictureError that says why not."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from facesnap.errors import PictureError
from facesnap.faces.formats import MAX_PIXELS, check_size, open_image, too_large
from facesnap.faces.samples import levels_of, rgb_of

__all__ = ["MAX_PIXELS", "PictureSource", "read_picture", "reduced"]

logger = logging.getLogger(__name__)

FULL_PIXELS = 50_000_000  # up to here every pixel is kept; larger pictures are halved before they are copied
_DECODING = threading.RLock()  # what must be switched around a decoder is global in Pillow and in `warnings`
ROWS_AT_ONCE = 1024  # conversions of wide samples go by strips, so that their memory stays small
FRAMES = 8  # that are looked at where the first one is empty
LONGEST_NAME = 300  # of a picture in messages: a path may be a photo's base64 by mistake

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
ORIENTATION_TAG = 0x0112
_OBJECT = re.compile(r"<[^<>]*(?:\bat 0x[0-9a-fA-F]+|_io\.)[^<>]*>")


def read_picture(source: PictureSource, *, name: str | None = None) -> np.ndarray:
    """Read a picture as RGB uint8 (H, W, 3), contiguous, upright by its EXIF orientation.

    Transparency is laid over white, embedded colour profiles are applied, 16-bit samples are scaled by 1/257, float
    samples count as 0..1 (or 0..255 if any is above 1), of an animation the first frame is taken. Pictures over 50
    megapixels are halved in width and height. Arrays are RGB(A) or grey, never BGR.

    Args:
        source: a path, a file's bytes, an open binary file, a Pillow image or an array (H, W[, 1 | 3 | 4]).
        name: what error messages call it; by default the path, or the kind of source.

    Raises:
        PictureError: it is missing, no picture, damaged, empty or transparent everywhere, or its format needs a
            package that is not installed. TooLargeError: it is over 64 megapixels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or f"array of shape {source.shape}")
    if isinstance(source, Image.Image):
        return _from_image(source, name or f"image {source.mode} {source.width} x {source.height}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_stream(io.BytesIO(source), name or f"{len(source)} bytes")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), name or _short(str(source)))
    if hasattr(source, "read"):
        called = getattr(source, "name", None)  # a number, where it was opened by its descriptor
        return _from_stream(source, name or (_short(called) if isinstance(called, str) and called else "open file"))
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
            f"{name}: cannot be opened ({_reason(error)}).",
            expected="a readable picture file.",
            remedy="check the path and its permissions.",
        ) from error


def _from_stream(stream: BinaryIO, name: str) -> np.ndarray:
    try:
        with _whole_files_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = open_image(stream, name)
    except Image.DecompressionBombError as error:
        raise too_large(name, str(error)) from error
    except DECODER_ERRORS as error:
        raise _damaged(name, error) from error
    with image:
        check_size(image.width, image.height, name)
        halves = _factor(image) == 2 and image.draft(image.mode, (image.width // 2, image.height // 2)) is not None
        return _from_image(image, name, 1 if halves else None)


def _from_image(image: Image.Image, name: str, factor: int | None = None) -> np.ndarray:
    """factor: by which the picture is to be reduced; None: as its size asks."""
    check_size(image.width, image.height, name)
    try:
        with _whole_files_only():
            image.load()
        check_size(image.width, image.height, name)  # some decoders find another size than their header's
        pixels = rgb_of(image, name, _orientation(image, name), _factor(image) if factor is None else factor)
    except Image.DecompressionBombError as error:
        raise too_large(name, str(error)) from error
    except PictureError as error:
        raise (_first_frame(name) if _has_frames(image) else error) from error
    except DECODER_ERRORS as error:
        raise _damaged(name, error) from error
    if _plain(pixels) and _shows_later(image):
        raise _first_frame(name)
    return pixels


def _factor(image: Image.Image) -> int:
    return 2 if image.width * image.height > FULL_PIXELS else 1


def _plain(pixels: np.ndarray) -> bool:
    """Whether a picture has one colour alone."""
    few = pixels[:: max(1, len(pixels) // 16), :: max(1, pixels.shape[1] // 16)]
    return bool((few == few[0, 0]).all() and (pixels == pixels[0, 0]).all())


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except DECODER_ERRORS:  # GIFs are read on to find out
        return False


def _shows_later(image: Image.Image) -> bool:
    """Whether one of the next frames has more than one colour; the image stays at its frame."""
    if not _has_frames(image):
        return False
    first = image.tell()
    try:
        with _whole_files_only():
            for number in range(first + 1, first + 1 + FRAMES):
                image.seek(number)
                check_size(image.width, image.height, "a frame")
                if not _plain(np.asarray(image.convert("RGB"))):
                    return True
    except (*DECODER_ERRORS, PictureError):  # EOFError: there are no more
        return False
    finally:
        with suppress(*DECODER_ERRORS):
            image.seek(first)
    return False


def _first_frame(name: str) -> PictureError:
    return PictureError(
        f"{name}: several frames, of which the first is empty.",
        expected="an animation that shows something in its first frame, or one picture.",
        remedy="save the frame with the face as PNG or JPEG.",
    )


def _damaged(name: str, error: BaseException) -> PictureError:
    return PictureError(
        f"{name}: damaged or truncated ({_reason(error)}).",
        expected="a complete picture file.",
        remedy="copy or download the file again.",
    )


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PictureError(
            f"{name}: not a picture.",
            expected="an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).",
            remedy="put the colour channels last.",
        )
    check_size(array.shape[1], array.shape[0], name)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        if not (array.dtype == np.uint16 or np.issubdtype(array.dtype, np.floating)):
            raise PictureError(
                f"{name}: samples of type {array.dtype}.",
                expected="uint8, uint16, bool or float.",
                remedy="convert the array to uint8.",
            )
        array = _to_uint8(array, name)
    if array.shape[0] * array.shape[1] > FULL_PIXELS or array.shape[2:] == (4,):
        return _from_image(Image.fromarray(np.ascontiguousarray(array)), name)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.array(array, order="C")


def _to_uint8(samples: np.ndarray, name: str) -> np.ndarray:
    """Wide samples of any shape (H, W, ...) -> uint8, rounded."""
    levels = levels_of(samples.min(), samples.max(), samples.dtype, name)
    result = np.empty(samples.shape, dtype=np.uint8)
    for top in range(0, len(samples), ROWS_AT_ONCE):
        rows = slice(top, top + ROWS_AT_ONCE)
        result[rows] = levels.levels(samples[rows])
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


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 10]}... ({len(name)} characters)"


def _reason(error: BaseException) -> str:
    """An error's text without the Python objects that Pillow shows in it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _OBJECT.sub("the file", str(error)) or type(error).__name__
