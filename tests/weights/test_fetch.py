"""Downloads from a server on this machine: resumed, verified, refused in words, and never over a file."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from facesnap.errors import (
    AccessError,
    ChecksumError,
    DiskFullError,
    DownloadError,
    LicenceError,
    NotOnServerError,
    ServerError,
    StoppedError,
)
from facesnap.faces.known import File, Item
from facesnap.weights import fetch as fetching
from facesnap.weights import transfer
from facesnap.weights.catalogue import CATALOGUE, find
from facesnap.weights.fetch import Progress, describe_state, fetch, is_there
from facesnap.weights.folders import Folders
from tests.weights.items import ZIP, left, small_pack
from tests.weights.server import Content, Server

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
REPOSITORY = "somebody/Adapters"


def _item(size: int | None = len(BODY), sha256: str = SHA256) -> Item:
    file = File("sub/adapter.bin", "FaceSnap/renamed.bin", 3, size, sha256)
    return Item("adapter", "an adapter", "tests", "adapter", "only for tests", (file,), REPOSITORY)


def _place(folders: Folders) -> Path:
    return folders.own / "renamed.bin"


def test_a_file_arrives_whole_and_is_verified(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    seen: list[Progress] = []
    assert fetch(_item(), folders, True, seen.append, mirror=server.address + "/") == _place(folders)
    assert _place(folders).read_bytes() == BODY and left(folders) == ["renamed.bin"]
    assert [one.done for one in seen] == sorted({one.done for one in seen}) and len(seen) > 1
    assert (seen[-1].done, seen[-1].total, seen[-1].file, seen[-1].files) == (len(BODY), len(BODY), "renamed.bin", 1)
    assert is_there(_item(), folders) and describe_state(_item(), folders) == "there"


def test_without_consent_no_server_is_asked(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    with pytest.raises(LicenceError, match=r"only for tests.*--accept-licence"):
        fetch(_item(), folders, mirror=server.address)
    assert not server.seen and not folders.models.exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_resumed(server: Server, folders: Folders, ranges: bool) -> None:
    """Within one call; a server without ranges sends it all again."""
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, cut=[1_200_000, 700_000], ranges=ranges))
    fetch(_item(), folders, True, mirror=server.address)
    assert _place(folders).read_bytes() == BODY
    assert server.ranges[0] == "" and len(server.ranges) == 3
    starts = [int(span.removeprefix("bytes=").rstrip("-")) for span in server.ranges[1:]]
    assert starts[0] > 0 and (starts[0] < starts[1] if ranges else starts)


def test_a_server_that_is_busy_is_asked_again(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, failing=[503, 429, 502]))
    fetch(_item(), folders, True, mirror=server.address)
    assert _place(folders).read_bytes() == BODY
    _place(folders).unlink()
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, failing=[503] * 5))
    with pytest.raises(ServerError, match="HTTP 503"):
        fetch(_item(), folders, True, mirror=server.address)
    assert len(server.ranges) == 4 + transfer.TRIES


def test_a_later_call_goes_on_where_the_first_was_stopped(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    stop = threading.Event()
    with pytest.raises(StoppedError, match="is kept"):
        fetch(_item(), folders, True, lambda progress: stop.set(), mirror=server.address, stop=stop)
    (part,) = folders.own.glob("*.part")
    size = part.stat().st_size
    assert 0 < size < len(BODY) and not _place(folders).exists()
    fetch(_item(), folders, True, mirror=server.address)
    assert server.ranges == ["", f"bytes={size}-"] and _place(folders).read_bytes() == BODY
    assert left(folders) == ["renamed.bin"]


def test_a_part_of_another_version_is_not_continued(server: Server, folders: Folders) -> None:
    content = server.hub(REPOSITORY, "sub/adapter.bin", Content(b"old" * 500_000, cut=[900_000, *[0] * 20]))
    item = _item(None, "")
    with pytest.raises(ServerError, match=r"of 1500000 bytes.*is kept"):
        fetch(item, folders, True, mirror=server.address)
    assert len(list(folders.own.glob("*.part"))) == 1
    content.body, content.cut = BODY, []
    fetch(item, folders, True, mirror=server.address)
    assert server.ranges[-1] == "" and _place(folders).read_bytes() == BODY and left(folders) == ["renamed.bin"]


def test_a_part_longer_than_the_file_is_begun_anew(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, cut=[1000, *[0] * 20]))
    with pytest.raises(ServerError):
        fetch(_item(), folders, True, mirror=server.address)
    (part,) = folders.own.glob("*.part")
    part.write_bytes(b"x" * (len(BODY) + 5))
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    fetch(_item(), folders, True, mirror=server.address)
    assert _place(folders).read_bytes() == BODY


@pytest.mark.parametrize("item", [_item(), _item(None, ""), _item(len(BODY), "")])
def test_a_wrong_checksum_leaves_nothing(server: Server, folders: Folders, item: Item) -> None:
    """Against the catalogue, or, where that knows nothing, against what the Hub announces."""
    wrong = bytes([BODY[0] ^ 1]) + BODY[1:]
    server.hub(REPOSITORY, "sub/adapter.bin", Content(wrong, announced=SHA256))
    with pytest.raises(ChecksumError, match="not the published file"):
        fetch(item, folders, True, mirror=server.address)
    assert left(folders) == []


def test_another_file_on_the_server_is_refused_before_a_byte_is_sent(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY[1:]))
    for item in (_item(), _item(None), _item(sha256="")):
        with pytest.raises(ChecksumError, match="another file now"):
            fetch(item, folders, True, mirror=server.address)
    assert not server.ranges and left(folders) == []


def test_a_server_that_sends_more_than_it_announced_is_cut_off(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, lfs=False, size=1000))
    with pytest.raises(ChecksumError, match="sends more than 1000 bytes"):
        fetch(_item(None, ""), folders, True, mirror=server.address)
    assert left(folders) == []


@pytest.mark.parametrize("ranges", (True, False))
def test_a_server_that_has_less_than_it_announced_is_given_up(server: Server, folders: Folders, ranges: bool) -> None:
    """It was asked again for ever: each new beginning looked like progress."""
    announced = hashlib.sha256(BODY + b"more").hexdigest()
    content = server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, announced, size=len(BODY) + 4, ranges=ranges))
    with pytest.raises(DownloadError, match=rf"not the {len(BODY) + 4} that it announced|sends nothing more"):
        fetch(_item(None, ""), folders, True, mirror=server.address)
    assert not _place(folders).exists() and len(server.ranges) <= 8
    content.size, content.announced, content.ranges = None, "", True
    assert fetch(_item(None, ""), folders, True, mirror=server.address).read_bytes() == BODY


def test_files_outside_lfs_have_no_checksum_but_a_size(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, lfs=False))
    fetch(_item(None, ""), folders, True, mirror=server.address)
    assert _place(folders).read_bytes() == BODY


@pytest.mark.parametrize(
    ("status", "error", "match"),
    [
        (404, NotOnServerError, "does not exist"),
        (401, AccessError, "log in"),
        (403, AccessError, "accept its terms"),
        (500, ServerError, "HTTP 500.*HTTPS_PROXY"),
    ],
)
def test_refusals_have_their_remedy(
    server: Server, folders: Folders, status: int, error: type[DownloadError], match: str
) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, status=status))
    server.release(ZIP, Content(BODY, status=status))
    for item in (_item(), small_pack()):
        with pytest.raises(error, match=match):
            fetch(item, folders, True, mirror=server.address)
    assert left(folders) == []


def test_nobody_answers(folders: Folders) -> None:
    for item in (_item(), small_pack()):
        with pytest.raises(ServerError, match="cannot be reached"):
            fetch(item, folders, True, mirror="http://127.0.0.1:9")


def test_a_full_disk_is_told_before(server: Server, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    server.release(ZIP, Content(BODY))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, fetching.SPARE + len(BODY) + 1))
    fetch(_item(), folders, True, mirror=server.address)  # just enough
    with pytest.raises(DiskFullError, match="MB more"):  # a zip needs its content's room too
        fetch(small_pack(), folders, True, mirror=server.address)
    assert server.ranges == [""]


def test_a_disk_that_fills_up_keeps_the_part(server: Server, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    real_open, room = Path.open, 1_500_000

    def small_disk(path: Path, mode: str = "r", *more: object, **options: object) -> object:
        file = real_open(path, mode, *more, **options)  # type: ignore[arg-type]
        if path.suffix != ".part" or "r" in mode:
            return file

        class Full(io.BufferedIOBase):
            def write(self, block: bytes) -> int:
                left = room - file.tell()
                file.write(block[: max(left, 0)])
                if len(block) > left:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return len(block)

            def close(self) -> None:
                file.close()

        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", small_disk)
        with pytest.raises(DiskFullError, match=r"free some space.*what has arrived is kept"):
            fetch(_item(), folders, True, mirror=server.address)
    (part,) = folders.own.glob("*.part")
    assert part.read_bytes() == BODY[:room] and left(folders) == [part.name]
    fetch(_item(), folders, True, mirror=server.address)
    assert server.ranges[-1] == f"bytes={room}-" and _place(folders).read_bytes() == BODY


def test_a_folder_that_cannot_be_written_to_is_named(server: Server, tmp_path: Path) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    (tmp_path / "models").write_text("a file", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"cannot be written to.*--folder"):
        fetch(_item(), Folders.of(tmp_path / "models"), True, mirror=server.address)


def test_a_file_that_is_there_is_never_overwritten(server: Server, folders: Folders) -> None:
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    _place(folders).parent.mkdir(parents=True)
    for content in (b"mine", bytes(len(BODY))):
        _place(folders).write_bytes(content)
        with pytest.raises(ChecksumError, match="never overwrites"):
            fetch(_item(), folders, True, mirror=server.address)
        assert _place(folders).read_bytes() == content and "not the published" in describe_state(_item(), folders)
    assert fetch(_item(None, ""), folders, True, mirror=server.address) == _place(folders)  # nothing known of it
    _place(folders).write_bytes(BODY)
    assert fetch(_item(), folders, True, mirror=server.address) == _place(folders)
    assert not server.seen


def test_two_at_once_fetch_once(server: Server, folders: Folders) -> None:
    hold = threading.Event()
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY, hold=hold))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fetch(_item(), folders, True, mirror=server.address)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    hold.set()
    for thread in threads:
        thread.join(60)
    assert not failures and len(server.ranges) == 1 and _place(folders).read_bytes() == BODY


SCRIPT = """
import sys
from pathlib import Path
from facesnap.faces.known import File, Item
from facesnap.weights.fetch import fetch
from facesnap.weights.folders import Folders
file = File("sub/adapter.bin", "FaceSnap/renamed.bin", 3)
item = Item("a", "an adapter", "tests", "adapter", "tests", (file,), "somebody/Adapters")
for name, mirror in (("a", ""), ("b", "http://hub.invalid")):
    fetch(item, Folders.of(Path(sys.argv[1]) / name), True, mirror=mirror)
