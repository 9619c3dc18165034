"""An item of the catalogue -> its files in their place: verified, resumed, and never over a file that is there."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Event

from filelock import FileLock

from facesnap.errors import ChecksumError, DownloadError, LicenceError
from facesnap.faces.known import OWN, File, Item
from facesnap.files import cached_sha256, sha256_of
from facesnap.remedies import remedy
from facesnap.weights import transfer
from facesnap.weights.folders import Folders
from facesnap.weights.transfer import Remote
from facesnap.weights.unpack import unpack

logger = logging.getLogger(__name__)

GITHUB = "https://github.com"
NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
SPARE = 64 << 20  # bytes that stay free


@dataclass(frozen=True)
class Progress:
    """How far a download is.

    Attributes:
        file: that is being fetched, of `files`, the `number`-th. done, total: bytes of it; total 0 while unknown.
    """

    file: str
    number: int
    files: int
    done: int
    total: int


Report = Callable[[Progress], None]


def _silent(_: Progress) -> None:
    return None


def target(file: File, folders: Folders) -> Path:
    """Where a file of the catalogue goes; for a zip the folder of its content."""
    first, *rest = PurePosixPath(file.to).parts
    return folders.own.joinpath(*rest) if first == OWN else folders.models.joinpath(first, *rest)


def is_there(item: Item, folders: Folders) -> bool:
    """Whether every file of an item lies in its place; nothing is opened."""
    return all(_is_there(target(file, folders), file) for file in item.files)


def fetch(
    item: Item,
    folders: Folders,
    accept: bool = False,
    progress: Report | None = None,
    *,
    mirror: str = "",
    stop: Event | None = None,
) -> Path:
    """Fetch what is missing of an item. Any number of threads and processes may do so at once.

    Args:
        folders: where files go; they are made where they are missing.
        accept: the user has read and accepted `item.licence`.
        progress: is called from this thread with every block.
        mirror: address that stands for https://huggingface.co, or for https://github.com of packs.
        stop: set it to stop; what has arrived is kept.

    Returns:
        the first file of the item, or the folder of a pack.

    Raises:
        LicenceError: not accepted. ChecksumError: not the published file, or another one is in its place.
        NotOnServerError, AccessError, ServerError, DiskFullError, StoppedError. DownloadError: the folder cannot be
            written to.
    """
    require_consent(item, accept)
    stop, report = stop or Event(), progress or _silent
    targets = [target(file, folders) for file in item.files]
    try:
        for n, (file, place) in enumerate(zip(item.files, targets, strict=True), 1):

            def advance(done: int, total: int, file: File = file, n: int = n) -> None:
                report(Progress(file.name, n, len(item.files), done, total))

            with _lock(place, folders):
                if _is_there(place, file):
                    _check_existing(place, file)
                    logger.info("%s is there", place)
                else:
                    _fetch(item, file, place, advance, mirror, stop)
                    logger.info("%s: done", place)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise transfer.full(targets[0].parent, 0) from error
        raise DownloadError(
            f"{item.title} cannot be written to {targets[0].parent} ({error}).",
            expected="a folder that you may write to",
            remedy=f"correct its permissions, or {remedy('choose another folder')}",
        ) from error
    return targets[0].parent if item.kind == "pack" and not item.files[0].unpack else targets[0]


def require_consent(item: Item, accept: bool) -> None:
    """Raise a LicenceError where the user has not accepted the licence of an item."""
    if not accept:
        raise LicenceError(
            f"The licence of {item.title} was not accepted: {item.licence}.",
            expected=f"your consent to it (see {item.page})",
            remedy=remedy("accept the licence", name=item.name),
        )


def _lock(place: Path, folders: Folders) -> FileLock:
    """One download of a file at a time, in this process and others; the second then finds it there."""
    folder = folders.own / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(str(folder / f"{hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:16]}.lock"))


def _is_there(place: Path, file: File) -> bool:
    return any(not one.name.startswith(".") for one in place.glob("**/*.onnx")) if file.unpack else place.exists()


def _check_existing(place: Path, file: File) -> None:
    """A file of that name is never touched: it verifies, or the user decides."""
    known = {place / name: sha256 for name, sha256 in file.inside.items()} if file.unpack else {place: file.sha256}
    for path, sha256 in known.items():
        if not path.is_file():  # a pack as insightface unpacks it, with a folder in the folder
            continue
        size = path.stat().st_size
        wrong_size = not file.unpack and file.size is not None and size != file.size
        if wrong_size or (sha256 and cached_sha256(path) != sha256):
            raise ChecksumError(
                f"{path} is there ({size} bytes), but it is not the published file.",
                expected=f"{file.size or size} bytes with the sha256 {sha256[:16]}...",
                remedy="move it away or delete it, then run the download again; FaceSnap never overwrites a file",
            )


def _fetch(item: Item, file: File, place: Path, advance: Callable[[int, int], None], mirror: str, stop: Event) -> None:
    remote = _remote(item, file, mirror)
    place.parent.mkdir(parents=True, exist_ok=True)
    archive = place.with_name(file.name)
    # The tag in the name: a part of another version of the file is never continued.
    tag = hashlib.sha256(f"{remote.tag} {remote.size}".encode()).hexdigest()[:8]
    part = archive.with_name(f"{archive.name}.{tag}.part")
    for old in archive.parent.glob(f"{archive.name}.*.part"):
        if old != part:
            old.unlink()
    _check_room(part, remote, file)
    transfer.receive(remote, part, lambda done: advance(done, remote.size or 0), stop)
    try:
        _verify(part, file, remote, stop)
        if file.unpack:
            unpack(part, place, file.inside, stop)
            part.unlink()
        else:
            part.rename(place)
    except ChecksumError:
        part.unlink(missing_ok=True)  # to go on from it would give the same again
        raise


def _remote(item: Item, file: File, mirror: str) -> Remote:
    if not item.repository:
        address = file.source.replace(GITHUB, mirror.rstrip("/"), 1) if mirror else file.source
        return transfer.probe(address)
    remote = transfer.locate(item.repository, file.source, item.revision, mirror)
    other_size = file.size is not None and remote.size is not None and remote.size != file.size
    if other_size or (file.sha256 and remote.sha256 and remote.sha256 != file.sha256):
        raise ChecksumError(
            f"{remote.page} is another file now ({remote.size} bytes, sha256 {remote.sha256[:16] or 'unknown'}).",
            expected=f"{file.size or 'the published'} bytes, sha256 {file.sha256[:16]}",
            remedy="update FaceSnap, whose catalogue is older than the file; or do not use this mirror",
        )
    return remote


def _check_room(part: Path, remote: Remote, file: File) -> None:
    there = part.stat().st_size if part.exists() else 0
    size = remote.size if remote.size is not None else int(file.megabytes * 1e6)
    needed = max(size - there, 0) + (size if file.unpack else 0) + SPARE
    if shutil.disk_usage(part.parent).free < needed:
        raise transfer.full(part.parent, needed)


def _verify(part: Path, file: File, remote: Remote, stop: Event) -> None:
    size = part.stat().st_size
    expected_size = file.size if file.size is not None else remote.size
    expected = file.sha256 or remote.sha256
    found = sha256_of(part, stop) if expected else ""
    if found != expected or (expected_size is not None and size != expected_size):
        raise ChecksumError(
            f"What {remote.page} sent is not the published file ({size} bytes, sha256 {found[:16] or 'unknown'}).",
            expected=f"{expected_size or size} bytes, sha256 {expected[:16] or 'unknown'}",
            remedy=f"it was removed; {remedy('download from elsewhere')}",
        )


def describe_state(item: Item, folders: Folders) -> str:
    """For people: "there" or "missing", or what is wrong with what is there (this reads the files)."""
    if not is_there(item, folders):
        return "missing"
    try:
        for file in item.files:
            _check_existing(target(file, folders), file)
    except DownloadError as error:
        return error.what
    return "there"
