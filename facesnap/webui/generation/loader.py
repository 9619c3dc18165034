"""Settings -> what is attached. Adapters, packs, encoders and identities stay loaded between generations."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facesnap.attach import Speed, Topology
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import IdentityMismatchError, MissingDependencyError, MissingWeightsError, PackError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder_search import encoder_of
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import AnalysedIdentity
from facesnap.faces.known import advice
from facesnap.faces.packs import Pack, find_pack, installed_packs, pack_parents
from facesnap.faces.recognisers import RECOGNISERS, require_named
from facesnap.faces.tower import load_encoder
from facesnap.families.base import NATIVE
from facesnap.families.registry import load_adapter
from facesnap.hosts.base import Parts
from facesnap.pipeline.pipeline import CACHE_BYTES, FaceSnapPipeline
from facesnap.settings.model import SETTINGS, Person, Settings
from facesnap.webui.generation.people import person_for, reference_names
from facesnap.weights.adapters import entries
from facesnap.weights.folders import Folders, find_adapter, list_adapters
from facesnap.weights.identities import IdentityStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One generation's people on one kind of UNet.

    Attributes:
        parts: what is attached. pipeline: whose adapter they were made with. people: in the settings' order.
        doubts: of each person, why its face or landmarks deserve little confidence.
    """

    parts: Parts
    pipeline: FaceSnapPipeline
    people: tuple[AnalysedIdentity, ...]
    doubts: tuple[tuple[str, ...], ...]


