"""Settings -> what is attached. Adapters, packs, encoders and identities stay loaded between generations."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch

from facesnap.attach import Speed, Topology
from facesnap.cache import ContentCache
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import MissingWeightsError, PackError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.encoder_files import find_encoder
from facesnap.faces.identity import Identity
from facesnap.faces.packs import installed_packs, pack_parents
from facesnap.hosts.webui import Parts
from facesnap.portrait import PersonSettings, Studio
from facesnap.webui.folders import Folders, find_adapter, list_adapters
from facesnap.webui.headers import ADAPTER
from facesnap.webui.identities import IdentityStore
from facesnap.webui.pictures import decode, digest
from facesnap.webui.settings import Box, Person, Settings

logger = logging.getLogger(__name__)

REGION_SIDE = 256  # cells of the map of a region given as a box
IDENTITY_BYTES = 128 << 20


class Studios:
    """Everything that generations share in one process.

    Args:
        folders: gives the folders of models as they are set now.
    """

    def __init__(self, folders: Callable[[], Folders]) -> None:
        self.folders = folders
        self._studios: dict[tuple[Path, int], Studio] = {}
        self._identities = ContentCache(IDENTITY_BYTES)

    def parts(self, settings: Settings, topology: Topology) -> Parts:
        """What these settings attach to a UNet of this topology.

        Raises:
            FaceSnapError: an adapter, pack, encoder, face or identity is missing or does not fit.
        """
        settings.require_people()
        studio = self.studio(settings.adapter, topology)
        wanted = [_person_settings(person, n) for n, person in enumerate(settings.people, 1)]
        people = [
            studio.conditioning(self.identity(studio, person, n), one)
            for n, (person, one) in enumerate(zip(settings.people, wanted, strict=True), 1)
        ]
        return Parts(people, (), Speed(settings.speed), studio.loras(wanted))

    def unused(self, settings: Settings, topology: Topology) -> str | None:
        """What these settings ask for that the extension does not do yet, as a note for people; None for nothing."""
        adapter = self.studio(settings.adapter, topology).adapter
        shaped = [one for one in settings.people if one.structure > 0 and one.pose.source != "none"]
        if adapter.ffrnet is None or not shaped:
            return None
        return (
            f"the landmarks of {adapter.spec.name or 'this adapter'} (FFRNet) are not used inside the WebUI yet, its "
            "ID tokens are; the command line uses both"
        )

    def studio(self, name: str, topology: Topology) -> Studio:
        """The studio of an adapter, loaded once as long as the file stays as it is."""
        file = self._file(name, topology.base)
        key = (file, file.stat().st_mtime_ns)
        if key not in self._studios:
            adapter = native.load(file)
            adapter.check_unet(topology)
            logger.info("adapter %s (%s)", file.name, adapter.spec.base)
            self._studios = {key: Studio(adapter, self._analyser(adapter), self._encoder(adapter))}
        studio = self._studios[key]
        studio.adapter.check_unet(topology)
        return studio

    def identity(self, studio: Studio, person: Person, number: int) -> Identity:
        """Who a person of the settings is: photos are analysed once as long as they are the same."""
        if person.identity:
            return IdentityStore(self.folders().identities).load(person.identity)
        pixels = [decode(one, f"reference {n} of person {number}") for n, one in enumerate(person.references, 1)]
        choose = int(person.face) if person.face.isdigit() else person.face
        levels = studio.adapter.mixer.config.clip_levels
        encoder = studio.encoder if levels else None
        key = (
            tuple(map(digest, pixels)), choose, studio.adapter.spec.recogniser,
            None if encoder is None else encoder.fingerprint, tuple(levels or ()),
        )  # fmt: skip

        def make() -> Identity:
            analyser = studio.analyser
            assert analyser is not None
            faces = [analyser.face(one, choose, name=f"reference {n}") for n, one in enumerate(pixels, 1)]  # type: ignore[arg-type]
            return Identity.from_faces(faces, encoder, levels or (), name=f"person {number}")

        return self._identities.get(key, make, _nbytes)

    def _file(self, name: str, base: str) -> Path:
        """An adapter's file by name or hash; without a name the first that was made for the base model."""
        folders = self.folders()
        files = [file for file in list_adapters(folders) if file.header.kind == ADAPTER]
        if name:
            return find_adapter(name, files).path
        for file in files:
            if file.header.base == base:
                return file.path
        raise MissingWeightsError(
            f"There is no FaceSnap adapter for {base} among {len(files)} adapters.",
            expected=f"a FaceSnap checkpoint made for {base} in one of: {', '.join(map(str, folders.adapters))}",
            remedy="put one there and refresh the list of models",
        )

    def _analyser(self, adapter: Adapter) -> FaceAnalyser:
        """The pack whose recogniser the adapter was trained with."""
        spec, tried = adapter.spec, []
        model_dirs = self.folders().packs
        for pack in installed_packs(model_dirs):
            if pack.recogniser_sha256 == spec.recogniser:
                return FaceAnalyser(pack.folder)
            tried.append(pack.name)
        places = ", ".join(map(str, pack_parents(model_dirs)))
        raise PackError(
            f"No pack has the recogniser of the adapter '{spec.name}' (packs found: {', '.join(tried) or 'none'}).",
            expected=f"the pack {spec.recogniser_name or spec.recogniser[:10]} in one of: {places}",
            remedy="download that pack and unpack it there",
        )

    def _encoder(self, adapter: Adapter) -> ImageEncoder | None:
        if not adapter.mixer.config.clip_levels:
            return None
        return ImageEncoder.load(find_encoder(adapter.spec.encoder_name, self.folders().packs))


def _person_settings(person: Person, number: int) -> PersonSettings:
    return PersonSettings(
        strength=person.strength,
        s_struct=person.s_struct,
        start=person.start,
        end=person.end,
        block_strengths=dict(person.blocks),
        region=region_map(person.region, f"the region of person {number}"),
    )


def region_map(region: object, name: str) -> torch.Tensor | None:
    """A region as a map (H, W), 0..1: a box by fractions, or a mask picture, white where the person is."""
    if region is None:
        return None
    if isinstance(region, Box):
        columns = _coverage(region.x, region.x + region.w)
        return _coverage(region.y, region.y + region.h)[:, None] * columns[None]  # (H, 1) * (1, W)
    grey = decode(region, name).mean(axis=2) / 255  # (H, W, 3) -> (H, W)
    return torch.from_numpy(grey).float().clamp(0, 1)


def _coverage(start: float, end: float) -> torch.Tensor:
    """(REGION_SIDE,) share of each cell that lies between two fractions."""
    edges = torch.arange(REGION_SIDE + 1) / REGION_SIDE
    return ((edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0) * REGION_SIDE).clamp(0, 1)


def _nbytes(identity: Identity) -> int:
    hidden = sum(t.numel() * t.element_size() for t in identity.hidden.values())
    return hidden + identity.embeddings.nbytes + math.prod(identity.crops.shape if identity.crops is not None else (0,))
