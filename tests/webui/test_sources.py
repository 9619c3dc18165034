"""Where the API's pictures may come from: what is allowed is read, what is not is never touched."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facesnap.errors import FaceSnapError, PictureError, SettingsError, TooLargeError, refusal
from facesnap.pipeline.region import region_map
from facesnap.settings.field_types import Box
from facesnap.settings.model import Settings
from facesnap.webui.generation import photos as photos_module
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.photos import PhotoReader, Policy, allowed_file, resolve
from facesnap.webui.options import values

LINKS = os.name != "nt"
PIXELS = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)


def _png(pixels: np.ndarray = PIXELS) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _text(pixels: np.ndarray = PIXELS) -> str:
    return base64.b64encode(_png(pixels)).decode()


def _options(**given: Any) -> dict[str, Any]:
    return values({f"facesnap_api_{key}": value for key, value in given.items()})


def _host(**given: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"api_enable_requests": True, "api_forbid_local_requests": True, **given})


@pytest.fixture()
def photos(tmp_path: Path) -> Path:
    """An allowed folder beside one that is not."""
    for folder in ("photos/sub", "private"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("photos/a.png", "photos/sub/ü b.png", "private/secret.png"):
        (tmp_path / file).write_bytes(_png())
    return tmp_path / "photos"


def test_every_picture_of_a_request_becomes_an_array() -> None:
    other = PIXELS[::-1].copy()
    settings = parse(
        [
            {
                "people": [
                    {"references": [_text(), "data:image/png;base64," + _text(other)], "region": _text()},
                    {"identity": "Zoe", "region": {"x": 0, "y": 0, "w": 0.5, "h": 1}, "pose": {"image": _text(other)}},
                ]
            }
        ]
    )
    found = resolve(settings, _options(), _host())
    one, two = found.people
    assert np.array_equal(one.references[0], PIXELS) and np.array_equal(one.references[1], other)
    assert np.array_equal(one.region, PIXELS) and region_map(one.region).shape == PIXELS.shape[:2]
    assert two.region == Box(0, 0, 0.5, 1) and two.references == () and np.array_equal(two.pose.image, other)
    again = resolve(found, _options(), _host())  # arrays stay what they are
    assert np.array_equal(again.people[0].references[1], other)
    strip = {"references": (), "region": None}
    assert [dataclasses.replace(p, **strip, pose=dataclasses.replace(p.pose, image=None)) for p in found.people] == [
        dataclasses.replace(p, **strip, pose=dataclasses.replace(p.pose, image=None)) for p in settings.people
    ]


def test_pictures_of_the_ui_are_read_too() -> None:
    settings = Settings(True, people=(parse([{"references": [Image.fromarray(PIXELS)]}]).people[0],))
    assert np.array_equal(resolve(settings, _options(), _host()).people[0].references[0], PIXELS)


def test_nothing_is_read_where_facesnap_is_off() -> None:
    settings = parse([{"enabled": False, "references": ["http://photos.example/", "no base64!"]}])
    assert resolve(settings, _options(urls=True), _host(), fetch=lambda *a, **k: pytest.fail("fetched")) is settings


def test_addresses_only_where_both_settings_allow_them() -> None:
    settings = parse([{"references": ["https://photos.example/a.png"] * 3}])
    asked = []

    def fetch(url: str, name: str, **more: Any) -> bytes:
        asked.append((url, name, more))
        return _png()

    for options, host in (
        (_options(urls=False), _host()),
        (_options(urls=True), _host(api_enable_requests=False)),
        (_options(urls=True), SimpleNamespace()),
    ):
        with pytest.raises(SettingsError, match="not allowed"):
            resolve(settings, options, host, fetch)
    assert asked == []
    found = resolve(settings, _options(urls=True), _host(api_useragent="someone"), fetch)
    assert all(np.array_equal(one, PIXELS) for one in found.people[0].references)
    assert asked == [("https://photos.example/a.png", "reference 1 of person 1", {"local": False, "agent": "someone"})]
    resolve(settings, _options(urls=True), _host(api_forbid_local_requests=False), fetch)
    assert asked[-1][2]["local"] is True
    with pytest.raises(PictureError, match="reference 1 of person 1"):
        resolve(settings, _options(urls=True), _host(), lambda *a, **k: b"<html>")
    for other in ("ftp://a/b.png", "file:///etc/passwd", "gopher://x", "smb://host/share/a.png"):
        with pytest.raises(PictureError):
            resolve(parse([{"references": [other]}]), _options(urls=True), _host())


def test_files_only_inside_the_allowed_folders(photos: Path) -> None:
    policy = Policy((photos,))
    for file in (photos / "a.png", photos / "sub" / "ü b.png"):
        assert np.array_equal(PhotoReader(policy).picture(str(file), "x"), PIXELS)
    private = photos.parent / "private" / "secret.png"
    if LINKS:
        (photos / "link.png").symlink_to(private)
        (photos / "way").symlink_to(private.parent)
        (photos / "inside.png").symlink_to(photos / "a.png")
        (photos / "loop.png").symlink_to(photos / "loop.png")
        os.mkfifo(photos / "pipe.png")
        assert np.array_equal(PhotoReader(policy).picture(str(photos / "inside.png"), "x"), PIXELS)
    refused = [
        private, photos / "link.png", photos / "way" / "secret.png", photos / ".." / "private" / "secret.png",
        photos / "sub" / ".." / "a.png", photos / "pipe.png", photos / "sub", photos / "missing.png",
        photos / "loop.png", "a.png", "./a.png", "photos/a.png", f"//host/{photos}/a.png", "\\\\host\\share\\a.png",
        f"{photos}/a.png.", f"{photos}/a.png ./x.png", f"{photos}/a.png:stream", f"{photos}/CON", f"{photos}/nul.png",
        f"{photos}/com1.tar.png", f"{photos}/a.png\0.jpg", f"{photos}/a\n.png", "~/a.png", "/dev/zero.png",
        "/proc/self/environ.", f"{photos}x/a.png", photos,
    ]  # fmt: skip
    for wrong in map(str, refused):
        with pytest.raises(PictureError) as raised:
            PhotoReader(policy).picture(wrong, "reference 1 of person 1")
        assert wrong not in str(raised.value) and "secret" not in str(raised.value), wrong
        assert raised.value.__cause__ is None and vars(refusal(raised.value))["status_code"] == 422
    assert np.array_equal(PhotoReader(policy).picture(str(photos / "inside.png"), "x"), PIXELS)
    assert np.array_equal(
        PhotoReader(Policy((photos.parent / "nowhere", photos))).picture(str(photos / "a.png"), "x"), PIXELS
    )


@pytest.mark.skipif(not LINKS, reason="links need rights on Windows")
def test_an_allowed_folder_may_itself_be_a_link(photos: Path) -> None:
    link = photos.parent / "link"
    link.symlink_to(photos)
    assert (
        allowed_file(str(link / "a.png"), (link,)) == allowed_file(str(photos / "a.png"), (link,)) == photos / "a.png"
    )


def test_no_file_where_the_settings_do_not_allow_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, here = str(photos / "a.png"), str(photos)
    several: list[dict[str, Any]] = [{}, {"folders": here}, {"paths": True}, {"paths": True, "folders": "\n"}]
    for given in several:
        with monkeypatch.context() as patched, pytest.raises(PictureError, match="reference 1 of person 1"):
            patched.setattr(Path, "open", lambda *a, **k: pytest.fail("opened"))
            resolve(parse([{"references": [file]}]), _options(**given), _host())
    allowed = _options(paths=True, folders=f"\n  {photos.parent / 'none'}\n {photos} \n")
    assert np.array_equal(resolve(parse([{"references": file}]), allowed, _host()).people[0].references[0], PIXELS)


def test_base64_that_begins_like_a_path_is_base64(photos: Path) -> None:
    """A JPEG's base64 begins with /9j/."""
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "JPEG")
    text = base64.b64encode(out.getvalue()).decode()
    assert text.startswith("/9j/")
    assert PhotoReader(Policy((photos,))).picture(text, "x").shape == PIXELS.shape
    assert PhotoReader(Policy()).picture("\n".join(text[n : n + 76] for n in range(0, len(text), 76)), "x").shape == (
        8,
        6,
        3,
    )