class PipelineLoader:
    """Everything that generations share in one process. Safe for several threads, which wait for each other.

    Args:
        folders: gives the folders of models as they are set now.
        options: gives the settings page's options as they are now; see `facesnap.webui.options.values`.
        cache_bytes: bound on what is kept between generations.
    """

    def __init__(
        self,
        folders: Callable[[], Folders],
        options: Callable[[], Mapping[str, Any]],
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.folders, self.options, self.cache_bytes = folders, options, cache_bytes
        self._pipeline: tuple[tuple[Any, ...], FaceSnapPipeline] | None = None
        self._analyser: tuple[tuple[Path, str], FaceAnalyser] | None = None
        self._encoder: tuple[tuple[Path, int], FaceEncoder] | None = None
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
            FaceSnapError: an adapter, pack, encoder, face, identity or pose is missing or does not fit.
        """
        settings.require_people()
        with self._lock:
            sees_faces = any(one.references or one.pose.source in ("picture", "init") for one in settings.people)
            pipeline = self.pipeline(settings.adapter, topology, sees_faces)
            card = settings.model_card
            known = [self.seen(pipeline, person, n, card) for n, person in enumerate(settings.people, 1)]
            wanted = [person_for(person, n, pipeline.adapter, init) for n, person in enumerate(settings.people, 1)]
            if not pipeline.family.modes:  # PuLID's, of which another adapter takes no notice here
                settings = replace(settings, pulid_mode=SETTINGS["pulid_mode"].default)
            return _prepared(pipeline, known, wanted, settings, size)

    def pipeline(self, name: str, topology: Topology, sees_faces: bool = True) -> FaceSnapPipeline:
        """The pipeline of an adapter, loaded once as long as the file and the packs stay as they are.

        Args:
            sees_faces: whether photos will be analysed; saved identities alone need no pack.
        """
        with self._lock:
            file = self._file(name, topology.base)
            options = self.options()
            place = (options["facesnap_pack"], options["facesnap_provider"])
            key = (file, file.stat().st_mtime_ns, topology.sizes, *place)
            kept = self._pipeline
            if kept is not None and kept[0] == key and (kept[1].analyser is not None or not sees_faces):
                return kept[1]
            self._pipeline = None  # free the former adapter before the next is read
            adapter = load_adapter(file, topology=topology)
            adapter.check_unet(topology)
            analyser = self._analyser_of(adapter, sees_faces)
            self._pipeline = (key, FaceSnapPipeline(adapter, analyser, self._encoder_of(adapter), self.cache_bytes))
            return self._pipeline[1]

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

    def identity(self, adapter: str, topology: Topology, person: Person, number: int) -> AnalysedIdentity:
        """A person with everything that an adapter needs: the recogniser's vector, CLIP's states, landmarks. Raises
        what `prepare` raises."""
        return self.seen(self.pipeline(adapter, topology), person, number)

    def analyser(self, adapter: Adapter | None = None) -> FaceAnalyser:
        """The analyser of the pack that the settings page names or, for an adapter, of one with its recogniser.

        Raises:
            PackError: there is none. MissingDependencyError: insightface is missing.
        """
        with self._lock:
            options, folders = self.options(), self.folders()
            if adapter is None:
                pack = find_pack(options["facesnap_pack"], folders.packs)
            else:
                pack = _pack_of(adapter, self._packs(options["facesnap_pack"], folders), folders)
            key = (pack.folder, options["facesnap_provider"])
            if self._analyser is None or self._analyser[0] != key:
                self._analyser = (key, FaceAnalyser(pack.folder, options["facesnap_provider"]))
            return self._analyser[1]

    def _packs(self, preferred: str, folders: Folders) -> Iterator[Pack]:
        """The settings page's pack first, then all others."""
        try:
            yield find_pack(preferred, folders.packs)
        except PackError as error:
            logger.debug("%s", error)
        yield from installed_packs(folders.packs)

    def _file(self, name: str, base: str) -> Path:
        """An adapter's file by name or hash; without a name the first that fits the base model, our own before
        others, those with all they need before those without."""
        folders = self.folders()
        if name:
            return find_adapter(name, list_adapters(folders)).path
        listed = entries(folders, base)
        fitting = [one for one in listed if one.fits and one.base == base and one.family]
        if not fitting:
            raise MissingWeightsError(
                f"There is no adapter for {base} among {len(listed)} adapters.",
                expected=f"an adapter made for {base} in one of: {', '.join(map(str, folders.adapters))}",
                remedy="put one there (`facesnap download --list` names public ones) and refresh the list of models, "
                "or choose another base model",
            )
        return min(fitting, key=lambda one: (any(n.there is False for n in one.needs), one.family != NATIVE)).path

    def _encoder_of(self, adapter: Adapter) -> FaceEncoder | None:
        if not adapter.levels:
            return None
        file = encoder_of(adapter.spec.encoder, adapter.spec.encoder_name, self.folders().packs)
        key = (file, file.stat().st_mtime_ns)
        if self._encoder is None or self._encoder[0] != key:
            self._encoder = None
            self._encoder = (key, load_encoder(file, self.folders().packs))
        return self._encoder[1]


def _prepared(
    pipeline: FaceSnapPipeline,
    analysed: Sequence[AnalysedIdentity],
    wanted: Sequence[Person],
    settings: Settings,
    size: tuple[int, int],
) -> Prepared:
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
    parts = Parts(people, controls, Speed(settings.speed), pipeline.loras(wanted), owners)
    return Prepared(parts, pipeline, tuple(analysed), tuple(doubts))


def _pack_of(adapter: Adapter, packs: Iterator[Pack], folders: Folders) -> Pack:
    """The first pack whose recogniser the adapter was trained with; any, where it sees no recogniser's vector."""
    spec, tried = adapter.spec, []
    for pack in packs:
        if spec.recogniser:
            fits = pack.recogniser_sha256 == spec.recogniser
        else:
            fits = not adapter.needs_recogniser or _is_named(pack, spec.recogniser_name)
        if fits:
            return pack
        tried.append(pack.name)
    places = ", ".join(map(str, pack_parents(folders.packs)))
    name, otherwise = spec.recogniser_name, "download that pack and unpack it there"
    raise PackError(
        f"No pack has the recogniser of the adapter '{spec.name}' (packs found: {', '.join(tried) or 'none'}).",
        expected=f"the pack with {name or spec.recogniser[:10]} in one of: {places}",
        remedy=advice(RECOGNISERS[name].packs[0], otherwise) if name in RECOGNISERS else otherwise,
    )


def _is_named(pack: Pack, name: str) -> bool:
    try:
        require_named("", pack.recogniser_sha256, pack.name, name)
    except IdentityMismatchError:
        return False
    return True
