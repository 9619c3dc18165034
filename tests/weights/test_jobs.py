"""Downloads in threads for the interface, and the command line."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from pathlib import Path

import pytest

from facesnap.cli import download, main
from facesnap.errors import LicenceError, SettingsError
from facesnap.faces.known import File, Item
from facesnap.weights import catalogue
from facesnap.weights.fetch import is_there
from facesnap.weights.folders import Folders
from facesnap.weights.jobs import DONE, FAILED, RUNNING, Downloads
from tests.weights.server import Content, Server

BODY = bytes(range(256)) * 4000


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.of(tmp_path / "models", tmp_path / "own folder")


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """With a catalogue of two items, one of which the server has otherwise."""
    sha256 = hashlib.sha256(BODY).hexdigest()
    good = (File("a.bin", "FaceSnap/a.bin", 1, len(BODY), sha256), File("b.bin", "clip_vision/b.bin", 1))
    items = (
        Item("good-one", "good", "tests", "adapter", "licence of good", good, "some/Good"),
        Item("bad", "bad", "tests", "adapter", "licence of bad", (File("a.bin", "x/a.bin", 1, 5),), "some/Bad"),
    )
    for module in (catalogue, download):
        monkeypatch.setattr(module, "CATALOGUE", items)
    server.hub("some/Good", "a.bin", Content(BODY))
    server.hub("some/Good", "b.bin", Content(BODY[::-1]))
    server.hub("some/Bad", "a.bin", Content(BODY))
    return server


def test_a_download_is_started_watched_and_done(server: Server, folders: Folders) -> None:
    hold = server.files["/some/Good/resolve/main/b.bin"].hold = threading.Event()
    downloads = Downloads()
    assert downloads.states() == [] and [is_there(item, folders) for item in catalogue.CATALOGUE] == [False, False]
    assert downloads.start("good-one", folders, True, server.address).state == RUNNING
    assert downloads.start("GOOD_ONE", folders, True, server.address).state == RUNNING  # the same one goes on
    end = time.monotonic() + 60
    while (state := downloads.states()[0]).progress is None and time.monotonic() < end:
        time.sleep(0.01)
    assert state.progress is not None and "(1 of 2)" in str(state) and "%" in str(state)
    hold.set()
    state = downloads.wait("good-one", 60)
    assert (state.state, state.path) == (DONE, folders.own / "a.bin") and str(state) == "done"
    assert (folders.models / "clip_vision" / "b.bin").read_bytes() == BODY[::-1]
    assert [is_there(item, folders) for item in catalogue.CATALOGUE] == [True, False]
    assert len(server.ranges) == 2


def test_a_download_that_fails_says_why_and_can_be_started_again(server: Server, folders: Folders) -> None:
    downloads = Downloads()
    for _ in range(2):
        downloads.start("bad", folders, True, server.address)
        state = downloads.wait("bad", 60)
        assert state.state == FAILED and "another file now" in str(state) and "Remedy" in str(state)
    with pytest.raises(LicenceError, match="licence of bad"):
        downloads.start("bad", folders, False)
    with pytest.raises(SettingsError, match="good-one, bad"):
        downloads.start("nothing", folders, True)


def test_a_download_can_be_stopped(server: Server, folders: Folders) -> None:
    hold = server.files["/some/Good/resolve/main/a.bin"].hold = threading.Event()
    downloads = Downloads()
    downloads.start("good-one", folders, True, server.address)
    downloads.stop("good-one")
    hold.set()
    assert downloads.wait("good-one", 60).state == FAILED and "stopped" in str(downloads.states()[0])
    downloads.start("good-one", folders, True, server.address)
    assert downloads.wait("good-one", 60).state == DONE


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _run(folders: Folders, *more: str) -> int:
    return main(["download", *more, "--folder", str(folders.models), "--facesnap-dir", str(folders.own)])


def test_the_command_asks_for_consent(
    server: Server, folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = ("--mirror", server.address)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))  # a pipe: nobody who could consent
    assert _run(folders, "good-one", *mirror) == 1 and "--accept-licence" in capsys.readouterr().err
    for answer in ("", "\n", "no\n"):
        monkeypatch.setattr("sys.stdin", _Terminal(answer))
        assert _run(folders, "good-one", *mirror) == 1
        assert "licence of good" in capsys.readouterr().err
    assert not server.seen
    monkeypatch.setattr("sys.stdin", _Terminal("y\n"))
    assert _run(folders, "good-one", *mirror) == 0
    assert capsys.readouterr().out.strip() == str(folders.own / "a.bin")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert _run(folders, "good-one", "--accept-licence", "--json", *mirror) == 0  # there already
    assert json.loads(capsys.readouterr().out) == [{"name": "good-one", "path": str(folders.own / "a.bin")}]


def test_the_command_lists_and_refuses(
    server: Server, folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders.models / "x").mkdir(parents=True)
    (folders.models / "x" / "a.bin").write_bytes(b"mine")
    assert _run(folders, "--list") == 0
    shown = capsys.readouterr().out
    assert "licence of good" in shown and "https://huggingface.co/some/Bad" in shown and "[there]" in shown
    assert _run(folders, "--list", "bad") == 0 and "not the published file" in capsys.readouterr().out
    assert _run(folders, "--list", "--json") == 0
    assert [row["there"] for row in json.loads(capsys.readouterr().out)] == [False, True]
    assert _run(folders) == 1 and "--list" in capsys.readouterr().err
    assert _run(folders, "nothing") == 1 and "good-one, bad" in capsys.readouterr().err
    monkeypatch.setattr("facesnap.cli.download.webui_roots", lambda: [])
    assert main(["download", "bad"]) == 1 and "--folder" in capsys.readouterr().err
