"""Formats, sample types and colours that cameras, scanners and editors write: read right, or named in the refusal."""

from __future__ import annotations

import io
import logging
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facesnap.errors import PictureError
from facesnap.faces import picture, read_picture
from tests.faces.icc import SPACES, grey_profile, grey_truth, rgb_profile, rgb_truth
from tests.faces.test_picture import ALPHA, GREY, RGB, SMOOTH, H, W, encoded, exif_orientation, grey3

WIDE = np.random.default_rng(5).integers(0, 65536, (H, W), dtype=np.uint16)
INT, UNSIGNED, FLOAT = 2, 1, 3  # TIFF's sample formats


def tiff(samples: np.ndarray, *, white_is_zero: bool = False, kind: int = UNSIGNED, bits: int = 0, order: str = "<"):
    """A TIFF of one strip, (H, W[, C]), by the specification."""
    height, width, channels = (*samples.shape, 1)[:3]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    photometric = 2 if channels == 3 else 0 if white_is_zero else 1
    bits = bits or samples.dtype.itemsize * 8
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8 + 2 + 12 * 11 + 4), (277, 3, 1, channels), (278, 4, 1, height),
        (279, 4, 1, len(data)), (284, 3, 1, 1), (339, 3, 1, kind),
    ]  # fmt: skip
    entries = b""
    for tag, form, count, value in tags:
        value_bytes = struct.pack(order + "I", value) if form == 4 else struct.pack(order + "HH", value, 0)
        entries += struct.pack(order + "HHI", tag, form, count) + value_bytes
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + data


def packed12(samples: np.ndarray) -> np.ndarray:
    """12-bit samples (H, W), W even, as the bytes that TIFF has them in."""
    a, b = samples[:, ::2].astype(int), samples[:, 1::2].astype(int)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=-1).reshape(len(samples), -1).astype(np.uint8)


def twelve_bits(samples: np.ndarray) -> bytes:
    data = bytearray(tiff(packed12(samples), bits=12))
    data[10 + 8 : 10 + 12] = struct.pack("<I", samples.shape[1])  # the width is of samples, not of bytes
    return bytes(data)