@pytest.mark.parametrize(
    "text", ("", "AAAA", "A", "no base64!", "data:", "data:,", "====", "{}", "a.png", "\ud800", "é")
)
def test_text_that_is_no_picture_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(PictureError) as raised:
        PhotoReader(Policy()).picture(text, "reference 1")
    assert "reference 1" in str(raised.value) and "Remedy" in str(raised.value)


def test_bounds(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    huge = photos / "huge.png"
    with huge.open("wb") as file:
        file.truncate(photos.MOST_BYTES + 1)
    for text in ("A" * (50 << 20), "data:image/png;base64," + "A" * (50 << 20), str(huge)):
        with pytest.raises(TooLargeError) as raised:
            PhotoReader(Policy((photos,))).picture(text, "reference 1")
        assert vars(refusal(raised.value))["status_code"] == 413
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")  # 50 kB that would be 1.2 GB
    with pytest.raises(TooLargeError):
        PhotoReader(Policy()).picture(base64.b64encode(bomb.getvalue()).decode(), "reference 1")
    monkeypatch.setattr(photos_module, "MOST_PIXELS", 3 * PIXELS.shape[0] * PIXELS.shape[1])
    different = [_text(np.roll(PIXELS, n, 0)) for n in range(4)]
    assert len(resolve(parse([{"references": different[:3]}]), _options(), _host()).people[0].references) == 3
    with pytest.raises(TooLargeError, match="reference 4 of person 1"):
        resolve(parse([{"references": different}]), _options(), _host())
    resolve(parse([{"references": [different[0]] * 9}]), _options(), _host())  # one picture is kept once


def test_a_long_text_costs_no_more_than_its_length() -> None:
    """Nothing in the patterns goes back and forth over it."""
    for text in ("A" * 3_000_000 + "!", "A" + " " * 3_000_000 + "!", "=" * 3_000_000, "a+" * 1_500_000 + "://"):
        with pytest.raises(FaceSnapError):  # the suite's time limit is what quadratic time would meet
            PhotoReader(Policy()).picture(text, "x")
