"""Downloads in threads, for an interface that asks now and then how far they are."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from facesnap.errors import FaceSnapError
from facesnap.faces.known import Item
from facesnap.weights.catalogue import find
from facesnap.weights.fetch import Progress, fetch, require_consent
from facesnap.weights.folders import Folders

logger = logging.getLogger(__name__)

RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass(frozen=True)
class DownloadState:
    """How a download is doing.

    Attributes:
        name: of the item. state: "running", "done" or "failed". progress: of the file that is being fetched.
        path: what was fetched. error: for people, where it failed.
    """

    name: str
    state: str
    progress: Progress | None = None
    path: Path | None = None
    error: str = ""

    def __str__(self) -> str:
        if self.state != RUNNING or self.progress is None:
            return self.error or {RUNNING: "asking the server", DONE: "done"}.get(self.state, self.state)
        p = self.progress
        share = f", {p.done / p.total:.0%}" if p.total else ""
        return f"{p.file} ({p.number} of {p.files}): {p.done / 1e6:.0f} MB{share}"


class Downloads:
    """Every download of one process, one thread for each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, DownloadState] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, folders: Folders, accept: bool, mirror: str = "") -> DownloadState:
        """Begin; a download that is running already goes on.

        Args:
            accept: the user ticked that the licence shown is accepted.

        Raises:
            SettingsError: there is no such item. LicenceError: not accepted.
        """
        item = find(name)
        require_consent(item, accept)
        with self._lock:
            running = self._states.get(item.name)
            if running is not None and running.state == RUNNING:
                return running
            state = self._states[item.name] = DownloadState(item.name, RUNNING)
            thread = threading.Thread(
                target=self._run, args=(item, folders, mirror), name=f"facesnap-{item.name}", daemon=True
            )
            self._threads[item.name] = thread
            thread.start()
            return state

    def wait(self, name: str, seconds: float | None = None) -> DownloadState:
        """Wait for the end of one, at most so long. Raises KeyError where it was never started."""
        with self._lock:
            thread = self._threads[find(name).name]
        thread.join(seconds)
        with self._lock:
            return self._states[find(name).name]

    def _run(self, item: Item, folders: Folders, mirror: str) -> None:
        try:
            path = fetch(item, folders, True, partial(self._update, item.name, RUNNING), mirror=mirror)
        except (FaceSnapError, OSError) as error:
            logger.warning("%s: %s", item.name, error)
            self._update(item.name, FAILED, error=str(error))
        except BaseException as error:  # an interface that waits must hear of it
            self._update(item.name, FAILED, error=f"{type(error).__name__}: {error}")
            raise
        else:
            self._update(item.name, DONE, path=path)

    def _update(
        self, name: str, state: str, progress: Progress | None = None, path: Path | None = None, error: str = ""
    ) -> None:
        with self._lock:
            self._states[name] = DownloadState(name, state, progress, path, error)
