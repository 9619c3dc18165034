"""Leavings of a download in the place of weights: empty files, pages and messages of servers, pointers of git-lfs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from facesnap.remedies import remedy

HEAD_BYTES = 512
MOST_TEXT_BYTES = 1 << 20  # of a message; pages may be longer
LFS = b"version https://git-lfs"


class Fault(NamedTuple):
    """Why a file holds no weights, as a clause, and what to do."""

    reason: str
    remedy: str

    @property
    def adapter_remedy(self) -> str:
        """What to do where the file was to be an adapter."""
        return f"{self.remedy}; {remedy('see what can be downloaded')}"


def fault_of(path: Path) -> Fault | None:
    """The fault of a file that holds no weights whatever its name is; None for every other, damaged ones too.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_symlink() and not path.exists():
        return Fault(f"it is a link to {path.readlink()}, which is not there", "copy the file itself here")
    size = path.stat().st_size
    if not size:
        return Fault("it is empty, of 0 bytes: its download never began", "remove it and fetch it again")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.strip(b"\0"):
        return Fault("it begins with zeros: its download never finished", "remove it and fetch it again")
    if head.startswith(LFS):
        return Fault(
            "it is a pointer of git-lfs, not the file itself",
            "run `git lfs pull` in the folder that was cloned, or fetch the file itself",
        )
    text = _text(head)
    again = "fetch it again; servers answer so where they want a login or accepted terms, or the address is wrong"
    if text[:1] in ("<", "{"):
        return Fault("it is a web page or a message of a server", again)
    if text and size <= MOST_TEXT_BYTES:
        return Fault(f"it is a text ({text.splitlines()[0][:60]!r}), perhaps a message of a server", again)
    return None


def _text(head: bytes) -> str:
    """The beginning of a text without what stands before its first word; "" where it is none."""
    for code in ("utf-16", "utf-8-sig") if head.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig",):
        text = head.decode(code, "ignore").strip()  # a letter may be cut at the end
        if text and all(letter.isprintable() or letter.isspace() for letter in text):
            return text
    return ""
