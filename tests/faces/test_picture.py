"""Odd and malformed pictures: each is read right (against independently known pixels) or refused."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from facesnap.errors import FaceSnapError, PictureError
from facesnap.faces import read_picture
from facesnap.faces.picture import MAX_PIXELS

H, W = 20, 30
RGB = np.random.default_rng(3).integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
ALPHA = np.random.default_rng(4).integers(0, 256, (H, W), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.linspace(0, 255, W), np.linspace(0, 255, H)[:, None], 128), -1).astype(
    np.uint8
)


def grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[:, :, None] / 255.0
    return np.rint(rgb * part + 255 * (1 - part))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def png16(samples: np.ndarray, colour: int, extra: bytes = b"") -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, colour, rows, extra)


def animation(format: str) -> bytes:
    frames = [Image.fromarray(grey3(np.full((H, W), value, np.uint8))) for value in (10, 200, 90)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, lossless=True)


def palette_with_transparency() -> tuple[bytes, np.ndarray]:
    index = (np.arange(H * W).reshape(H, W) % 3).astype(np.uint8)
    paletted = Image.new("P", (W, H))
    paletted.putdata(list(index.ravel()))
    paletted.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250] + [0] * 759)
    colours = np.array([[250, 0, 0], [255, 255, 255], [0, 0, 250]])  # index 1 is transparent
    return encoded(paletted, "PNG", transparency=1), colours[index]


def orientations() -> dict[str, tuple[bytes, np.ndarray]]:
    """A picture stored in each of the eight EXIF orientations; upright it is SMOOTH in every case."""
    stored = {
        1: SMOOTH,
        2: SMOOTH[:, ::-1],
        3: SMOOTH[::-1, ::-1],
        4: SMOOTH[::-1],
        5: SMOOTH.transpose(1, 0, 2),
        6: np.rot90(SMOOTH),
        7: np.rot90(SMOOTH, 2).transpose(1, 0, 2),
        8: np.rot90(SMOOTH, 3),
    }
    cases = {}
    for tag, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = tag
        image = Image.fromarray(np.ascontiguousarray(pixels))
        for format in ("PNG", "WEBP", "TIFF"):
            options = {"lossless": True} if format == "WEBP" else {}
            cases[f"orientation {tag} {format}"] = (encoded(image, format, exif=exif, **options), SMOOTH)
    return cases


@cache
def readable() -> dict[str, tuple[bytes, np.ndarray, float]]:
    """name -> file, the truth, tolerance in grey levels."""
    rgb, rgba = Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, ALPHA]))
    grey, la = Image.fromarray(GREY), Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    wide = np.random.default_rng(5).integers(0, 65536, (H, W), dtype=np.uint16)
    wide_truth = grey3(np.rint(wide / 257.0))
    wide_rgb = np.random.default_rng(6).integers(0, 65536, (H, W, 3), dtype=np.uint16)
    unit = np.random.default_rng(7).random((H, W), dtype=np.float32)
    bits = GREY > 127
    transparent, transparent_truth = palette_with_transparency()
    cmyk = np.random.default_rng(8).integers(0, 256, (H, W, 4), dtype=np.uint8)
    cmyk_truth = np.rint((255 - cmyk[:, :, :3].astype(float)) * (255 - cmyk[:, :, 3:]) / 255)
    key = int(wide[4, 5])
    keyed = grey3(np.where(wide == key, 255, np.rint(wide / 257.0)))
    cases: dict[str, tuple[bytes, np.ndarray, float]] = {
        "RGB PNG": (encoded(rgb, "PNG"), RGB, 0),
        "RGB BMP": (encoded(rgb, "BMP"), RGB, 0),
        "RGB TIFF": (encoded(rgb, "TIFF"), RGB, 0),
        "RGB TIFF deflate": (encoded(rgb, "TIFF", compression="tiff_deflate"), RGB, 0),
        "RGB TIFF LZW": (encoded(rgb, "TIFF", compression="tiff_lzw"), RGB, 0),
        "RGB WebP lossless": (encoded(rgb, "WEBP", lossless=True), RGB, 0),
        "RGB PPM": (encoded(rgb, "PPM"), RGB, 0),
        "JPEG": (encoded(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0), SMOOTH, 6),
        "JPEG progressive": (
            encoded(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0, progressive=True),
            SMOOTH,
            6,
        ),
        "grey JPEG": (
            encoded(Image.fromarray(SMOOTH[:, :, 0]), "JPEG", quality=98),
            grey3(SMOOTH[:, :, 0]),
            6,
        ),
        "interlaced by hand PNG": (png(1, 1, 8, 2, b"\0\x01\x02\x03"), np.array([[[1, 2, 3]]]), 0),
        "one pixel": (encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), np.array([[[9, 8, 7]]]), 0),
        "one row": (encoded(Image.fromarray(RGB[:1]), "PNG"), RGB[:1], 0),
        "grey PNG": (encoded(grey, "PNG"), grey3(GREY), 0),
        "grey PGM": (encoded(grey, "PPM"), grey3(GREY), 0),
        "LA PNG": (encoded(la, "PNG"), over_white(grey3(GREY), ALPHA), 1),
        "RGBA PNG": (encoded(rgba, "PNG"), over_white(RGB, ALPHA), 1),
        "RGBA TIFF": (encoded(rgba, "TIFF"), over_white(RGB, ALPHA), 1),
        "RGBA WebP": (encoded(rgba, "WEBP", lossless=True, exact=True), over_white(RGB, ALPHA), 1),
        "16-bit grey PNG": (png16(wide, 0), wide_truth, 0),
        "16-bit grey PNG with a transparent value": (
            png16(wide, 0, png_chunk(b"tRNS", struct.pack(">H", key))),
            keyed,
            0,
        ),
        "16-bit grey TIFF": (encoded(Image.fromarray(wide), "TIFF"), wide_truth, 0),
        "16-bit PGM": (b"P5 30 20 65535\n" + wide.astype(">u2").tobytes(), wide_truth, 0),
        "16-bit RGB PNG": (png16(wide_rgb, 2), wide_rgb / 257.0, 1),
        "dark 16-bit PNG": (png16(wide // 300, 0), grey3(np.rint(wide // 300 / 257.0)), 0),
        "float TIFF 0..1": (encoded(Image.fromarray(unit), "TIFF"), grey3(np.rint(unit * 255)), 0),
        "float TIFF 0..255": (encoded(Image.fromarray(unit * 200), "TIFF"), grey3(np.rint(unit * 200)), 0),
        "1-bit PNG": (encoded(Image.fromarray(bits), "PNG"), grey3(bits * 255), 0),
        "1-bit TIFF": (encoded(Image.fromarray(bits), "TIFF"), grey3(bits * 255), 0),
        "palette with transparency": (transparent, transparent_truth, 0),
        "palette GIF": (
            encoded(Image.fromarray(grey3(GREY // 64 * 64)).quantize(8), "GIF"),
            grey3(GREY // 64 * 64),
            1,
        ),
        "CMYK TIFF": (encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"), cmyk_truth, 1),
        "CMYK JPEG": (
            encoded(Image.fromarray(np.full((H, W, 4), (40, 90, 130, 20), np.uint8), "CMYK"), "JPEG", quality=100),
            np.full((H, W, 3), np.rint((255 - np.array([40, 90, 130])) * 235 / 255)),
            4,
        ),
        "animated GIF": (animation("GIF"), np.full((H, W, 3), 10), 1),
        "animated WebP": (animation("WEBP"), np.full((H, W, 3), 10), 0),
        "animated PNG": (animation("PNG"), np.full((H, W, 3), 10), 0),
        "multi-page TIFF": (animation("TIFF"), np.full((H, W, 3), 10), 0),
        "damaged EXIF": (encoded(rgb, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"), RGB, 0),
        "orientation 9": (encoded(rgb, "PNG", exif=exif_orientation(9)), RGB, 0),
        "bytes after the end": (encoded(rgb, "PNG") + b"trailing", RGB, 0),
    }
    return cases | {name: (file, truth, 0) for name, (file, truth) in orientations().items()}


def exif_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@cache
def refused() -> dict[str, bytes]:
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    whole = {f: encoded(rgb, f) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")}
    cases = {f"half a {name}": data[: len(data) // 2] for name, data in whole.items()}
    cases |= {f"start of a {name}": data[:40] for name, data in whole.items()}
    nan = np.full((4, 4), np.nan, np.float32)
    bad = bytearray(whole["PNG"])
    bad[60] ^= 0xFF
    cases |= {
        "empty": b"",
        "one byte": b"\x89",
        "text": b"hello, this is not a picture" * 9,
        "web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "noise": np.random.default_rng(9).bytes(5000),
        "wrong checksum": bytes(bad),
        "PNG bomb": png(30_000, 30_000, 8, 0, bytes(1000)),
        "PNG over the limit": png(8001, 8000, 8, 0, bytes(1000)),
        "huge PNG header": png(2**31 - 1, 2**31 - 1, 8, 6, b""),
        "PNG without width": png(0, 10, 8, 0, b""),
        "PNG without rows": png(50, 50, 8, 2, b"")[:-12],
        "huge PPM": b"P6 60000 60000 255\n" + bytes(100),
        "huge BMP": b"BM" + struct.pack("<IHHIIiiHHIIIIII", 100, 0, 0, 54, 40, 50000, 50000, 1, 24, 0, 0, 0, 0, 0, 0),
        "huge GIF": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        "text bomb in PNG": png(4, 4, 8, 0, bytes(20), png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20)))),
        "NaN TIFF": encoded(Image.fromarray(nan), "TIFF"),
        "float TIFF beyond 255": encoded(Image.fromarray(np.full((4, 4), 4e4, np.float32)), "TIFF"),
        "negative float TIFF": encoded(Image.fromarray(np.full((4, 4), -1, np.float32)), "TIFF"),
        "32-bit integer TIFF": encoded(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"),
        "icon": encoded(Image.fromarray(RGB), "ICO"),
    }
    return cases


def test_there_are_enough_cases() -> None:
    assert len(readable()) + len(refused()) >= 60


@pytest.mark.parametrize("name", readable())
def test_reads_right(name: str) -> None:
    data, truth, tolerance = readable()[name]
    pixels = read_picture(data)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.shape == truth.shape
    assert np.abs(pixels.astype(float) - truth).max() <= tolerance


@pytest.mark.parametrize("name", refused())
@pytest.mark.parametrize("lenient", [False, True], ids=["strict Pillow", "lenient Pillow"])
def test_refuses(name: str, lenient: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hosts make Pillow accept truncated files for all of Python; FaceSnap must not follow."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    file = tmp_path / "odd.png"
    file.write_bytes(refused()[name])
    with pytest.raises(PictureError) as caught:
        read_picture(file)
    assert str(file) in str(caught.value) and caught.value.remedy
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(RGB), "PNG")
    file = tmp_path / "名前 ü.png"
    file.write_bytes(data)
    sources = [
        file,
        str(file),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        Image.fromarray(RGB),
        RGB,
    ]
    for source in sources:
        assert np.array_equal(read_picture(source), RGB)
    with file.open("rb") as stream:
        assert np.array_equal(read_picture(stream), RGB)
    result = read_picture(RGB)
    result[:] = 0
    assert RGB.any()  # a copy


ARRAYS: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
    "grey": (GREY, grey3(GREY)),
    "grey with an axis": (GREY[:, :, None], grey3(GREY)),
    "RGBA": (np.dstack([RGB, ALPHA]), over_white(RGB, ALPHA)),
    "bool": (GREY > 127, grey3((GREY > 127) * 255)),
    "uint16": (RGB.astype(np.uint16) * 257, RGB),
    "float 0..1": (RGB / 255.0, RGB),
    "float 0..255": (RGB.astype(np.float64), RGB),
    "half": ((RGB / 255.0).astype(np.float16), RGB),
    "not contiguous": (RGB[::-1, ::-1], RGB[::-1, ::-1]),
    "empty": (np.zeros((0, 4, 3), np.uint8), None),
    "int64": (RGB.astype(np.int64), None),
    "channels first": (RGB.transpose(2, 0, 1), None),
    "batch": (RGB[None], None),
    "vector": (RGB[0, 0], None),
    "NaN": (np.full((4, 4), np.nan), None),
    "too large": (np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1000 + 1, 1000)), None),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str) -> None:
    array, truth = ARRAYS[name]
    if truth is None:
        with pytest.raises(PictureError):
            read_picture(array)
    else:
        assert np.abs(read_picture(array).astype(float) - truth).max() <= 1


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.png", "nul\0character", ""):
        with pytest.raises(PictureError):
            read_picture(path)
    with pytest.raises(PictureError, match="not a picture source"):
        read_picture(12)  # type: ignore[arg-type]


def _mutate(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(data)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    return bytes(damaged)


FUZZED = [encoded(Image.fromarray(RGB), f) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")]


@settings(max_examples=300)
@given(
    st.sampled_from(FUZZED),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 40),
)
def test_damage_is_read_or_refused_and_nothing_else(data: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    damaged = _mutate(data, edits)[: len(data) - cut]
    try:
        pixels = read_picture(damaged)
    except FaceSnapError as error:
        assert isinstance(error, PictureError)
        return
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
