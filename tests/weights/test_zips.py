"""Packs come as zips from GitHub: unpacked where they are found, and refused whole where anything is odd."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from facesnap.errors import ChecksumError
from facesnap.faces.packs import find_pack, kind_of
from facesnap.weights.fetch import fetch
from facesnap.weights.folders import Folders
from tests.weights.items import ZIP, left, small_pack
from tests.weights.server import Content, Server


def _zip(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("inner", ["", "small/", "a/b/"])
def test_a_pack_is_unpacked_where_it_is_found(server: Server, folders: Folders, face_pack: Path, inner: str) -> None:
    files = {file.name: file.read_bytes() for file in face_pack.glob("*.onnx")}
    recogniser = next(file for file in face_pack.glob("*.onnx") if kind_of(file) == "recogniser")
    # A folder in the folder: as antelopev2.zip. No HEAD: as addresses that are signed for GET.
    others = {"__MACOSX/._a.onnx": b"junk", "README.txt": b"text", "empty/": b""}
    server.release(ZIP, Content(_zip({inner + name: body for name, body in files.items()} | others), head=not inner))
    item = small_pack()
    inside = {recogniser.name: hashlib.sha256(recogniser.read_bytes()).hexdigest()}
    item = dataclasses.replace(item, files=(dataclasses.replace(item.files[0], inside=inside),))
    (folders.models / "insightface" / "models" / "small").mkdir(parents=True)  # by insightface, say
    folder = fetch(item, folders, True, mirror=server.address)
    assert folder == folders.models / "insightface" / "models" / "small"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    pack = find_pack("small", folders.packs)
    assert pack.folder == folder and pack.recogniser.name == recogniser.name
    assert sorted(p.name for p in folder.parent.iterdir()) == ["small"]  # no zip, no part
    asked = len(server.seen)
    assert fetch(item, folders, True, mirror=server.address) == folder and len(server.seen) == asked
    (folder / recogniser.name).write_bytes(b"another")
    with pytest.raises(ChecksumError, match="never overwrites"):
        fetch(item, folders, True, mirror=server.address)


def _flipped(data: bytes) -> bytes:
    place = data.index(b"content") + 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


BAD_ZIPS = {
    "no zip": (b"<html>not found</html>", "damaged"),
    "cut short": (_zip({"rec.onnx": bytes(10_000)})[:-30], "damaged"),
    "a flipped bit": (_flipped(_zip({"rec.onnx": b"content" * 100}, zipfile.ZIP_STORED)), "damaged"),
    "up": (_zip({"../rec.onnx": b"x"}), "leads outside"),
    "up, Windows": (_zip({"a\\..\\..\\rec.onnx": b"x"}), "leads outside"),
    "absolute": (_zip({"/tmp/rec.onnx": b"x"}), "leads outside"),
    "a drive": (_zip({"C:/rec.onnx": b"x"}), "leads outside"),
    "twice": (_zip({"a/rec.onnx": b"x", "b/REC.onnx": b"y"}), "twice"),
    "nothing": (_zip({"rec.txt": b"x"}), "no ONNX"),
    "many": (_zip({f"{n}.onnx": b"x" for n in range(101)}), "101 entries"),
    "another": (_zip({"rec.onnx": b"x"}), "sha256"),
    "without it": (_zip({"other.onnx": b"x"}), "nothing"),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_bad_zips_leave_nothing(server: Server, folders: Folders, name: str, tmp_path: Path) -> None:
    body, match = BAD_ZIPS[name]
    server.release(ZIP, Content(body))
    with pytest.raises(ChecksumError, match=match):
        fetch(small_pack(sha256="0" * 64), folders, True, mirror=server.address)
    assert left(folders) == []
    assert not list(tmp_path.rglob("*.onnx")) and not list((folders.models / "insightface" / "models").iterdir())


def test_a_zip_bomb_is_refused_by_what_it_claims(
    server: Server, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facesnap.weights.unpack.MOST_UNPACKED", 1 << 20)
    server.release(ZIP, Content(_zip({"rec.onnx": bytes(2 << 20)})))
    with pytest.raises(ChecksumError, match="unpacked"):
        fetch(small_pack(), folders, True, mirror=server.address)
    assert left(folders) == []
