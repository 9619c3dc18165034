"""A stranger's address: what is fetched, and from where; a real server on this machine, names from a table."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import pytest

from facesnap.errors import PictureError, TooLargeError
from facesnap.webui.generation import addresses
from facesnap.webui.generation.addresses import Network, fetch, is_public

PUBLIC = "93.184.216.34"
CONTENT = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Answers by the path; `server.seen` keeps the requests, `server.sent` the bytes of the slow one."""

    def do_GET(self) -> None:
        self.server.seen.append((self.headers["Host"], self.path, dict(self.headers)))
        name = self.path.partition("?")[0]
        if name in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[name])
            self.end_headers()
        elif name == "/missing":
            self.send_error(404)
        elif name == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):  # a byte at a time: no single read ever takes long
                self.server.sent.append(self.wfile.write(b"x"))
                self.wfile.flush()
                time.sleep(0.1)
        elif name == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 20))
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the client has hung up

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture()
def site() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.sent, made.redirects = [], [], {}
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


class World:
    """Names and their addresses; every connection leads to the server, and is noted."""

    def __init__(self, site: ThreadingHTTPServer, **names: list[str]) -> None:
        self.site, self.names = site, {name.replace("_", "."): found for name, found in names.items()}
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host[0].isdigit():
            return [host]
        if host not in self.names:
            raise socket.gaierror(f"no {host}")
        return self.names[host]

    def connect(self, address: tuple[str, int], seconds: float) -> socket.socket:
        self.connected.append(address)
        return socket.create_connection(self.site.server_address, seconds)

    def network(self, **more: Any) -> Network:
        return Network(self.resolve, self.connect, **more)


def test_what_stands_there_is_fetched_from_the_address_that_was_checked(site) -> None:
    world = World(site, photos_example=[PUBLIC])
    url = "http://photos.example:8080/a/ä b.png?size=1&q=ü#part".replace(" ", "%20")
    assert fetch(url, "the picture", agent="someone", network=world.network()) == CONTENT
    assert world.asked == ["photos.example"] and world.connected == [(PUBLIC, 8080)]
    host, path, headers = site.seen[0]
    assert host == "photos.example:8080" and path == "/a/%C3%A4%20b.png?size=1&q=%C3%BC"
    assert headers["User-Agent"] == "someone"
    fetch("http://photos.example", "the picture", network=world.network())
    assert world.connected[-1] == (PUBLIC, 80) and site.seen[-1][1] == "/"
    assert site.seen[-1][0] == "photos.example" and "FaceSnap" in site.seen[-1][2]["User-Agent"]


PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:0", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1",
    "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2001:0:7f00:1::", "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_of_this_machine_or_its_networks(site, address: str) -> None:
    assert not is_public(ip_address(address))
    for found in ([address], [PUBLIC, address], [address, PUBLIC]):
        world = World(site, photos_example=found)
        with pytest.raises(PictureError, match="not public"):
            fetch("http://photos.example/", "the picture", network=world.network())
        assert world.connected == []


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are(site, address: str) -> None:
    assert is_public(ip_address(address))
    world = World(site, photos_example=[address])
    assert fetch("http://photos.example/", "the picture", network=world.network()) == CONTENT
    assert world.connected == [(address, 80)]


def test_a_local_address_only_where_the_host_allows_it(site) -> None:
    world = World(site, here=["127.0.0.1"], nowhere=["0.0.0.0"], all_hosts=["224.0.0.1"])
    assert fetch("http://here/", "the picture", local=True, network=world.network()) == CONTENT
    for name in ("nowhere", "all.hosts"):
        with pytest.raises(PictureError, match="not public"):
            fetch(f"http://{name}/", "the picture", local=True, network=world.network())


def test_a_name_that_changes_its_address_is_asked_once_for_each_request(site) -> None:
    world = World(site)
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    world.resolve = lambda host, port: next(answers)
    assert fetch("http://photos.example/", "the picture", network=world.network()) == CONTENT
    assert world.connected == [(PUBLIC, 80)]