"""


def test_environment_proxy_endpoint_and_login(server: Server, tmp_path: Path) -> None:
    """HF_ENDPOINT stands for the Hub and gets its login, a mirror does not; proxies serve the Hub's client and ours."""
    server.hub(REPOSITORY, "sub/adapter.bin", Content(BODY))
    direct = "127.0.0.1,localhost"
    given = {"HF_ENDPOINT": server.address, "HF_TOKEN": "hf_secret", "HTTP_PROXY": server.address,
             "http_proxy": server.address, "NO_PROXY": direct, "no_proxy": direct}  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY") and not k.startswith("HF_")}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=clean | given, check=True, timeout=300)
    for name in "ab":
        assert (tmp_path / name / "FaceSnap" / "renamed.bin").read_bytes() == BODY
    asked = [(method, path, login) for method, path, _, login in server.seen if f"{REPOSITORY}/resolve" in path]
    resolve = f"/{REPOSITORY}/resolve/main/sub/adapter.bin"
    assert [one for one in asked if "/cdn/" not in one[1]] == [
        ("HEAD", resolve, "Bearer hf_secret"), ("GET", resolve, "Bearer hf_secret"),
        ("HEAD", f"http://hub.invalid{resolve}", ""), ("GET", f"http://hub.invalid{resolve}", ""),
    ]  # fmt: skip
    assert [login for _, path, login in asked if "/cdn/" in path] == ["", ""]  # another host


def test_offline_mode_is_told(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **more: object) -> None:
        raise ConnectionError("offline mode is enabled")  # OfflineModeIsEnabled is one

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    with pytest.raises(ServerError, match="offline mode"):
        fetch(_item(), folders, True)


def test_the_catalogue_is_consistent() -> None:
    names = [item.name for item in CATALOGUE]
    places = [file.to for item in CATALOGUE for file in item.files]
    assert len(set(names)) == len(names) and len(set(places)) == len(places)
    for item in CATALOGUE:
        assert find(item.name.upper().replace("-", "_")) is item and item.licence and item.page.startswith("https://")
        for file in item.files:
            assert bool(item.repository) != file.source.startswith("https://github.com/")
            assert not file.sha256 or len(file.sha256) == 64
            assert file.size is None or abs(file.size / 1e6 - file.megabytes) < 0.01 * file.megabytes
