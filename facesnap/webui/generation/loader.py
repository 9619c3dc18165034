"""Settings -> what is attached. Adapters, packs, encoders and identities stay loaded between generations."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facesnap.attach import Speed, Topology
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import MissingDependencyError, MissingWeightsError, PackError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder_search import encoder_of
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import AnalysedIdentity
from facesnap.faces.known import BASE_TITLES
from facesnap.faces.packs import Pack
from facesnap.faces.tower import load_encoder
from facesnap.families.registry import load_adapter
from facesnap.hosts.base import Parts
from facesnap.hosts.webui import ChosenModel
from facesnap.pipeline.pipeline import CACHE_BYTES, FaceSnapPipeline
from facesnap.pipeline.usable import usable
from facesnap.remedies import remedy
from facesnap.settings.model import Person, Settings
from facesnap.webui.generation.people import person_for, reference_names
from facesnap.weights.adapters import chosen
from facesnap.weights.folders import Folders, choose_adapter, list_adapters
from facesnap.weights.identities import IdentityStore
from facesnap.weights.packs import WantedRecogniser, needed_pack, viewing_pack

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One generation's people on one kind of UNet.

    Attributes:
        parts: what is attached. pipeline: whose adapter they were made with.
        settings: those that the adapter can use. notes: on the others. people: in the settings' order.
        doubts: of each person, why its face or landmarks deserve little confidence.
    """

    parts: Parts
    pipeline: FaceSnapPipeline
    settings: Settings
    notes: tuple[str, ...]
    people: tuple[AnalysedIdentity, ...]
    doubts: tuple[tuple[str, ...], ...]


class Borrower(Protocol):
    """Whoever holds parts of the adapter that is loaded."""

    def let_go(self) -> None:
        """Give them back: another adapter is about to be read."""