def test_every_redirect_is_checked_anew(site) -> None:
    world = World(site, photos_example=[PUBLIC], other_example=["8.8.8.8"], inside=["192.168.0.1"])
    site.redirects.update({"/a": "http://other.example/b", "/b": "/c", "/c": "d/picture"})
    assert fetch("http://photos.example/a", "the picture", network=world.network()) == CONTENT
    assert [address for address, _ in world.connected] == [PUBLIC, "8.8.8.8", "8.8.8.8", "8.8.8.8"]
    assert site.seen[-1][:2] == ("other.example", "/d/picture")
    wrong = {
        "http://inside/": "not public",
        "http://127.0.0.1/": "not public",
        "file:///etc/passwd": "cannot be used",
        "ftp://photos.example/": "cannot be used",
        "http://user:secret@photos.example/": "cannot be used",
        "/a": "redirects",
    }
    for target, words in wrong.items():
        site.redirects["/a"] = target
        before = len(world.connected)
        with pytest.raises(PictureError, match=words):
            fetch("http://photos.example/a", "the picture", network=world.network())
        steps = addresses.MOST_REDIRECTS + 1 if target == "/a" else 1
        assert len(world.connected) == before + steps


ODD = (
    "http://", "http:///a", "https://:80/", "http://a:99999/", "http://a:0/", "http://a:x/", "http://[::1/",
    "http://u@a/", "http://a/ b", "http://a/\r\nX: y", "ftp://a/", "javascript:1", "http://" + "a" * 5000, "http://a..b/",
    "http://" + "é" * 70 + "/", "//a/b",
)  # fmt: skip


@pytest.mark.parametrize("url", ODD, ids=repr)
def test_odd_addresses_are_refused_before_anything_is_sent(site, url: str) -> None:
    world = World(site, a=[PUBLIC])
    with pytest.raises(PictureError) as raised:
        fetch(url, "the picture", network=world.network())
    assert world.connected == [] and (url == "http://" or url not in str(raised.value))


def test_faults_are_told_without_the_address(site) -> None:
    world = World(site, secret_example=[PUBLIC])
    for path, words in (("missing", "404"), ("slow", "too long")):
        with pytest.raises(PictureError, match=words) as raised:
            fetch(f"http://secret.example/{path}?token=abc", "reference 1", network=world.network(seconds=1.0))
        assert len(site.sent) < 100  # hung up before the end
        assert "secret" not in str(raised.value) and "abc" not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(TooLargeError, match="32 MiB"):
        fetch("http://secret.example/endless", "reference 1", network=world.network())
    with pytest.raises(PictureError, match="gaierror"):
        fetch("http://unknown.example/", "reference 1", network=world.network())
    world.connect = lambda *args: (_ for _ in ()).throw(ConnectionRefusedError())
    with pytest.raises(PictureError, match="ConnectionRefused"):
        fetch("http://secret.example/", "reference 1", network=world.network())


def test_the_next_address_is_tried_where_one_does_not_answer(site) -> None:
    world = World(site, photos_example=[PUBLIC, "8.8.8.8"])
    connect = world.connect

    def half(address: tuple[str, int], seconds: float) -> socket.socket:
        if address[0] == PUBLIC:
            raise ConnectionRefusedError
        return connect(address, seconds)

    assert fetch("http://photos.example/", "x", network=Network(world.resolve, half)) == CONTENT


def test_https_asks_for_the_name_and_hangs_up_in_time(site) -> None:
    """The server speaks no TLS: the handshake fails, or is cut short, and no plain request is sent."""
    world = World(site, photos_example=[PUBLIC])
    with pytest.raises(PictureError, match="cannot be fetched"):
        fetch("https://photos.example/", "the picture", network=world.network(seconds=2.0))
    assert world.connected == [(PUBLIC, 443)] and site.seen == []
