"""Sources of photos as people have them: every photo is found, and what is none is counted and named."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch

from facesnap.cli import prepare
from facesnap.errors import SettingsError
from facesnap.files import PICTURE_SUFFIXES
from facesnap.training.shards import read_rows, write_shard
from facesnap.training.sources import Passed, find_photos

READ_BY_ANALYSE = (".jfif", ".avif", ".tif", ".gif", ".jp2", ".jpe", ".mpo", ".heic")


def put(root: Path, *names: str, content: bytes = b"photo") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return file


def link(place: Path, target: Path) -> None:
    try:
        place.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("links are not allowed here")


def found(source: Path) -> tuple[list[tuple[str, str, str | None]], dict[str, int]]:
    passed = Passed()
    photos = find_photos(source, passed)
    return [(photo.key, photo.person, photo.caption) for photo in photos], passed.counts


MEMBERS = {
    "./a.b/0001_1.jpg": b"one", "./a.b/0001_1.txt": "Zoë".encode("utf-16"), "./a.b/0001_1.seg.png": b"-",
    "2.JFIF": b"two", "2.json": json.dumps({"person": "Bo", "caption": "x"}).encode("utf-8-sig"),
    "sub//./3.v2.jpg": b"three", "._2.jpg": b"mac", "4.cls": b"4", "5.jpg": b"five", "5.png": b"again",
    ".thumbs/2.jpg": b"small", "w\\1_1.jpg": b"windows",
    "6.jpg": b"six", "6.json": b"{", "7.tif": b"seven", "7.txt": "é".encode("latin-1"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar", "w:gz"),
                                            ("x.tar.bz2", "w:bz2"), ("X.TAR.XZ", "w:xz"),
                                            ("x.tbz", "w:bz2")])  # fmt: skip
def test_tars_of_every_kind(tmp_path: Path, name: str, mode: str) -> None:
    """The key ends at the first dot of the member's own name, and not of its folder's."""
    file = tar(tmp_path / name, MEMBERS, mode)
    for source in (file, tmp_path):
        photos, passed = found(source)
        assert photos == [
            (f"{name}/2", "Bo", "x"), (f"{name}/5", "5", None), (f"{name}/7", "7", None),
            (f"{name}/a.b/0001_1", "a.b/0001", "Zoë"), (f"{name}/w/1_1", "w/1", None),
        ]  # fmt: skip
        assert sum(passed.values()) == 8 and passed["its .json cannot be read"] == 1
        assert passed["a caption that is not UTF-8"] == 1 and passed["a hidden file"] == 2
        assert passed["a second picture of its key"] == passed[".cls, no picture by its name"] == 1
        assert passed[".seg.png, no picture by its name"] == passed[".v2.jpg, no picture by its name"] == 1
    read = {photo.key.rpartition("/")[2]: photo.read() for photo in reversed(find_photos(file))}
    assert read == {"2": b"two", "5": b"five", "7": b"seven", "0001_1": b"one", "1_1": b"windows"}


@pytest.mark.parametrize(
    ("record", "person", "caption", "reason"),
    (
        ({"person": "  ", "caption": "x"}, "2", "x", ""),  # not one person with all others that have none
        ({"person": 5}, "5", None, ""),
        ({"person": ["a"]}, "", None, "its person is no text"),
        ({"person": float("nan")}, "", None, "its person is no text"),
        ({"person": "Bo", "caption": {"en": "x"}}, "Bo", None, "a caption that is no text"),
        (["Bo"], "", None, "its .json is no object"),
    ),
)
def test_a_tars_record_of_another_kind_is_no_persons_name(
    tmp_path: Path, record: object, person: str, caption: str | None, reason: str
) -> None:
    members = {"1.jpg": b"one", "1.json": b'{"person": "Ann"}', "2.jpg": b"two", "2.json": json.dumps(record).encode()}
    photos, passed = found(tar(tmp_path / "x.tar", members))
    assert photos[1:] == ([("x.tar/2", person, caption)] if person else [])
    assert passed == ({reason: 1} if reason else {})


def test_a_member_that_was_added_again_counts_once(tmp_path: Path) -> None:
    file = tar(tmp_path / "x.tar", {"1.jpg": b"old"})
    tar(file, {"./1.JPG": b"new"}, "a")
    assert found(file) == ([("x.tar/1", "1", None)], {"an older member of the same name": 1})
    assert find_photos(file)[0].read() == b"new"


def test_tars_in_folders(tmp_path: Path) -> None:
    for name in ("train/a.tar", "train/deep/a.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        tar(tmp_path / name, {"1.jpg": name.encode()})
    put(tmp_path, "train/a_stats.json")
    photos, passed = found(tmp_path)
    assert [key for key, *_ in photos] == ["train/a.tar/1", "train/deep/a.tar/1"]
    assert [photo.read() for photo in find_photos(tmp_path)] == [b"train/a.tar", b"train/deep/a.tar"]
    assert passed == {".json, no picture by its name": 1}
    put(tmp_path, "train/Zoe/1.jpg")
    assert found(tmp_path) == (
        [("train/Zoe/1.jpg", "train", None)], {"a tar beside photos": 2, ".json, no picture by its name": 1}
    )  # fmt: skip
    assert found(tmp_path / "train")[1]["a photo beside tar shards"] == 1  # below a folder, too


def test_captions_in_any_case(tmp_path: Path) -> None:
    put(tmp_path, "Zoe/1.JPG", "Zoe/2.Jpeg", "Zoe/3.jpg", "Zoe/4.txt")
    put(tmp_path, "Zoe/1.TXT", "Zoe/2.Txt", content=b"text")
    put(tmp_path, "Zoe/3.txt", content="é".encode("latin-1"))
    passed = Passed()
    assert [photo.caption for photo in find_photos(tmp_path, passed)] == ["text", "text", None]
    assert passed.names == {"a caption that is not UTF-8": ["Zoe/3.txt"], ".txt, no picture by its name": ["Zoe/4.txt"]}


def test_tars_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    packed = tar(tmp_path / "x.tar.gz", {"1.jpg": os.urandom(9999)}, "w:gz").read_bytes()
    for name, content in (
        ("a.tar.gz", packed[:5000]),
        ("b.tar", b"no tar" * 200),
        ("c.tgz", gzip.compress(b"x" * 999)),
    ):
        put(tmp_path, name, content=content)
        with pytest.raises(SettingsError, match=name):
            find_photos(tmp_path / name)


def test_folders_with_every_suffix_and_links(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    put(
        root,
        *(f"Zoe/{n}{suffix}" for n, suffix in enumerate(READ_BY_ANALYSE)),
        "Bo/1.JPG",
        "Bo/notes.psd",
        "Bo/._1.jpg",
    )
    put(root, "Bo/1.txt", content="Zoë".encode("utf-8-sig"))
    put(root, "Bo/readme.txt", ".cache/old.jpg", "Thumbs.db")
    put(tmp_path, "elsewhere/Ann/1.jpg")
    link(root / "Ann", tmp_path / "elsewhere" / "Ann")
    link(root / "Again", root / "Zoe")
    link(root / "Zoe" / "loop", root)
    link(tmp_path / "elsewhere" / "Ann" / "back", tmp_path / "elsewhere")
    link(root / "everything", tmp_path)
    link(root / "gone", tmp_path / "nowhere")
    photos, passed = found(root)
    assert {person for _, person, _ in photos} == {"Ann", "Bo", "Zoe"} and len(photos) == len(READ_BY_ANALYSE) + 2
    assert ("Bo/1.JPG", "Bo", "Zoë") in photos and ("Ann/1.jpg", "Ann", None) in photos
    assert passed["a link to a folder that is read already, or to one above"] >= 3
    assert passed["a link that leads nowhere"] == passed["a hidden file"] == passed["a hidden folder"] == 1
    assert passed[".psd, no picture by its name"] == passed[".db, no picture by its name"] == 1
    assert passed[".txt, no picture by its name"] == 1


def test_suffixes_are_those_of_pictures_that_can_be_read() -> None:
    from PIL import Image

    Image.init()
    known = {
        suffix for suffix, format in Image.EXTENSION.items() if format in ("JPEG", "TIFF", "GIF", "PNG", "BMP", "MPO")
    }
    assert known | set(READ_BY_ANALYSE) <= set(PICTURE_SUFFIXES)


ROWS = [{"path": "a.png", "person": "Zoë", "caption": "naïve\u2028x"}, {"path": "b.png", "person": "F"}]
JSONL = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
CSV = "path,person,caption\na.png,Zoë,naïve\u2028x\nb.png,F,\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.json", "semicolons.csv", "tabs.csv"])
def test_lists_in_every_encoding_that_is_certain(tmp_path: Path, name: str, encoding: str) -> None:
    semicolons = "Path; Person; Caption\n" + CSV.partition("\n")[2].replace(",", ";")
    others = {"l.jsonl": JSONL, "l.json": json.dumps(ROWS, ensure_ascii=False), "tabs.csv": CSV.replace(",", "\t")}
    text = {**others, "semicolons.csv": semicolons}.get(name, CSV)
    put(tmp_path, name, content=text.replace("\n", "\r\n").encode(encoding))
    assert found(tmp_path / name)[0] == [("a.png", "Zoë", "naïve\u2028x"), ("b.png", "F", None)]


@pytest.mark.parametrize(
    ("name", "text"),
    (
        ("pipes.csv", "path|person\na.png|B"), ("tabs.tsv", "path\tperson\na.png\tB"),
        ("excel.csv", "sep=;\r\npath;person\r\na.png;B"), ("spaces.csv", "path , person\n a.png , B "),
        ("in captions.csv", "path,person,a;b;c\na.png,B,c"), ("l.ndjson", '{"path": "a.png", "person": "B"}'),
    ),
)  # fmt: skip
def test_lists_of_every_kind(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, name, content=text.encode())
    assert found(tmp_path / name)[0] == [("a.png", "B", None)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    (
        ("l.csv", "file,name\na.png,B", r"l\.csv has the columns file, name\. Expected: path, person"),
        ("l.csv", "a.png,B", r"has the columns a\.png, b\..*add that line"),
        ("l.csv", "path,person\n", r"lists no photos\. Expected: a first line"),
        ("l.csv", "", "lists no photos"),
        ("l.json", "[]", "lists no photos"),
        ("l.json", '{"path": "a"}\n{"path": "b"}', r"an object a line is a \.jsonl"),
        ("l.jsonl", '{"path": "a", "person": "b"}\n\n{', r"\(line 3: "),
        ("l.jsonl", '{"path": "a", "person": "b", "caption": 5}', "Entry 1.*caption, as text"),
        ("l.jsonl", '{"path": "a\\u0000.png", "person": "b"}', "Entry 1"),
        ("l.jsonl", '{"path": "\\ud800.png", "person": "b"}', "Entry 1"),
        ("photos.zip", "PK", "unpack it"),
    ),
)
def test_lists_that_are_wrong_say_how_to_correct_them(tmp_path: Path, name: str, text: str, message: str) -> None:
    put(tmp_path, name, content=text.encode())
    with pytest.raises(SettingsError, match=message) as caught:
        find_photos(tmp_path / name)
    assert ".jpg" not in caught.value.expected


def test_paths_of_a_list_that_was_made_on_windows(tmp_path: Path) -> None:
    put(tmp_path, "Zoe/a.png")
    put(tmp_path, "l.csv", content=b"path,person\nZoe\\a.png,Zoe")
    assert find_photos(tmp_path / "l.csv")[0].read() == b"photo"


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.json"])
def test_lists_in_another_encoding_name_it(tmp_path: Path, name: str) -> None:
    text = {"l.jsonl": JSONL, "l.json": json.dumps(ROWS, ensure_ascii=False)}.get(name, CSV).replace("\u2028", " ")
    put(tmp_path, name, content=text.encode("latin-1"))
    with pytest.raises(SettingsError) as caught:
        find_photos(tmp_path / name)
    assert name in caught.value.what and "UTF-8" in caught.value.expected and "UTF-8" in caught.value.remedy
    put(tmp_path, name, content=b'path,person\n"a\0')
    with pytest.raises(SettingsError, match=name):
        find_photos(tmp_path / name)


def test_nothing_found_says_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "photos", "Zoe/1.psd", "Zoe/2.psd")
    with pytest.raises(SettingsError, match=r"holds no photos: passed over 2: \.psd.*Zoe/1\.psd"):
        find_photos(tmp_path / "photos")
    put(tmp_path / "mixed", "1.jpg")
    tar(tmp_path / "mixed" / "x.tar", {"1.jpg": b""})
    assert found(tmp_path / "mixed")[1] == {"a photo beside tar shards": 1}


def test_the_report_names_what_was_left_out() -> None:
    dropped = {f"Zoe/{n}.jpg": "NoFaceError: No face" for n in range(5)} | {"b.jpg": "PictureError: torn"}
    passed = Passed()
    passed.note(".psd, no picture by its name", "c.psd")
    assert prepare.report_lines({"dropped": dropped, **passed.json()}) == [
        "dropped 5: no face was found (Zoe/0.jpg, Zoe/1.jpg, Zoe/2.jpg, ...)",
        "dropped 1: damaged, or no picture (b.jpg)",
        "passed over 1: .psd, no picture by its name (c.psd)",
    ]


def test_names_of_no_encoding_are_kept_in_shards(tmp_path: Path) -> None:
    """As Linux has them, where a disk was written with another one."""
    row = {"key": os.fsdecode(b"Zo\xe9/1.jpg"), "person": "\\ Zoë \udce9", "caption": "x", "error": "no face"}
    write_shard(tmp_path, 0, [row], {"x": torch.ones(1)})
    assert read_rows(tmp_path, 0) == [row]