TRUTH = grey3(np.rint(WIDE / 257.0))
SIGNED = (WIDE.astype(np.int32) - 32768).astype(np.int16)
SAMPLES: dict[str, tuple[bytes, np.ndarray]] = {
    "16 bits": (tiff(WIDE), TRUTH),
    "16 bits, big end first": (tiff(WIDE, order=">"), TRUTH),
    "16 bits, white is zero": (tiff(65535 - WIDE, white_is_zero=True), TRUTH),
    "8 bits, white is zero": (tiff(255 - GREY, white_is_zero=True), grey3(GREY)),
    "16 bits, signed": (tiff(SIGNED, kind=INT), TRUTH),
    "16 bits, signed, big end first": (tiff(SIGNED, kind=INT, order=">"), TRUTH),
    "16 bits, signed, none negative": (tiff((WIDE // 2).astype(np.int16), kind=INT), np.rint(grey3(WIDE // 2) / 128.5)),
    "16 bits, signed, 8-bit levels": (tiff(GREY.astype(np.int16), kind=INT), grey3(GREY)),
    "12 bits": (twelve_bits(WIDE >> 4), TRUTH),
    "float, white is zero": (tiff((1 - GREY / 255).astype(np.float32), white_is_zero=True, kind=FLOAT), grey3(GREY)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_tiffs(name: str) -> None:
    data, truth = SAMPLES[name]
    assert np.abs(read_picture(data).astype(float) - truth).max() <= 1


def test_signed_bytes_are_read_right_or_refused() -> None:
    """Old versions of Pillow know no such files; new ones take -1 for white."""
    levels = tiff((GREY.astype(int) - 128).astype(np.int8), kind=INT)
    halves = tiff((GREY // 2).astype(np.int8), kind=INT)
    try:
        found = read_picture(levels), read_picture(halves)
    except PictureError as error:
        assert "TIFF" in error.what and "rare kind" in error.what
        return
    assert np.array_equal(found[0], grey3(GREY)) and np.abs(found[1].astype(int) - grey3(GREY // 2 * 2)).max() <= 1


def test_ink_in_planes_and_in_ycck() -> None:
    """Sixteen bits in planes, which Pillow takes for eight, are refused; YCCK JPEGs are what printers write."""
    planes = bytearray(tiff(np.repeat(WIDE[:, :, None], 3, axis=2)))
    planes[10 + 12 * 9 + 8] = 2
    with pytest.raises(PictureError, match="one colour after the other"):
        read_picture(bytes(planes))
    ink = np.full((H, W, 4), (40, 90, 130, 20), np.uint8)
    cmyk = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=100, subsampling=0)
    start = cmyk.index(b"Adobe")
    ycck = cmyk[: start + 11] + b"\x02" + cmyk[start + 12 :]
    light = 255.0 - ink[0, 0, :3]
    y, cb, cr = light[0], light[1] - 128, light[2] - 128  # Adobe stores ink the other way round
    inks = np.clip([y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb], 0, 255)
    for data, wanted in ((cmyk, light * 235 / 255), (ycck, (255 - inks) * 235 / 255)):
        assert np.abs(read_picture(data)[5, 5] - wanted).max() <= 4


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_profiles_for_colours(space: str, format: str) -> None:
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    if format == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    data = encoded(Image.fromarray(SMOOTH), format, icc_profile=rgb_profile(space), **options)
    tagged = read_picture(data).astype(float)
    plain = read_picture(encoded(Image.fromarray(SMOOTH), format, **options))
    wanted = rgb_truth(space, plain)
    assert np.abs(wanted - plain).max() > 20  # the profile is worth it
    seen = plain.min(axis=2) > 40  # in shadows curves are steep, and LittleCMS has tables
    assert np.abs(tagged - wanted)[seen].max() <= 2.5


def test_profiles_for_grey_and_transparent_pictures() -> None:
    levels = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    data = encoded(Image.fromarray(levels), "PNG", icc_profile=grey_profile(1.0))
    wanted = grey_truth(1.0, levels)
    assert np.abs(read_picture(data)[:, 40:, 0] - wanted[:, 40:]).max() <= 2.5
    wide = encoded(Image.fromarray(levels.astype(np.uint16) * 257), "TIFF", icc_profile=grey_profile(1.0))
    assert np.array_equal(read_picture(wide), read_picture(data))
    by_colours = encoded(Image.fromarray(levels), "PNG", icc_profile=rgb_profile("linear"))
    assert np.abs(read_picture(by_colours).astype(int) - read_picture(data))[:, 40:].max() <= 1
    half = np.full((256, 4), 128, np.uint8).T
    rgba = encoded(Image.fromarray(np.dstack([grey3(levels), half])), "PNG", icc_profile=rgb_profile("linear"))
    over = wanted * (128 / 255) + 255 * (1 - 128 / 255)
    assert np.abs(read_picture(rgba)[:, 40:, 0] - over[:, 40:]).max() <= 2.5
    paletted = Image.fromarray(grey3(levels)).quantize(64)
    truth = rgb_truth("Adobe RGB", np.asarray(paletted.convert("RGB")))
    found = read_picture(encoded(paletted, "PNG", icc_profile=rgb_profile("Adobe RGB")))
    assert np.abs(found - truth)[:, 40:].max() <= 2.5


def test_profiles_that_change_nothing_or_cannot_be_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_picture(encoded(Image.fromarray(RGB), "PNG", icc_profile=srgb)), RGB)
    assert not caplog.records
    whole = rgb_profile("ProPhoto")
    broken = (b"junk" * 40, whole[:90], whole[:200], whole[:-40], grey_profile(2.2), bytes(3000))
    for n, profile in enumerate(broken, 1):
        data = encoded(Image.fromarray(RGB), "PNG", icc_profile=profile)
        assert np.array_equal(read_picture(data, name="x"), RGB)
        assert len(caplog.records) == n and "colour profile" in caplog.records[-1].message
    monkeypatch.delattr("PIL.ImageCms")
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)  # a Pillow without LittleCMS
    assert np.array_equal(read_picture(encoded(Image.fromarray(RGB), "PNG", icc_profile=whole)), RGB)
    assert len(caplog.records) == len(broken) + 1 and caplog.records[-1].levelno == logging.WARNING


def heic(pixels: np.ndarray, **options: Any) -> bytes:
    import pillow_heif as heif

    stream = io.BytesIO()
    heif.from_pillow(Image.fromarray(pixels)).save(stream, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return stream.getvalue()


def test_heic(tmp_path: Path) -> None:
    data = heic(RGB)
    assert data[4:8] == b"ftyp"
    file = tmp_path / "IMG_0001.HEIC"
    file.write_bytes(data)
    for source in (data, file, io.BytesIO(data)):
        assert np.abs(read_picture(source).astype(int) - RGB).max() <= 2
    turned = heic(np.ascontiguousarray(np.rot90(SMOOTH)), exif=exif_orientation(6).tobytes())
    assert np.abs(read_picture(turned).astype(int) - SMOOTH).max() <= 2  # once, and not twice
    for damaged in (data[: len(data) // 2], data[:40], data[:-300]):
        with pytest.raises(PictureError) as caught:
            read_picture(damaged)
        assert "0x" not in str(caught.value)
    seen = read_picture(heic(np.dstack([RGB, ALPHA])))
    assert np.abs(seen - (RGB * (ALPHA / 255.0)[:, :, None] + 255 - ALPHA[:, :, None])).max() <= 3


BOX = struct.pack(">I4s", 24, b"ftyp")
FOREIGN = {
    "HEIC": (BOX + b"heic\0\0\0\0mif1heic" + bytes(90), "a HEIC picture", "pillow-heif"),
    "HEIF by its container alone": (BOX + b"mif1\0\0\0\0mif1hevc" + bytes(90), "a HEIC picture", "pillow-heif"),
    "AVIF": (BOX + b"avif\0\0\0\0mif1avif" + bytes(90), "an AVIF picture", "pillow-avif-plugin"),
    "JPEG XL": (b"\xff\x0a" + bytes(90), "JPEG XL", "PNG or JPEG"),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90), "JPEG XL", "PNG or JPEG"),
    "video": (BOX + b"isom\0\0\0\0isommp42" + bytes(90), "video", "PNG or JPEG"),
    "PDF": (b"%PDF-1.7\n" + bytes(90), "PDF", "PNG or JPEG"),
    "AVI": (b"RIFF\0\0\1\0AVI LIST" + bytes(90), "(a video)", "PNG or JPEG"),  # a WebP begins like it
    "WAV": (b"RIFF\0\0\1\0WAVEfmt " + bytes(90), "(an audio file)", "PNG or JPEG"),
    "Canon's raw": (BOX + b"crx \0\0\0\1crx isom" + bytes(90), "(a camera's raw file)", "PNG or JPEG"),
    "Fujifilm's raw": (b"FUJIFILMCCD-RAW 0201" + bytes(90), "(a camera's raw file)", "PNG or JPEG"),
    "zeros": (bytes(200), "(zeros, as a copy", "PNG or JPEG"),
    "SVG": (b"\xef\xbb\xbf<SVG xmlns=''>", "(an SVG drawing)", "PNG or JPEG"),
    "web page in small letters": (b"<!doctype html><html>", "(a web page)", "PNG or JPEG"),
    "web page": (b"\n <!DOCTYPE html><html>", "web page", "PNG or JPEG"),
    "float TIFF in colours": (tiff(np.zeros((4, 4, 3), np.float32), kind=FLOAT, bits=32), "TIFF", "8 bits"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_read_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, what, remedy = FOREIGN[name]
    for module in ("pillow_heif", "pillow_avif"):
        monkeypatch.setitem(sys.modules, module, None)  # not installed
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(PictureError) as caught:
        read_picture(data, name="the photo")
    assert what in caught.value.what and remedy in caught.value.remedy
    assert "pip install" not in str(caught.value)


class Pipe(io.RawIOBase):
    """A file that can be read once, with a name that is none."""

    name = 7

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


def test_messages_show_no_python_objects(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no picture at all")
    with text.open("rb") as binary, text.open(encoding="utf-8") as letters:
        sources: list[Any] = [
            text, binary, letters, text.read_bytes(), memoryview(text.read_bytes()), io.BytesIO(b"x" * 99), object(),
            Pipe(b"x" * 99), tiff(WIDE)[:60], encoded(Image.fromarray(RGB), "PNG")[:70], b"", [1], "A" * 100_000,
            tmp_path, encoded(Image.fromarray(RGB), "WEBP")[:60], b"II*\0" + bytes(90),
        ]  # fmt: skip
        for source in sources:
            with pytest.raises(PictureError) as caught:
                read_picture(source)
            assert not re.search(r"0x[0-9a-f]+|<[a-zA-Z_.]+ |object at", str(caught.value)), str(caught.value)
            assert len(str(caught.value)) < 600
    assert np.array_equal(read_picture(Pipe(encoded(Image.fromarray(RGB), "PNG"))), RGB)


def test_nothing_to_see_is_said(tmp_path: Path) -> None:
    clear = np.dstack([RGB, np.zeros_like(ALPHA)])
    nearly = np.dstack([RGB, np.full_like(ALPHA, 3)])
    key = Image.fromarray(np.zeros((H, W), np.uint8)).convert("P")
    for source in (clear, encoded(Image.fromarray(clear), "PNG"), encoded(Image.fromarray(nearly), "WEBP", exact=True),
                   encoded(key, "PNG", transparency=0), encoded(key, "GIF", transparency=0)):  # fmt: skip
        with pytest.raises(PictureError, match="transparent everywhere"):
            read_picture(source)
    shown, empty = Image.fromarray(np.dstack([RGB, np.full_like(ALPHA, 255)])), Image.fromarray(clear)
    white = Image.new("RGB", (W, H), "white")
    for format in ("PNG", "WEBP", "GIF"):
        for first, then in ((empty, shown), (white, shown.convert("RGB"))):
            data = encoded(first, format, save_all=True, append_images=[then], duration=50, disposal=2)
            with pytest.raises(PictureError, match="several frames, of which the first is empty"):
                read_picture(data)
    plain = encoded(white, "GIF", save_all=True, append_images=[Image.new("RGB", (W, H), "red")], duration=50)
    assert (read_picture(plain) == 255).all()  # a mask, say; nothing else is in it


def test_large_pictures_are_halved_before_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those below the bound keep every sample."""
    monkeypatch.setattr(picture, "FULL_PIXELS", H * W - 1)
    halves = RGB.reshape(H // 2, 2, W // 2, 2, 3).mean(axis=(1, 3))
    for source in (RGB, Image.fromarray(RGB), encoded(Image.fromarray(RGB), "PNG"), RGB.astype(np.uint16) * 257):
        assert np.abs(read_picture(source) - halves).max() <= 1
    jpeg = encoded(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0)
    smooth = SMOOTH.reshape(H // 2, 2, W // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(read_picture(jpeg) - smooth).max() <= 6
    paletted = encoded(Image.fromarray(SMOOTH).quantize(200), "PNG")
    assert np.abs(read_picture(paletted) - smooth).max() <= 24
    monkeypatch.setattr(picture, "FULL_PIXELS", 1)
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(SMOOTH)[1:, 1:]))  # of odd width and height
    turned = read_picture(encoded(stored, "PNG", exif=exif_orientation(6)))
    assert turned.flags.c_contiguous and np.array_equal(turned, np.rot90(np.asarray(stored.reduce(2)), 3))
