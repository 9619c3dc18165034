"""One hierarchy of errors; every message names the thing, what was expected and the remedy."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from facesnap import remedies


class FaceSnapError(Exception):
    """Base of every error that FaceSnap raises on purpose.

    Args:
        what: the thing that went wrong, by name (file, face, tensor, site, option).
        expected: what would have been right.
        remedy: what the user can do about it.
        details: what was tried or found on the way, for those who look into it; not part of the message.
    """

    def __init__(self, what: str, *, expected: str, remedy: str, details: str = "") -> None:
        self.what, self.expected, self.remedy, self.details = what, expected, remedy, details
        parts = (what, f"Expected: {expected}", f"Remedy: {remedy}")
        super().__init__(" ".join(part.rstrip(".") + "." for part in parts))

    def __reduce__(self) -> tuple[Any, ...]:  # keyword arguments are not among an exception's own
        again = partial(type(self), expected=self.expected, remedy=self.remedy, details=self.details)
        return again, (self.what,), dict(vars(self))


class PictureError(FaceSnapError):
    """A file is not a picture that can be read safely."""


class TooLargeError(PictureError):
    """A picture, or all pictures of a request together, hold too many pixels or bytes."""


class NoFaceError(FaceSnapError):
    """No face, or not the face asked for, was found in a picture."""


class PackError(FaceSnapError):
    """A face-analysis pack (insightface ONNX files) is missing or unusable."""


class EncoderError(FaceSnapError):
    """A CLIP image encoder file is missing or unusable."""


class IdentityMismatchError(FaceSnapError):
    """An identity was made with another recogniser or encoder than the one needed."""


class LandmarkError(FaceSnapError):
    """Landmarks cannot be detected, fitted or drawn."""


class CheckpointError(FaceSnapError):
    """A checkpoint or identity file is damaged, of another kind, or does not fit."""


class UnknownIdentityError(CheckpointError):
    """There is no saved identity of a name."""


class UnknownAdapterError(CheckpointError):
    """There is no adapter of a name."""


class MissingWeightsError(CheckpointError):
    """No file of this machine is the checkpoint that is needed."""


class TopologyError(FaceSnapError):
    """A UNet is not of a layout that FaceSnap can attach to."""


class AttachError(FaceSnapError):
    """The attachment did not take, or its rows do not fit the UNet call."""


class SettingsError(FaceSnapError):
    """A setting is out of its range or does not fit the others."""


class UnusableSettingError(SettingsError):
    """A setting was asked of an adapter that cannot use it, and such settings are to be refused."""


class NameTakenError(SettingsError):
    """Something of this name exists already."""


class MissingDependencyError(FaceSnapError):
    """A Python package that this action needs is missing, broken or doubled."""


class HostError(FaceSnapError):
    """The Stable Diffusion model or its host cannot be loaded or driven."""


class DownloadError(FaceSnapError):
    """Weights cannot be fetched."""


class LicenceError(DownloadError):
    """The licence of weights was not accepted."""


class NotOnServerError(DownloadError):
    """The server does not have the file."""


class AccessError(DownloadError):
    """The server wants a login, or terms accepted on its page."""


class ServerError(DownloadError):
    """The server cannot be reached, or broke off."""


class ChecksumError(DownloadError):
    """A file is not the one that was published."""


class DiskFullError(DownloadError):
    """There is no room for the file."""


class StoppedError(DownloadError):
    """The user stopped the download."""


Kept = TypeVar("Kept", bound=BaseException)


def clear_frames(error: BaseException) -> None:
    """Let the tracebacks of an error, and of those behind it, hold no objects: functions that have ended lose their
    local variables. The lines stay."""
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)


def to_keep(error: Kept) -> Kept:
    """The error itself without any traceback, for whoever keeps it: a frame holds everything that its function had,
    adapters and pictures among it."""
    for one in _chain(error):
        one.__traceback__ = None
    return error


def again(error: Kept) -> Kept:
    """A copy of a kept error to be raised, so that the kept one holds none of the frames that it passes."""
    try:
        made = copy.copy(error)
    except TypeError:  # a class whose arguments are not those that its objects keep
        made = type(error).__new__(type(error), *error.args)
        vars(made).update(vars(error))
    made.__cause__ = error.__cause__
    return made


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, each once."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if any(one is other for other in seen):
            continue
        seen.append(one)
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        yield one


@contextmanager
def importing(what: str, expected: str, remedy: str = "") -> Iterator[None]:
    """Raise a MissingDependencyError with these words where an import inside fails.

    Args:
        what: without a full stop. remedy: by default the one for packages that face analysis needs.
    """
    try:
        yield
    except ImportError as error:
        remedy = remedy or remedies.remedy("look after packages")
        raise MissingDependencyError(f"{what} ({error}).", expected=expected, remedy=remedy) from error


UNAVAILABLE = (PackError, EncoderError, MissingWeightsError, MissingDependencyError, DownloadError)


def refusal(error: Exception) -> Exception:
    """The same error, dressed for the WebUIs' API, which reads the instance's `status_code` and `detail`.

    503 where weights, a pack or a package are missing, 413 where pictures are too large, 422 for every other
    FaceSnapError, 500 for the rest.
    """
    if isinstance(error, FaceSnapError):
        status = 503 if isinstance(error, UNAVAILABLE) else 413 if isinstance(error, TooLargeError) else 422
        vars(error).update(status_code=status, detail=str(error))
    return error
