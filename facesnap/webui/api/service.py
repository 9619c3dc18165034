"""Shared by the routes: the host's options and folders, and face analysis on the CPU, one request at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facesnap.errors import PackError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.packs import installed_packs
from facesnap.hosts.webui import WebUI
from facesnap.landmarks.detect import LandmarkDetector
from facesnap.landmarks.predictor import LandmarkPredictor
from facesnap.webui.api.guard import BusyError
from facesnap.webui.generation.loader import PipelineLoader, pack_to_view
from facesnap.webui.generation.photos import PhotoReader, Policy
from facesnap.webui.generation.results import RESULTS, Results
from facesnap.webui.options import values
from facesnap.weights.folders import Folders
from facesnap.weights.identities import IdentityStore

MOST_WAITING = 8  # each holds one of the forty threads that the host's own routes need too


class Turns:
    """One analysis at a time; few may wait.

    Attributes:
        turn: the lock to be held around the analysis itself.
    """

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self.turn = threading.Lock()
        self.most_waiting = most_waiting
        self._places = threading.BoundedSemaphore(most_waiting + 1)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place, for everything that is done for a request. Raises BusyError where all are taken."""
        if not self._places.acquire(blocking=False):
            raise BusyError(
                f"{self.most_waiting} analyses are waiting already.",
                expected="a place among them",
                remedy="try again in a moment",
            )
        try:
            yield
        finally:
            self._places.release()


@dataclass
class Service:
    """Everything that the routes share.

    Attributes:
        host_options: the host's `opts`. folders: gives the folders of models as they are set now.
        host, loader: those of the generations. queue: the host's lock around its generations.
        results: of the last generations. turns: of the analyses, which may run during a generation.
    """

    host_options: Any
    folders: Callable[[], Folders]
    host: Callable[[], WebUI]
    loader: Callable[[], PipelineLoader]
    queue: AbstractContextManager[Any]
    results: Results = RESULTS
    turns: Turns = field(default_factory=Turns)
    _analysers: dict[Path, FaceAnalyser] = field(default_factory=dict)
    _predictors: dict[str, LandmarkPredictor] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """FaceSnap's options by key."""
        return values(self.host_options)

    def source(self) -> PhotoReader:
        """Reads the pictures of one request."""
        return PhotoReader(Policy.of(self.options(), self.host_options))

    def store(self) -> IdentityStore:
        return IdentityStore(self.folders().identities)

    def analyser(self, adapter: str = "", recogniser: str = "") -> FaceAnalyser:
        """An analyser on the CPU, kept; to be called in one's turn.

        Args:
            adapter: whose pack looks at photos, "" for the one that is found by itself; see `facesnap.weights.packs`.
            recogniser: sha256 of the one that is needed instead.

        Raises:
            PackError: there is no such pack. CheckpointError: there is no adapter of that name.
        """
        if not recogniser:
            preferred, base = self.options()["facesnap_pack"], self.host().chosen_model().base
            return self._kept(pack_to_view(adapter, base, preferred, self.folders()).folder)
        for known in self._analysers.values():
            if known.recogniser == recogniser:
                return known
        for pack in installed_packs(self.folders().packs):
            if pack.recogniser_sha256 == recogniser:
                return self._kept(pack.folder)
        raise PackError(
            f"No pack has the recogniser {recogniser[:12]}, with which the identity was made.",
            expected="the pack that the identity was made with",
            remedy="put that pack into models/insightface/models, or make the identity anew",
        )

    def predictor(self, analyser: FaceAnalyser) -> LandmarkPredictor:
        """Landmarks by an analyser's pack; in one's turn."""
        key = str(analyser.pack.folder)
        if key not in self._predictors:
            self._predictors[key] = LandmarkPredictor(LandmarkDetector(analyser.pack.folder))
        return self._predictors[key]

    def _kept(self, folder: Path) -> FaceAnalyser:
        if folder not in self._analysers:
            self._analysers[folder] = FaceAnalyser(folder, "cpu")
        return self._analysers[folder]
