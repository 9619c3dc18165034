"""Formats of picture files: the decoders that read them, names by the first bytes, and packages that some need."""

from __future__ import annotations

import importlib
import io
import logging
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from facesnap.errors import PictureError, TooLargeError
from facesnap.remedies import remedy

logger = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000
# Formats whose decoders run in process, check sizes before decoding and know their files by a signature.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
HEAD = 64  # bytes that say what a file is

# First bytes -> the name of a format; of those that FaceSnap reads, and of others that people take for pictures.
_READ = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xffO\xffQ": "JPEG 2000",
}  # fmt: skip
# Lower case, since web pages come in either.
_FOREIGN = {
    b"\0\0\0\x0cjxl ": "a JPEG XL picture", b"\xff\x0a": "a JPEG XL picture", b"%pdf": "a PDF document",
    b"8bps": "a Photoshop document", b"<svg": "an SVG drawing", b"<?xml": "an XML or SVG file",
    b"<!doctype": "a web page", b"<html": "a web page", b"pk\x03\x04": "a zip archive", b"rar!": "a rar archive",
    b"7z\xbc\xaf": "a 7z archive", b"\x1f\x8b": "a packed file", b"\0\0\1\0": "a Windows icon",
    b"%!ps": "a PostScript document", b"\x1ae\xdf\xa3": "a video", b"\xffu\xff": "an audio file",
    b"id3": "an audio file", b"gimp xcf": "a GIMP document", b"version https://git-lfs": "a pointer of git-lfs",
    b"fujifilm": "a camera's raw file", b"iiu\0": "a camera's raw file", b"iiro": "a camera's raw file",
}  # fmt: skip
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
# Format -> the package that decodes it where Pillow does not, and its module.
PACKAGES = {"HEIC": ("pillow-heif", "pillow_heif"), "AVIF": ("pillow-avif-plugin", "pillow_avif")}


def open_image(stream: BinaryIO, name: str) -> Image.Image:
    """A picture file as a Pillow image that is not decoded yet; HEIC alone is decoded here.

    Args:
        stream: the file, open for reading bytes; it need not be seekable.

    Raises:
        PictureError: no picture, of a format that FaceSnap does not read, or of one whose package is not installed.
        TooLargeError: a HEIC of more than 64 megapixels. Others: what the decoders raise.
    """
    stream = _seekable(stream, name)
    head = stream.read(HEAD)
    stream.seek(0)
    kind = kind_of(head)
    if kind == "HEIC":
        return _open_heic(stream, name)
    Image.init()
    if kind == "AVIF" and "AVIF" not in Image.OPEN:
        _module("AVIF", name)  # registers its decoder with Pillow
    try:
        return Image.open(stream, formats=[known for known in FORMATS if known in Image.OPEN])
    except UnidentifiedImageError as error:  # its text shows a Python object
        raise _unknown(name, kind, head) from error


def kind_of(head: bytes) -> str:
    """Name of the format that a file's first bytes promise: "PNG", "HEIC", ...; "" where it is none that is read."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(int.from_bytes(head[:4], "big"), HEAD), 4))}
        # A HEIC names its codec or only the container's brand, mif1, which AVIF files name too.
        return "AVIF" if brands & _AVIF else "HEIC" if brands & _HEIC else ""
    if head.startswith(b"RIFF"):
        return "WebP" if head[8:12] == b"WEBP" else ""
    return next((kind for start, kind in _READ.items() if head.startswith(start)), "")


def _foreign(head: bytes) -> str:
    """What a file is that is no picture, for people; "" where it is not known."""
    if not head:
        return "an empty file"
    if not any(head):
        return "zeros, as a copy or download that was cut short leaves them"
    if head[4:8] == b"ftyp":
        return "a camera's raw file" if head[8:12] == b"crx " else "a video"
    if head.startswith(b"RIFF"):
        return {b"AVI ": "a video", b"WAVE": "an audio file"}.get(head[8:12], "")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for mark, what in _FOREIGN.items() if start.startswith(mark)), "")


def check_size(width: int, height: int, name: str) -> None:
    """Raise PictureError for an empty picture, TooLargeError for one of more than 64 megapixels."""
    if width < 1 or height < 1:
        raise PictureError(
            f"{name}: {width} x {height} pixels.",
            expected="at least one pixel.",
            remedy="choose another picture.",
        )
    if width * height > MAX_PIXELS:
        raise too_large(name, f"{width} x {height} pixels")


def too_large(name: str, reason: str) -> TooLargeError:
    """The error for a picture of too many pixels."""
    return TooLargeError(
        f"{name}: too large ({reason}).",
        expected=f"at most {MAX_PIXELS // 1_000_000} megapixels.",
        remedy="scale the picture down; 2 megapixels are plenty for a portrait.",
    )


def _seekable(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream at its beginning, or its bytes where it cannot be wound back."""
    with suppress(AttributeError, OSError, ValueError):
        stream.seek(0)
        if isinstance(stream.read(0), bytes):
            return stream
    content = stream.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise PictureError(
            f"{name}: gives {type(content).__name__}, no bytes.",
            expected="a file that is open for reading bytes.",
            remedy='open it with "rb".',
        )
    return io.BytesIO(content)


def _open_heic(stream: BinaryIO, name: str) -> Image.Image:
    # By the package's own reader, which needs no particular Pillow; its plugin for Pillow does.
    heif = _module("HEIC", name).open_heif(stream, convert_hdr_to_8bit=True, bgr_mode=False)
    check_size(heif.size[0], heif.size[1], name)
    return heif.to_pillow()


def _module(kind: str, name: str) -> Any:
    package, module = PACKAGES[kind]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        logger.debug("%s: %s", module, error)
        phone = " (iPhones do with Settings, Camera, Formats, Most Compatible)" if kind == "HEIC" else ""
        raise PictureError(
            f"{name}: {'a HEIC' if kind == 'HEIC' else 'an AVIF'} picture, and the package {package}, which reads "
            "them, is not installed.",
            expected=f"{package}, or a picture in another format.",
            remedy=f"save the picture as JPEG{phone}, or {remedy('install a reader', package=package)}.",
        ) from error


def _unknown(name: str, kind: str, head: bytes) -> PictureError:
    """The error for a file that no decoder takes."""
    if kind:
        return PictureError(
            f"{name}: not a picture that can be read (a {kind} file, damaged at its beginning or of a rare kind).",
            expected="a complete file with 8 or 16 bits a sample.",
            remedy="open it in a picture editor and save it as PNG or JPEG with 8 bits.",
        )
    found = _foreign(head)
    return PictureError(
        f"{name}: not a picture that FaceSnap reads{f' ({found})' if found else ''}.",
        expected=f"a file in one of the formats {', '.join([*FORMATS, 'HEIC'])}.",
        remedy="open it in a picture editor and save it as PNG or JPEG.",
    )
