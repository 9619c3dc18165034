"""One file over HTTP into a `.part` file: resumed, bounded, never more than what was announced.

The Hub's client gives the address, the size, the checksum and the login of a file (`locate`); newer ones no longer
resume a download that another process began, so the bytes come through `requests`, as those of other servers do.
Proxies are those of the environment (HTTPS_PROXY, NO_PROXY), for both.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import requests

from facesnap.errors import AccessError, ChecksumError, DiskFullError, NotOnServerError, ServerError, StoppedError
from facesnap.remedies import remedy

logger = logging.getLogger(__name__)

BLOCK = 1 << 16  # what a broken connection may lose
TRIES, PAUSE = 5, 1.0  # in a row without a new block; seconds before the second, twice as many before the third, ...
TIMEOUT = (10, 60)  # seconds: to connect, between two bytes
MOST_BYTES = 16 << 30  # of a file whose size the server does not give
LATER = "check the connection and run it again: what has arrived is kept; a proxy is taken from HTTPS_PROXY, another \
server from --mirror or HF_ENDPOINT"
Advance = Callable[[int], None]  # called with the bytes that have arrived so far


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        address: to ask for it. page: for people. size: bytes, or None where the server does not give it.
        tag: changes when the file does. sha256: that the server gives, or "". headers: of the request.
    """

    address: str
    page: str
    size: int | None = None
    tag: str = ""
    sha256: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def locate(repository: str, name: str, revision: str, mirror: str = "") -> Remote:
    """A file of a repository on the Hub, or on a mirror of it.

    Args:
        mirror: address that stands for https://huggingface.co; "" for HF_ENDPOINT, or the Hub. Only the latter get the
            user's login.

    Raises:
        NotOnServerError, AccessError, ServerError.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import HfHubHTTPError, build_hf_headers

    token = False if mirror else None
    address = hf_hub_url(repository, name, revision=revision, endpoint=mirror.rstrip("/") or None)
    page = address.replace("/resolve/", "/blob/")
    try:
        found = get_hf_file_metadata(address, token=token)
    except HfHubHTTPError as error:
        raise refusal(getattr(error.response, "status_code", 0), page) from error
    except _transport_errors() as error:
        raise ServerError(f"{page} cannot be reached ({_short(error)}).", expected="an answer", remedy=LATER) from error
    tag = found.etag or ""
    sha256 = tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""  # of files in LFS; of others it is git's own hash
    headers = build_hf_headers(token=token)
    return Remote(address, page, found.size, f"{found.commit_hash or ''} {tag}", sha256, headers)


def probe(address: str) -> Remote:
    """A file of any other server.

    Raises:
        NotOnServerError, AccessError, ServerError.
    """
    try:
        answer = requests.head(address, headers=_plain({}), timeout=TIMEOUT, allow_redirects=True)
        if answer.status_code in (403, 405, 501):  # addresses signed for GET alone
            answer = requests.get(address, headers=_plain({}), timeout=TIMEOUT, stream=True)
            answer.close()  # its head is enough
        if not answer.ok:
            raise refusal(answer.status_code, address)
        length, tag = answer.headers.get("Content-Length", ""), answer.headers.get("ETag", "")
        return Remote(address, address, int(length) if length.isdigit() else None, tag)
    except requests.RequestException as error:
        raise ServerError(
            f"{address} cannot be reached ({_short(error)}).", expected="an answer", remedy=LATER
        ) from error


def receive(remote: Remote, part: Path, advance: Advance, stop: Event) -> None:
    """Bring `part` to the whole file, from where it is.

    Raises:
        NotOnServerError, AccessError, ServerError: the part is kept.
        StoppedError, OSError (no room, no permission): the part is kept.
        ChecksumError: the server has more or fewer bytes than it announced; the part is removed.
    """
    failures = furthest = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if remote.size is not None and before > remote.size:
            part.unlink()
            before = 0
        if before == remote.size and part.exists():
            return
        try:
            whole = _stream(remote, part, before, advance, stop)
        except requests.RequestException as error:
            whole, reason = False, _short(error)
        else:
            reason = "it broke off"
        after = part.stat().st_size if part.exists() else 0
        if whole and (remote.size is None or after == remote.size):
            return
        failures = failures + 1 if after <= furthest else 0  # to begin anew is no progress
        furthest = max(furthest, before, after)
        if failures >= TRIES:
            raise ServerError(
                f"{remote.page} sends nothing more after {after} of {remote.size or '?'} bytes ({reason}).",
                expected="the rest of the file",
                remedy=LATER,
            )
        logger.info("%s: %s after %d bytes, trying again", part.name, reason, after)
        stop.wait(failures * PAUSE)


def _stream(remote: Remote, part: Path, start: int, advance: Advance, stop: Event) -> bool:
    """Append what one answer brings; True where it came to its own end."""
    headers = _plain(remote.headers) | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(remote.address, headers=headers, timeout=TIMEOUT, stream=True) as answer:
        if answer.status_code == 416:  # the part is as long as the file, or longer
            part.unlink()
            if remote.size is not None:
                raise ChecksumError(
                    f"{remote.page} has {start} bytes or fewer, not the {remote.size} that it announced.",
                    expected="as many as it announced",
                    remedy=remedy("download from elsewhere"),
                )
            return False
        if answer.status_code >= 500 or answer.status_code == 429:
            raise requests.HTTPError(f"HTTP {answer.status_code}")  # passes, mostly
        if not answer.ok:
            raise refusal(answer.status_code, remote.page)
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not resumed:
            start = 0  # the server sends the whole file again
        most = remote.size if remote.size is not None else MOST_BYTES
        arrived = start
        with part.open("ab" if start else "wb") as file:
            for block in answer.iter_content(BLOCK):
                if stop.is_set():
                    raise StoppedError(
                        f"The download of {part.name} was stopped.", expected="the whole file",
                        remedy="start it again: what has arrived is kept",
                    )  # fmt: skip
                arrived += len(block)
                if arrived > most:
                    file.close()
                    part.unlink()
                    raise ChecksumError(
                        f"{remote.page} sends more than {most} bytes.",
                        expected="as many as it announced",
                        remedy=remedy("download from elsewhere"),
                    )
                file.write(block)
                advance(arrived)
    return True


def full(folder: Path, needed: int) -> DiskFullError:
    """The error for a full disk. needed: bytes, or 0 where that is not known."""
    room = f"room for {needed / 1e6:.0f} MB more" if needed else "room for the rest of the file"
    return DiskFullError(
        f"There is no room in {folder}.",
        expected=room,
        remedy=f"free some space, or {remedy('choose another folder')}, on another disk; then start it again: what has "
        "arrived is kept",
    )


def refusal(status: int, page: str) -> AccessError | NotOnServerError | ServerError:
    """The error for an answer that is none of 2xx."""
    if status in (401, 403):
        return AccessError(
            f"{page} is not open to all (HTTP {status}).",
            expected="a file that can be fetched without a login, or your login",
            remedy="open the page, accept its terms if it asks for that, and log in with `huggingface-cli login` or "
            "HF_TOKEN",
        )
    if status in (404, 410):
        return NotOnServerError(
            f"{page} does not exist (HTTP {status}).",
            expected="the published file",
            remedy="if you use a mirror, it may lack this file: try without; else it was moved: look at the page",
        )
    return ServerError(f"{page} cannot be had now (HTTP {status}).", expected="the file", remedy=LATER)


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Without compression, so that sizes and ranges mean the file itself."""
    return {**headers, "Accept-Encoding": "identity"}


def _transport_errors() -> tuple[type[Exception], ...]:
    """The errors that the Hub's client raises when no answer comes: it has changed its HTTP library twice."""
    modules = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (OSError, ValueError, *(module.HTTPError for module in modules))  # OSError: requests' errors too


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
