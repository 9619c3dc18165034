"""Embedded colour profiles (ICC): from a picture's own colours to sRGB, by Pillow's LittleCMS."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Callable
from typing import Any

from PIL import Image

logger = logging.getLogger(__name__)

ToSrgb = Callable[[Image.Image], Image.Image]
SAME = 2  # levels of 255: a profile that moves no colour by more is sRGB, and the samples stay as they are
_GREY = ("1", "L", "LA", "La", "I", "F")
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of profiles, by their colour space
_PROBES = {
    "RGB": bytes(itertools.chain.from_iterable(itertools.product(range(0, 256, 51), repeat=3))),
    "L": bytes(range(256)),
}


def to_srgb(image: Image.Image, name: str) -> tuple[str, ToSrgb] | None:
    """Conversion of a picture's colours to sRGB.

    Args:
        image: with its profile in `info`. name: what the log calls it.

    Returns:
        the mode (RGB, L, CMYK or LAB) of the images that are to be converted, and the conversion of one into RGB; or
        None where there is nothing to convert: no profile, sRGB's own, or one that cannot be used, which is logged.
    """
    content = image.info.get("icc_profile")
    if image.mode != "LAB" and not (isinstance(content, bytes) and content):
        return None
    try:
        from PIL import ImageCms
    except ImportError as error:
        _ignored(name, error)
        return None
    try:
        if isinstance(content, bytes) and content:
            source = ImageCms.ImageCmsProfile(io.BytesIO(content))
            mode = _mode(image.mode, source.profile.xcolor_space.strip())
        else:
            source, mode = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"
        # Perceptual: what viewers take; for profiles of a matrix it is the relative colorimetric intent.
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        convert = _converter(ImageCms, transform)
        return None if _is_srgb(mode, convert) else (mode, convert)
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError, AttributeError) as error:
        _ignored(name, error)
        return None


def _mode(mode: str, space: str) -> str:
    """The mode that a profile of a colour space describes. Raises ValueError where the picture has other colours."""
    wanted = _MODES.get(space, "")
    kind = "L" if mode in _GREY or mode.startswith("I;16") else mode if mode in ("CMYK", "LAB") else "RGB"
    if wanted == kind or (wanted == "RGB" and kind == "L"):  # grey saved with a profile for colours
        return wanted
    raise ValueError(f"it is for {space or 'unknown'} colours, the picture has {mode}")


def _converter(cms: Any, transform: Any) -> ToSrgb:
    def convert(image: Image.Image) -> Image.Image:
        made = cms.applyTransform(image, transform)
        assert made is not None  # it is, unless the image is to be changed in place
        return made

    return convert


def _is_srgb(mode: str, convert: ToSrgb) -> bool:
    if mode not in _PROBES:
        return False
    probe = Image.frombytes(mode, (len(_PROBES[mode]) // len(mode), 1), _PROBES[mode])
    before, after = probe.convert("RGB").tobytes(), convert(probe).tobytes()
    return max(abs(a - b) for a, b in zip(before, after, strict=True)) <= SAME


def _ignored(name: str, error: Exception) -> None:
    logger.warning("%s: its colour profile cannot be used (%s); colours are taken as sRGB", name, error)
