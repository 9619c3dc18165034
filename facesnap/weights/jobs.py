"""Downloads in threads, for an interface that asks now and then how far they are."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from facesnap.errors import FaceSnapError
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
        seconds: since the start. path: what was fetched. error: for people, where it failed.
    """

    name: str
    state: str
    progress: Progress | None = None
    seconds: float = 0.0
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
        self._stops: dict[str, threading.Event] = {}
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
            stop = self._stops[item.name] = threading.Event()
            state = self._states[item.name] = DownloadState(item.name, RUNNING)
            arguments = (item.name, folders, mirror, stop)
            thread = threading.Thread(target=self._run, args=arguments, name=f"facesnap-{item.name}", daemon=True)
            self._threads[item.name] = thread
            thread.start()
            return state

    def states(self) -> list[DownloadState]:
        """Of all that were started, in that order."""
        with self._lock:
            return list(self._states.values())

    def stop(self, name: str) -> None:
        """Stop one; what has arrived is kept for the next start."""
        with self._lock:
            if event := self._stops.get(find(name).name):
                event.set()

    def wait(self, name: str, seconds: float | None = None) -> DownloadState:
        """Wait for the end of one, at most so long. Raises KeyError where it was never started."""
        with self._lock:
            thread = self._threads[find(name).name]
        thread.join(seconds)
        with self._lock:
            return self._states[find(name).name]

    def _run(self, name: str, folders: Folders, mirror: str, stop: threading.Event) -> None:
        started = time.monotonic()

        def report(progress: Progress) -> None:
            self._update(name, progress=progress, seconds=time.monotonic() - started)

        try:
            path = fetch(find(name), folders, True, report, mirror=mirror, stop=stop)
        except (FaceSnapError, OSError) as error:
            logger.warning("%s: %s", name, error)
            self._update(name, state=FAILED, error=str(error), seconds=time.monotonic() - started)
        except BaseException as error:  # an interface that waits must hear of it
            self._update(name, state=FAILED, error=f"{type(error).__name__}: {error}")
            raise
        else:
            self._update(name, state=DONE, path=path, seconds=time.monotonic() - started)

    def _update(self, name: str, **changes: object) -> None:
        with self._lock:
            self._states[name] = replace(self._states[name], **changes)  # type: ignore[arg-type]
