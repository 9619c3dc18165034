"""Where the API's pictures come from: base64 and data URLs always, files and addresses where the settings allow it.

Through the API a picture is text, through the UI a Pillow image or an array: so only text can name a file or an
address. No message gives a path or an address back: hosts print them, and a path of a photo belongs in no log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.errors import PictureError, SettingsError, TooLargeError
from facesnap.faces.picture import read_picture
from facesnap.settings.field_types import Box
from facesnap.settings.model import Person, Settings
from facesnap.webui.generation.addresses import fetch
from facesnap.webui.generation.pictures import MOST_BYTES, decode, too_many_bytes

MOST_PIXELS = 128_000_000  # of all pictures of one request
LONGEST_PATH = 1024
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]*={0,2}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
# Names that Windows takes for devices, whatever their extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)

Fetch = Callable[..., bytes]


@dataclass(frozen=True)
class Policy:
    """The places that text may name.

    Attributes:
        folders: that files may lie in; None where files are not allowed.
        addresses: whether http(s) addresses are allowed. local: also those of this machine and its networks.
        agent: the User-Agent that the host is set to.
    """

    folders: tuple[Path, ...] | None = None
    addresses: bool = False
    local: bool = False
    agent: str = ""

    @classmethod
    def of(cls, options: Mapping[str, Any], host_options: Any) -> Policy:
        """From FaceSnap's options (`facesnap.webui.options.values`) and the host's `opts`."""
        folders = None
        if options["facesnap_api_paths"]:
            lines = (line.strip() for line in str(options["facesnap_api_folders"]).splitlines())
            folders = tuple(Path(line).expanduser() for line in lines if line)
        return cls(
            folders,
            addresses=bool(options["facesnap_api_urls"]) and bool(getattr(host_options, "api_enable_requests", False)),
            local=not getattr(host_options, "api_forbid_local_requests", True),
            agent=str(getattr(host_options, "api_useragent", "") or ""),
        )


def resolve(settings: Settings, options: Mapping[str, Any], host_options: Any, fetch: Fetch = fetch) -> Settings:
    """The same settings with every picture as an RGB array (H, W, 3), read from where its text says.

    Args:
        settings: of a request. Off: given back as they are.
        options: FaceSnap's, by key. host_options: the host's `opts`.

    Raises:
        PictureError: a picture cannot be read, or not from there. SettingsError: files or addresses are not allowed.
        TooLargeError: one picture, or all together.
    """
    if not settings.enabled:
        return settings
    source = PhotoReader(Policy.of(options, host_options), fetch)
    people = tuple(_person(source, person, n) for n, person in enumerate(settings.people, 1))
    return dataclasses.replace(settings, people=people)


def decoded(person: Person, number: int) -> Person:
    """A person of the page's own controls with every picture as an RGB array; text is base64 alone, never a path.

    Args:
        number: the person's from 1, for messages.

    Raises:
        PictureError: one is no picture. TooLargeError: one picture, or all together.
    """
    return _person(PhotoReader(Policy()), person, number)


def _person(source: PhotoReader, person: Person, number: int) -> Person:
    references = tuple(
        source.picture(one, f"reference {n} of person {number}") for n, one in enumerate(person.references, 1)
    )
    region, pose = person.region, person.pose
    if region is not None and not isinstance(region, Box):
        region = source.picture(region, f"the region of person {number}")
    if pose.image is not None:
        pose = dataclasses.replace(pose, image=source.picture(pose.image, f"the pose picture of person {number}"))
    return dataclasses.replace(person, references=references, region=region, pose=pose)


class PhotoReader:
    """Reads the pictures of one request; the same text is read once."""

    def __init__(self, policy: Policy, fetch: Fetch = fetch) -> None:
        self.policy, self._fetch = policy, fetch
        self._known: dict[str, np.ndarray] = {}
        self._pixels = 0

    def picture(self, value: Any, name: str) -> np.ndarray:
        """RGB uint8 (H, W, 3) of what a client or the UI handed over; see `resolve` for what it raises."""
        if not isinstance(value, str):
            return self._counted(decode(value, name), name)
        key = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._known:
            self._known[key] = self._counted(self._read(value.strip(), name), name)
        return self._known[key]

    def _read(self, text: str, name: str) -> np.ndarray:
        if text[:5].lower() == "data:" or _BASE64.fullmatch(text):
            return decode(text, name)
        if _SCHEME.match(text):
            return read_picture(self._from_address(text, name), name=name)
        if len(text) > LONGEST_PATH:
            return decode(text, name)  # which says what is wrong with it
        return read_picture(self._from_path(text, name), name=name)

    def _counted(self, pixels: np.ndarray, name: str) -> np.ndarray:
        self._pixels += pixels.shape[0] * pixels.shape[1]
        if self._pixels > MOST_PIXELS:
            raise TooLargeError(
                f"With {name} the pictures of this request have more than {MOST_PIXELS // 1_000_000} megapixels.",
                expected=f"at most {MOST_PIXELS // 1_000_000} megapixels in all",
                remedy="scale them down; 2 megapixels each are plenty",
            )
        return pixels

    def _from_address(self, url: str, name: str) -> bytes:
        if not self.policy.addresses:
            raise SettingsError(
                f"{name} is an address, and addresses are not allowed.",
                expected="a picture as base64 or a data URL",
                remedy="encode the file as base64, or allow addresses in FaceSnap's settings and the WebUI's own "
                "('Allow http:// and https:// URLs for input images in API')",
            )
        return self._fetch(url, name, local=self.policy.local, agent=self.policy.agent)

    def _from_path(self, text: str, name: str) -> bytes:
        if self.policy.folders is None:
            raise PictureError(
                f"{name} is text, but neither base64 nor a data URL.",
                expected="a picture as base64 or a data URL",
                remedy="encode the file's bytes as base64, or allow file paths in FaceSnap's settings",
            )
        try:
            file = allowed_file(text, self.policy.folders)
            if file is None:
                raise PictureError(
                    f"{name} is not the full path of a file in an allowed folder.",
                    expected="a full path without .., of a file in a folder that FaceSnap's settings name",
                    remedy="correct the path, or add its folder to the settings",
                )
            with file.open("rb") as opened:
                content = opened.read(MOST_BYTES + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise PictureError(
                f"{name} cannot be opened ({type(error).__name__}).",
                expected="a file that can be read",
                remedy="check the file and its permissions",
            ) from None  # its text holds the path
        if len(content) > MOST_BYTES:
            raise too_many_bytes(name)
        return content


def allowed_file(text: str, folders: tuple[Path, ...]) -> Path | None:
    """The real file of a path, or None unless it lies in one of the folders, links followed.

    Refused without a look at the disk: relative paths, "..", network shares, Windows' device names, streams and
    trailing dots, and whatever names no place in a folder.
    """
    path = Path(text)
    parts = path.parts[1:] if path.is_absolute() else ()
    if not parts or text.startswith(("\\\\", "//")) or not text.isprintable():
        return None
    if any(part == ".." or part[-1] in ". " or ":" in part or _DEVICE.fullmatch(part) for part in parts):
        return None
    for folder in folders:
        root = folder.resolve()
        if not (path.is_relative_to(folder) or path.is_relative_to(root)):
            continue
        real = path.resolve()
        if real.is_relative_to(root) and real.is_file():
            return real
    return None
