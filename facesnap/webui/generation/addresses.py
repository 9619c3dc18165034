"""A picture's bytes from an http(s) address that a stranger named: only from where the whole internet can fetch.

The name is resolved once, all of its addresses are checked, and the connection goes to a checked one, so that a name
which resolves to another address a moment later changes nothing. Every redirect begins anew. Proxies of the
environment are not used: what they reach cannot be checked. No message names the address, which may be secret.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from facesnap.errors import PictureError
from facesnap.version import __version__
from facesnap.webui.generation.pictures import MOST_BYTES, too_many_bytes

MOST_REDIRECTS = 3
SECONDS = 30.0  # for everything after the name is resolved
LONGEST = 4096  # characters
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = (301, 302, 303, 307, 308)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def resolve_name(host: str, port: int) -> list[str]:
    """All addresses of a name, A and AAAA."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Network:
    """The way out.

    Attributes:
        resolve: (name, port) -> addresses. connect: ((address, port), seconds) -> socket. tls: of https.
        seconds: for a whole fetch, redirects included.
    """

    resolve: Callable[[str, int], list[str]] = resolve_name
    connect: Callable[[tuple[str, int], float], socket.socket] = socket.create_connection
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    seconds: float = SECONDS


def fetch(url: str, name: str, *, local: bool = False, agent: str = "", network: Network | None = None) -> bytes:
    """The content of an address, at most 32 MiB of it.

    Args:
        name: what messages call the picture. local: also addresses of this machine and its networks.
        agent: User-Agent; by default FaceSnap and its version.

    Raises:
        PictureError: a wrong, local or unreachable address, too many redirects, or any status but 200.
        TooLargeError: more than 32 MiB.
    """
    network = network or Network()
    end = time.monotonic() + network.seconds
    for _ in range(MOST_REDIRECTS + 1):
        parts = _checked_url(url, name)
        try:
            body, further = _get(parts, name, local, agent or f"FaceSnap/{__version__}", network, end)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = "it took too long" if time.monotonic() >= end else type(error).__name__
            raise _unreachable(name, reason) from None  # its text may hold the address
        if further is None:
            return body
        url = urljoin(url, further)
    raise _unreachable(name, f"more than {MOST_REDIRECTS} redirects")


def is_public(address: Address) -> bool:
    """Whether an address means the same everywhere on the internet; one that wraps an IPv4 address counts as that."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = [one for one in (address.sixtofour, *(address.teredo or ())) if one is not None]
        if address.is_site_local or not all(map(is_public, inner)):
            return False
    odd = address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    return address.is_global and not (odd or address.is_private or address.is_unspecified)


def _checked_url(url: str, name: str) -> SplitResult:
    """The parts of an address without a password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port  # raises for 99999
    except ValueError:
        raise _wrong_url(name) from None
    odd = len(url) > LONGEST or any(c.isspace() or not c.isprintable() for c in url)
    if odd or parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or port == 0:
        raise _wrong_url(name)
    return parts


def _get(
    parts: SplitResult, name: str, local: bool, agent: str, network: Network, end: float
) -> tuple[bytes, str | None]:
    """One request -> its body and None, or nothing and where it is redirected to."""
    port = parts.port or _PORTS[parts.scheme]
    host = parts.hostname or ""
    if ":" not in host:  # no IPv6 address
        host = host.encode("idna").decode("ascii")
    addresses = list(dict.fromkeys(network.resolve(host, port)))
    private = [one for one in map(ipaddress.ip_address, addresses) if not is_public(one)]
    if not addresses or any(not local or one.is_multicast or one.is_unspecified for one in private):
        raise PictureError(
            f"{name} is at an address of this machine or of a network that is not public.",
            expected="a public address",
            remedy="send the picture as base64, or see the WebUI's setting 'Forbid URLs to local resources'",
        )
    with ExitStack() as stack:
        sock = stack.enter_context(_connected(addresses, port, network, end))
        stack.enter_context(_watched(sock, end))
        connection = http.client.HTTPConnection(host, port)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, port)
            sock = stack.enter_context(network.tls().wrap_socket(sock, server_hostname=host))
        connection.sock, connection.auto_open = sock, 0  # never to where the name leads now
        target = quote(parts.path or "/", safe="/%:=&;,+$!*'()@~-._")
        query = f"?{quote(parts.query, safe='/%:=&;,+$!*()@~-._?')}" if parts.query else ""
        headers = {"User-Agent": agent, "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
        connection.request("GET", target + query, headers=headers)
        return _answer(connection.getresponse(), name, end)


def _connected(addresses: list[str], port: int, network: Network, end: float) -> socket.socket:
    """To the first of the addresses that answers."""
    failure: OSError = TimeoutError()
    for address in addresses:
        left = end - time.monotonic()
        if left <= 0:
            break
        try:
            return network.connect((address, port), left)
        except OSError as error:
            failure = error
    raise failure


def _answer(response: http.client.HTTPResponse, name: str, end: float) -> tuple[bytes, str | None]:
    further = response.getheader("Location")
    if response.status in _REDIRECTS and further:
        return b"", further
    if response.status != 200:
        raise _unreachable(name, f"status {response.status}")
    body = bytearray()
    while part := response.read(1 << 16):
        body += part
        if len(body) > MOST_BYTES:
            raise too_many_bytes(name)
    if time.monotonic() >= end:
        raise TimeoutError
    return bytes(body), None


@contextmanager
def _watched(sock: socket.socket, end: float) -> Iterator[None]:
    """Hang up at the end, whatever the other side does: a socket's own time-out begins anew with every byte."""
    twin = sock.dup()  # TLS takes the socket itself over
    watch = threading.Timer(max(end - time.monotonic(), 0.0), _hang_up, (twin,))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        twin.close()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):  # closed meanwhile
        sock.shutdown(socket.SHUT_RDWR)


def _wrong_url(name: str) -> PictureError:
    return PictureError(
        f"The address of {name} cannot be used.",
        expected=f"http:// or https://, without a password, at most {LONGEST} characters",
        remedy="correct the address",
    )


def _unreachable(name: str, reason: str) -> PictureError:
    return PictureError(
        f"{name} cannot be fetched ({reason}).",
        expected=f"a picture, within {SECONDS:.0f} seconds and {MOST_REDIRECTS} redirects",
        remedy="check the address, or send the picture as base64",
    )
