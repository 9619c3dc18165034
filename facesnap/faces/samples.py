"""Decoded images of any mode -> RGB uint8, strip by strip, so that no second copy of a large picture is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facesnap.errors import PictureError
from facesnap.faces.profiles import ToSrgb, to_srgb

STRIP = 2_000_000  # px that are converted at once
# EXIF orientation 1 to 8 -> (quarter turns to the left, step along the columns after them: -1 mirrors).
ORIENTATIONS = ((0, 1), (0, -1), (2, 1), (2, -1), (3, -1), (3, 1), (1, -1), (1, 1))
_BITS, _PHOTOMETRIC, _PLANES, _FORMAT = 258, 262, 284, 339  # tags of TIFF
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
INVISIBLE = 8  # alpha of 255 below which nothing is seen

Part = tuple[Image.Image, int]  # RGB or grey, and its largest alpha


@dataclass(frozen=True)
class Levels:
    """Sample values of a picture that are not 8-bit levels, or mean the opposite.

    Attributes:
        black, white: samples that become 0 and 255. negative: the other way round.
    """

    black: float
    white: float
    negative: bool = False

    def levels(self, samples: np.ndarray) -> np.ndarray:
        """Samples of any shape -> uint8, rounded."""
        scaled = (samples.astype(np.float32) - np.float32(self.black)) * np.float32(255 / (self.white - self.black))
        found = np.rint(scaled).astype(np.uint8)
        return 255 - found if self.negative else found


def rgb_of(image: Image.Image, name: str, orientation: int = 1, factor: int = 1) -> np.ndarray:
    """A decoded image of any mode as RGB uint8 (H, W, 3), contiguous and upright.

    Transparency is laid over white, an embedded colour profile is applied, wide samples become 8 bits.

    Args:
        orientation: EXIF's, 1 to 8. factor: every square of so many px becomes one, their mean.

    Raises:
        PictureError: every pixel is transparent, or samples are out of every range. Others: what Pillow raises.
    """
    width, height = -(-image.width // factor), -(-image.height // factor)
    turns, step = ORIENTATIONS[orientation - 1]
    out = np.empty((height, width, 3) if turns % 2 == 0 else (width, height, 3), dtype=np.uint8)
    stored = np.rot90(out[:, ::step], -turns)  # a view: what is written to it as the file has it lies upright in `out`
    convert, opaque = _conversion(image, name), 0
    for top, strip in _strips(image, factor):
        part, alpha = convert(strip)
        part = part.reduce(factor) if factor > 1 else part
        stored[top // factor : top // factor + part.height] = np.asarray(part.convert("RGB"))
        opaque = max(opaque, alpha)
    if opaque < INVISIBLE:
        raise PictureError(
            f"{name}: transparent everywhere, so that nothing can be seen.",
            expected="a picture with something visible in it.",
            remedy="save it without transparency; of a picture with layers, with the right ones switched on.",
        )
    return out


def levels_of(low: float, high: float, kind: np.dtype, name: str, *, bits: int = 0, negative: bool = False) -> Levels:
    """Black and white of wide samples, by their range and type.

    Unsigned: 0..65535, or of so many bits. Signed of 8 or 16 bits: the whole range where any is negative, else
    0..127 or 0..32767, and 16 bits that stay below 256 are 8-bit levels. Floats: 0..1, or 0..255 if any is above 1.

    Raises:
        PictureError: they are out of these ranges, or not finite.
    """
    signed = np.issubdtype(kind, np.signedinteger) and bits in (8, 16)
    floating = np.issubdtype(kind, np.floating)
    most = (1 << (bits - signed)) - 1 if bits else 65535
    limits = (-most - 1 if signed else 0, 255 if floating else most)
    if not (np.isfinite(low) and np.isfinite(high)) or low < limits[0] or high > limits[1]:
        raise PictureError(
            f"{name}: samples from {low} to {high}.",
            expected="0..65535 for integers, 0..1 or 0..255 for floats, all finite.",
            remedy="scale the picture to 8 bits and save it as PNG.",
        )
    if floating:
        return Levels(0, 1 if high <= 1 else 255, negative)
    if low < 0:
        return Levels(limits[0], limits[1], negative)
    return Levels(0, 255 if signed and bits == 16 and high <= 255 else most, negative)


def _strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """The image in strips of full width, each with its upper row; their heights are multiples of the factor."""
    rows = max(1, STRIP // image.width // factor) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _conversion(image: Image.Image, name: str) -> Callable[[Image.Image], Part]:
    """The way from a strip of the image to RGB or grey of 8 bits, and its largest alpha."""
    found = to_srgb(image, name)
    mode, managed = found if found is not None else ("RGB", None)
    wide = _wide(image, name)
    if wide is not None:
        return _wide_conversion(image, *wide, mode, managed)
    if image.mode in _ALPHA or "transparency" in image.info:
        return lambda strip: _over_white(strip, mode, managed)
    return lambda strip: (_coloured(strip, mode, managed), 255)


def _coloured(image: Image.Image, mode: str, managed: ToSrgb | None) -> Image.Image:
    return image.convert("RGB") if managed is None else managed(image if image.mode == mode else image.convert(mode))


def _over_white(strip: Image.Image, mode: str, managed: ToSrgb | None) -> Part:
    rgba = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
    alpha, white = rgba.getchannel("A"), Image.new("RGB", strip.size, (255, 255, 255))
    white.paste(_coloured(rgba.convert("RGB"), mode, managed), mask=alpha)
    return white, int(np.asarray(alpha).max())


def _wide_conversion(
    image: Image.Image, levels: Levels, kind: np.dtype, mode: str, managed: ToSrgb | None
) -> Callable[[Image.Image], Part]:
    key = image.info.get("transparency")

    def convert(strip: Image.Image) -> Part:
        samples = _samples(strip, kind)
        grey = Image.fromarray(levels.levels(samples))
        part, alpha = grey if managed is None else _coloured(grey, mode, managed), 255
        if isinstance(key, int):
            seen = samples != key
            part, alpha = part.convert("RGB"), 255 * int(seen.any())
            part.paste((255, 255, 255), mask=Image.fromarray(np.uint8(255) * ~seen))
        return part, alpha

    return convert


def _wide(image: Image.Image, name: str) -> tuple[Levels, np.dtype] | None:
    """Levels and type of an image's samples where they are no 8-bit levels; None where they are."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    tags = {} if tags is None else tags
    bits, signed = max(tags.get(_BITS, (0,))), 2 in tags.get(_FORMAT, (1,))
    if tags.get(_PLANES) == 2 and bits > 8:  # Pillow takes 16 bits in planes for 8
        raise PictureError(
            f"{name}: a TIFF of {bits} bits a sample, one colour after the other.",
            expected="the colours of a pixel side by side (planar configuration 1), or 8 bits.",
            remedy="open it in a picture editor and save it as PNG.",
        )
    if image.mode == "L" and signed:
        kind = np.dtype(np.int8)
    elif image.mode in ("F", "I") or image.mode.startswith("I;16"):
        kind = np.asarray(image.crop((0, 0, 1, 1))).dtype
    else:
        return None
    bits = bits if kind == np.int8 or bits == 12 or (signed and bits == 16) else 0
    extents = [(part.min(), part.max()) for part in (_samples(strip, kind) for _, strip in _strips(image, 1))]
    low, high = np.array(extents).min(), np.array(extents).max()  # NaN stays
    return levels_of(low, high, kind, name, bits=bits, negative=tags.get(_PHOTOMETRIC) == 0), kind


def _samples(strip: Image.Image, kind: np.dtype) -> np.ndarray:
    samples = np.asarray(strip)
    return samples.view(np.int8) if kind == np.int8 else samples