class PipelineLoader:
    """Everything that generations share in one process. Safe for several threads, which wait for each other.

    Args:
        folders: gives the folders of models as they are set now.
        options: gives the settings page's options as they are now; see `facesnap.webui.options.values`.
        cache_bytes: bound on what is kept between generations.
        on_replaced: called when an adapter has been given up and before the next is read.
    """

    def __init__(
        self,
        folders: Callable[[], Folders],
        options: Callable[[], Mapping[str, Any]],
        cache_bytes: int = CACHE_BYTES,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_replaced = on_replaced
        self.folders, self.options, self.cache_bytes = folders, options, cache_bytes
        self._pipeline: tuple[tuple[Any, ...], FaceSnapPipeline] | None = None
        self._analyser: tuple[tuple[Path, str], FaceAnalyser] | None = None
        self._encoder: tuple[tuple[Path, int], FaceEncoder] | None = None
        self._borrowers: weakref.WeakSet[Borrower] = weakref.WeakSet()
        self._lock = threading.RLock()

    @property
    def latest(self) -> FaceSnapPipeline | None:
        """The pipeline of the last generation."""
        kept = self._pipeline
        return None if kept is None else kept[1]

    def prepare(
        self,
        settings: Settings,
        topology: Topology,
        size: tuple[int, int] = (512, 512),
        init: np.ndarray | None = None,
    ) -> Prepared:
        """The parts that these settings attach to a UNet of this topology. Networks and tensors are on the CPU.

        Args:
            settings: with every picture as an array (see `photos.resolve`).
            size: (width, height) of the whole picture. init: the picture that img2img starts from, or None.

        Raises:
            UnusableSettingError: the settings are strict, and the adapter cannot use one.
            FaceSnapError: an adapter, pack, encoder, face, identity or pose is missing or does not fit.
        """
        settings.require_people()
        with self._lock:
            model = ChosenModel(base=topology.base, topology=topology)
            pipeline = self.pipeline(settings.adapter, model, lambda adapter: _sees_faces(settings, adapter))
            settings, notes = usable(settings, pipeline.adapter)
            card = settings.model_card
            known = [self.seen(pipeline, person, n, card) for n, person in enumerate(settings.people, 1)]
            wanted = [person_for(person, n, init) for n, person in enumerate(settings.people, 1)]
            parts, doubts = _parts(pipeline, known, wanted, settings, size)
            return Prepared(parts, pipeline, settings, notes, tuple(known), doubts)

    def pipeline(
        self, name: str, model: ChosenModel, sees_faces: Callable[[Adapter], bool] = lambda adapter: True
    ) -> FaceSnapPipeline:
        """The pipeline of an adapter, loaded once as long as the file and the packs stay as they are.

        Args:
            model: that it is for; whether the adapter fits is known where the model is loaded.
            sees_faces: whether photos will be analysed with an adapter; saved identities alone need no pack.
        """
        with self._lock:
            file, family = self._file(name, model.base)
            options, topology = self.options(), model.topology
            place = (options["facesnap_pack"], options["facesnap_provider"])
            key = (file, family, file.stat().st_mtime_ns, topology and topology.sizes, *place)
            kept = self._pipeline
            if kept is not None and kept[0] == key and (kept[1].analyser or not sees_faces(kept[1].adapter)):
                return kept[1]
            del kept
            self._make_room()
            adapter = load_adapter(file, family or None, topology)
            if topology is not None:
                adapter.check_unet(topology)
            analyser = self._analyser_of(adapter, sees_faces(adapter))
            self._pipeline = (key, FaceSnapPipeline(adapter, analyser, self._encoder_of(adapter), self.cache_bytes))
            return self._pipeline[1]

    def lend(self, borrower: Borrower) -> None:
        """Remember, weakly, who holds parts of the adapter, so that it can be freed before the next is read."""
        with self._lock:
            self._borrowers.add(borrower)

    def _make_room(self) -> None:
        """Free the adapter: with the one that is read next, memory might not hold both."""
        self._pipeline = None
        for borrower in list(self._borrowers):
            borrower.let_go()
        self._borrowers.clear()
        self.on_replaced()

    def _analyser_of(self, adapter: Adapter, sees_faces: bool) -> FaceAnalyser | None:
        try:
            return self.analyser(adapter)
        except (PackError, MissingDependencyError) as error:
            if sees_faces:
                raise
            logger.info("%s", error)
            return None

    def seen(
        self, pipeline: FaceSnapPipeline, person: Person, number: int, match_model_card: bool = False
    ) -> AnalysedIdentity:
        """The identity of a person whose photos are arrays; they are analysed once as long as they are the same."""
        if person.identity:
            return AnalysedIdentity(IdentityStore(self.folders().identities).load(person.identity))
        names = reference_names(person, number)
        return pipeline.analyse(person.references, person.face, f"person {number}", names, match_model_card)

    def identity(self, adapter: str, model: ChosenModel, person: Person, number: int) -> AnalysedIdentity:
        """A person with everything that an adapter needs: the recogniser's vector, CLIP's states, landmarks. The model
        need not be loaded. Raises what `prepare` raises."""
        return self.seen(self.pipeline(adapter, model), person, number)

    def analyser(self, adapter: Adapter) -> FaceAnalyser:
        """The analyser of a pack with an adapter's recogniser; see `facesnap.weights.packs`.

        Raises:
            PackError: there is none. MissingDependencyError: insightface is missing.
        """
        spec = adapter.spec
        wanted = WantedRecogniser(spec.recogniser, spec.recogniser_name)
        with self._lock:
            pack = needed_pack(spec.name, wanted, self.options()["facesnap_pack"], self.folders().packs)
            return self._kept_analyser(pack)

    def viewer(self, name: str, base: str | None) -> FaceAnalyser:
        """The analyser to look at photos with, before anything is generated: that of the generation, if there is one.

        Args:
            name: of the adapter, "" for the one that is found by itself. base: of the loaded model, or None.

        Raises:
            PackError: there is no pack. MissingDependencyError: insightface is missing.
            CheckpointError: there is no adapter of that name.
        """
        with self._lock:
            folders = self.folders()
            return self._kept_analyser(pack_to_view(name, base, self.options()["facesnap_pack"], folders))

    def _kept_analyser(self, pack: Pack) -> FaceAnalyser:
        key = (pack.folder, self.options()["facesnap_provider"])
        if self._analyser is None or self._analyser[0] != key:
            self._analyser = (key, FaceAnalyser(*key))
        return self._analyser[1]

    def _file(self, name: str, base: str | None) -> tuple[Path, str]:
        """An adapter's file by name or hash, and its family where the name says it; or of the one that is found by
        itself."""
        folders = self.folders()
        if name:
            file, family = choose_adapter(name, list_adapters(folders))
            return file.path, family
        found = chosen("", folders, base)
        if found is None:
            title = BASE_TITLES.get(base or "", base or "any model")
            raise MissingWeightsError(
                f"There is no adapter for {title} among {len(list_adapters(folders))} adapters.",
                expected=f"an adapter made for {title} in one of: {', '.join(map(str, folders.adapters))}",
                remedy=f"put one there ({remedy('see what can be downloaded')}) and refresh the list of models, "
                "or choose another base model",
            )
        return found.path, ""

    def _encoder_of(self, adapter: Adapter) -> FaceEncoder | None:
        if not adapter.levels:
            return None
        file = encoder_of(adapter.spec.encoder, adapter.spec.encoder_name, self.folders().packs)
        key = (file, file.stat().st_mtime_ns)
        if self._encoder is None or self._encoder[0] != key:
            self._encoder = None
            self._encoder = (key, load_encoder(file, self.folders().packs))
        return self._encoder[1]


def _sees_faces(settings: Settings, adapter: Adapter) -> bool:
    people = usable(replace(settings, strict=False), adapter)[0].people
    return any(one.references or one.pose.source in ("picture", "init") for one in people)


def _parts(
    pipeline: FaceSnapPipeline,
    analysed: Sequence[AnalysedIdentity],
    wanted: Sequence[Person],
    settings: Settings,
    size: tuple[int, int],
) -> tuple[Parts, tuple[tuple[str, ...], ...]]:
    """What is attached, and the doubts about each person."""
    people, controls, owners, doubts = [], [], [], []
    for n, (known, one) in enumerate(zip(analysed, wanted, strict=True)):
        people.append(pipeline.conditioning(known.identity, one, settings))
        doubtful = known.doubts
        if pipeline.adapter.ffrnet is not None:
            control = pipeline.control(known.identity, one, size, settings=settings)
            shape = pipeline.shape(known.identity, one, size)
            if control is not None:
                controls.append(control)
                owners.append(n)
            doubtful += [] if shape is None else shape.doubts
        doubts.append(tuple(dict.fromkeys(doubtful)))
    return Parts(people, controls, Speed(settings.speed), pipeline.loras(wanted), owners), tuple(doubts)


def pack_to_view(name: str, base: str | None, preferred: str, folders: Folders) -> Pack:
    """The pack to look at photos with; see `PipelineLoader.viewer`. preferred: the settings page's."""
    found = chosen(name, folders, base)
    return viewing_pack(WantedRecogniser() if found is None else found.recogniser, preferred, folders.packs)
