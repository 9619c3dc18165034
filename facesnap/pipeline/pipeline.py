"""One generation, start to end: references -> Identity -> ID tokens -> keys and values -> attached sampling -> scores.

Where the adapter brings an FFRNet, the identity's landmarks, in the pose that is asked for, go the same way.

Everything before the sampling depends on the inputs alone and is cached by content, so the second picture of the
same person pays nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facesnap.attach import Conditioning, ControlConditioning, LoraPart, Speed
from facesnap.attach.region import union
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import NoFaceError, PackError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import Choice, choose_face
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import AnalysedIdentity, Identity, ReferenceFace
from facesnap.faces.picture import read_picture, reduced
from facesnap.families.base import Family, OfficialPreprocessing
from facesnap.families.registry import find
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.models.fidelity import FFRNet
from facesnap.models.layers import TokenGroup
from facesnap.models.projections import SiteKV
from facesnap.models.tensors import copied_to
from facesnap.models.unet_blocks import KeyValue
from facesnap.pipeline.cache import ContentCache, bytes_of, content_digest
from facesnap.pipeline.id_tokens import check_encoder_kind, check_identity, mix, rule_of
from facesnap.pipeline.portrait import Portrait, infotext, resolved
from facesnap.pipeline.region import region_map
from facesnap.pipeline.shape import Shape, Shapes
from facesnap.pipeline.usable import usable, usable_by_one
from facesnap.remedies import remedy
from facesnap.settings.model import SETTINGS, Person, Settings

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 << 20
# s_struct, the parts of the official example that are followed, references where tokens are joined
Variant = tuple[float, OfficialPreprocessing, int]
SCORE_STEPS = 3  # of the detection ladder: portraits made are upright, and a picture without a face must cost little


class FaceSnapPipeline:
    """An adapter with what it needs to see people, and the caches.

    Args:
        adapter: a loaded checkpoint.
        analyser: finds and embeds faces; not needed where identities come from files.
        encoder: the CLIP image encoder, PuLID's tower among them; not needed by adapters without a CLIP branch.
        cache_bytes: bound on what is kept between generations.
        shapes: makes the landmarks; None: by the analyser's pack and the built-in face basis.
    """

    def __init__(
        self,
        adapter: Adapter,
        analyser: FaceAnalyser | None = None,
        encoder: FaceEncoder | None = None,
        cache_bytes: int = CACHE_BYTES,
        shapes: Shapes | None = None,
    ) -> None:
        self.adapter, self.analyser, self.encoder = adapter, analyser, encoder
        if encoder is not None:
            adapter.check_encoder(encoder.fingerprint, encoder.name)
            check_encoder_kind(adapter, encoder)
        self._cache = ContentCache(cache_bytes)
        self.shapes = shapes or Shapes(analyser, self._cache)
        self._placed: tuple[tuple[torch.device, torch.dtype], FFRNet] | None = None

    def identity(
        self,
        photos: Sequence[Path | np.ndarray],
        choose: Choice = "largest",
        name: str = "unnamed",
        names: Sequence[str] = (),
        match_model_card: bool = False,
    ) -> Identity:
        """Who is on these photos (files, or RGB arrays); see `analyse`."""
        return self.analyse(photos, choose, name, names, match_model_card).identity

    def analyse(
        self,
        photos: Sequence[Path | np.ndarray],
        choose: Choice = "largest",
        name: str = "unnamed",
        names: Sequence[str] = (),
        match_model_card: bool = False,
    ) -> AnalysedIdentity:
        """Who is on these photos, and the face of each; found again without any work where nothing has changed.

        Args:
            photos: files, or RGB uint8 (H, W, 3). choose: which face of each. name: of the person.
            names: what messages call the photos; by default files by their path.
            match_model_card: as `Settings.model_card`.

        Raises:
            PackError: no analyser. PictureError, NoFaceError: a photo cannot be used.
            EncoderError: the adapter looks at faces, and no encoder was given.
            IdentityMismatchError: the analyser's recogniser is not the adapter's.
        """
        if self.analyser is None:
            raise PackError(
                "Photos were given, but no face-analysis pack.",
                expected="a pack, to find and embed faces",
                remedy=f"{remedy('give a pack')}, or give a saved identity instead of photos",
            )
        analyser, levels, official = self.analyser, self.adapter.levels, self._official(match_model_card)
        encoder = self.family.needed_encoder(self.encoder, self.adapter.spec) if levels else None
        if official.face != "largest" and choose == "largest":  # another choice was asked for, and is another person
            choose = official.face
        digests = tuple(map(content_digest, photos))
        key = ("identity", digests, choose, name, tuple(names), analyser.recogniser, official)

        def make() -> AnalysedIdentity:
            called: Sequence[str | None] = names or [str(p) if isinstance(p, Path) else None for p in photos]
            pixels = [reduced(read_picture(p, name=n), official.longest) for p, n in zip(photos, called, strict=True)]
            found = [analyser.faces(p, name=n) for p, n in zip(pixels, called, strict=True)]
            faces = [choose_face(one, choose) for one in found]
            landmarks = None if self.adapter.ffrnet is None else self.shapes.landmarks(faces)
            identity = Identity.from_faces(faces, encoder, levels or (), name, landmarks=landmarks, bgr=official.bgr)
            return AnalysedIdentity(identity, tuple(map(ReferenceFace.of, faces, found)))

        found: AnalysedIdentity = self._cache.get(key, make)
        check_identity(self.adapter, found.identity)
        return found

    @property
    def family(self) -> Family:
        """The adapter's family."""
        return find(self.adapter.spec.family)

    def _official(self, match: bool) -> OfficialPreprocessing:
        """The parts of the family's official example that are followed: all where it is to be matched, else none."""
        return self.family.official_preprocessing if match else OfficialPreprocessing()

    def conditioning(
        self, identity: Identity, person: Person | None = None, settings: Settings | None = None
    ) -> Conditioning:
        """Keys and values of a person at every site, made once, with the settings of this generation.

        Args:
            person: how much, where and when; its references are not looked at.
            settings: of the whole generation; of these `model_card` and `pulid_mode` count.

        Raises:
            IdentityMismatchError, EncoderError: the identity does not suit the adapter.
        """
        person, settings = usable_by_one(person or Person(), settings or Settings(), self.adapter)
        check_identity(self.adapter, identity)
        spec, variant = self.adapter.spec, self._variant(identity, person, settings)
        plain = settings.pulid_mode == SETTINGS["pulid_mode"].default
        rule, zero_tokens = rule_of(self.adapter, None if plain else settings.pulid_mode)
        return Conditioning(
            self._projected(identity, variant),
            None if spec.uncond == "none" else self._projected(None, variant),
            strength=spec.strength if person.strength is None else person.strength,
            start=person.start,
            end=person.end,
            block_strengths=person.blocks,
            region=region_map(person.region),
            rule=rule,
            zero_tokens=zero_tokens,
        )

    def shape(self, identity: Identity, person: Person, size: tuple[int, int]) -> Shape | None:
        """The landmarks that FFRNet gets for a picture of a size (width, height); None where it is off, or the adapter
        brings none.

        Raises:
            LandmarkError, PackError, PictureError, NoFaceError: see `facesnap.pipeline.shape.Shapes.shape`.
        """
        if self._structure_strength(person) == 0.0:
            return None
        return self.shapes.shape(identity, person.pose, size)

    def control(
        self,
        identity: Identity,
        person: Person | None = None,
        size: tuple[int, int] = (512, 512),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        settings: Settings | None = None,
    ) -> ControlConditioning | None:
        """FFRNet's part of a person for a picture of a size (width, height); None where it is off.

        K and V of the ID tokens are made in float32 on the CPU and stay there: the attachment takes them along.

        Args:
            device, dtype: where and in what the network computes, best those of the UNet; the adapter's own stays
                where it is. None: the adapter's own network, on the CPU in the dtype of its file, for hosts that
                place it themselves (`facesnap.hosts.memory`).
            person, settings: as in `conditioning`.

        Raises:
            As `shape`; IdentityMismatchError or EncoderError where the identity does not suit the adapter.
        """
        person, settings = usable_by_one(person or Person(), settings or Settings(), self.adapter)
        shape = self.shape(identity, person, size)
        if shape is None:
            return None
        check_identity(self.adapter, identity)
        variant = self._variant(identity, person, settings)
        net = self._net(None if device is None else torch.device(device), dtype)
        return ControlConditioning(
            net,
            cond=self._ffrnet_kv(identity, variant),
            uncond=None if self.adapter.spec.uncond == "none" else self._ffrnet_kv(None, variant),
            draw=lambda view: self.shapes.pictures(shape, view, net.config),
            face=shape.landmarks.box,
            strength=self._structure_strength(person),
            start=person.structure_start,
            end=person.structure_end,
            region=region_map(person.region),
        )

    def loras(self, people: Sequence[Person]) -> list[LoraPart]:
        """The adapter's LoRA, once for all of its people: with the strongest strength that one of them asks for, and,
        where all of them keep it to their regions, inside these regions."""
        strength = max((person.lora for person in people), default=0.0)
        if self.adapter.lora is None or strength == 0.0:
            return []
        wanted = [person for person in people if person.lora != 0.0]
        region = union([region_map(person.region) if person.lora_in_region else None for person in wanted])
        return [LoraPart(self.adapter.lora, strength=strength, region=region)]

    def _structure_strength(self, person: Person) -> float:
        if self.adapter.ffrnet is None or person.pose.source == "none":
            return 0.0
        return resolved(person, self.adapter).structure or 0.0

    def _net(self, device: torch.device | None, dtype: torch.dtype | None) -> FFRNet:
        """FFRNet on a device in a dtype; a copy where the adapter's own is elsewhere."""
        net = self.adapter.ffrnet
        assert net is not None
        own = (net.conv_in.weight.device, net.dtype)
        wanted = (device or own[0], dtype or own[1])
        if own == wanted:
            return net
        if self._placed is None or self._placed[0] != wanted:
            self._placed = None  # free the former before the next is made
            self._placed = (wanted, copied_to(net, *wanted))
        return self._placed[1]

    def _ffrnet_kv(self, identity: Identity | None, variant: Variant) -> list[KeyValue]:
        """K and V of the ID tokens at every site of FFRNet, made once."""
        net, spec = self.adapter.ffrnet, self.adapter.ffrnet_spec
        assert net is not None and spec is not None

        @torch.no_grad()
        def make() -> list[KeyValue]:
            groups = self._tokens(identity, variant, control=True)
            return net.project_tokens(torch.cat([groups[name].tokens for name in spec.groups], dim=1))  # (1, T, D)

        return self._cache.get(("ffrnet", _digest(identity), variant), make)

    def _projected(self, identity: Identity | None, variant: Variant) -> SiteKV:
        """K and V of the ID tokens at every site of the UNet, made once."""
        key = ("kv", _digest(identity), variant)
        return self._cache.get(key, lambda: self.adapter.projections.keys_values(self._tokens(identity, variant)))

    def _tokens(self, identity: Identity | None, variant: Variant, control: bool = False) -> dict[str, TokenGroup]:
        """The ID tokens, made once; the unconditional ones for None. control: those that FFRNet sees."""
        control = control and self.adapter.control_mixer is not None
        key = ("tokens", _digest(identity), variant, control)

        def make() -> dict[str, TokenGroup]:
            return mix(self.adapter, identity, self.encoder, *variant, control=control)

        return self._cache.get(key, make, lambda groups: bytes_of([group.tokens for group in groups.values()]))

    def _variant(self, identity: Identity, person: Person, settings: Settings) -> Variant:
        """All of the settings that ID tokens depend on: a key of caches."""
        official = self._official(settings.model_card)
        return person.s_struct, official, identity.references if official.joins else 1

    def generate(
        self,
        host: DiffusersHost,
        sampling: Sampling,
        people: Sequence[Person | tuple[Identity, Person]],
        on_step: Callable[[int, int], None] | None = None,
        settings: Settings | None = None,
    ) -> list[Portrait]:
        """Make one batch of pictures with these people in them.

        Args:
            people: each with reference photos, or after an Identity, made or loaded before, that stands for them.
            on_step: called after each step with the steps done and those in all.
            settings: of the whole generation: `speed`, `model_card`, `pulid_mode` and `strict` count, its people do
                not. What the adapter cannot use is logged and has no effect.

        Raises:
            UnusableSettingError: something of this was asked for, and the settings are strict.
            CheckpointError: the adapter was made for another base than the host's UNet.
            SettingsError: a person has neither photos nor an Identity.
            Errors of `analyse`, `conditioning` and `control`.
        """
        self.adapter.check_unet(host.topology)
        wanted = tuple(one if isinstance(one, Person) else one[1] for one in people)
        settings, notes = usable(replace(settings or Settings(), people=wanted), self.adapter)
        for note in notes:
            logger.warning("%s", note)
        given = [
            person if isinstance(one, Person) else (one[0], person)
            for one, person in zip(people, settings.people, strict=True)
        ]
        asked = [self._known(one, n, settings) for n, one in enumerate(given, 1)]
        known = [(who, replace(person, region=region_map(person.region))) for who, person in asked]  # mapped once
        conditionings = [self.conditioning(who, person, settings) for who, person in known]
        found = [self.control(who, person, sampling.size, host.device, host.dtype, settings) for who, person in known]
        controls = [control for control in found if control is not None]
        loras = self.loras([person for _, person in known])
        doubled = self.family.loras_in_prompt(sampling.prompt) if loras else []
        if doubled:
            logger.warning(
                "The prompt asks for the LoRA %s, and %s brings one of its own: it is applied twice. Take it out of "
                "the prompt, or set the adapter's LoRA strength to 0.", ", ".join(doubled), self.adapter.spec.name,
            )  # fmt: skip
        images = host.sample(sampling, conditionings, on_step, controls, Speed(settings.speed), loras)
        made = []
        for i, image in enumerate(images):
            one = Portrait(image, sampling.seed + i, tuple(self.similarity(image, who) for who, _ in asked))
            text = infotext(sampling, host.name, self.adapter, asked, settings, one)
            made.append(replace(one, infotext=text))
        return made

    def _known(self, one: Person | tuple[Identity, Person], number: int, settings: Settings) -> tuple[Identity, Person]:
        """A person with the identity that stands for the photos."""
        if not isinstance(one, Person):
            return one
        if not one.references:
            raise SettingsError(
                f"Person {number} has no reference photos.",
                expected="photos, or a pair (Identity, Person)",
                remedy="give references=[Path(...)], or load the identity with Identity.load",
            )
        photos = [p if isinstance(p, (Path, np.ndarray)) else read_picture(p) for p in one.references]
        name = photos[0].stem if isinstance(photos[0], Path) else f"person {number}"
        known = self.analyse(photos, one.face, name, match_model_card=settings.model_card)
        for doubt in known.doubts:
            logger.warning("person %d: %s", number, doubt)
        return known.identity, one

    def similarity(self, image: Image.Image, identity: Identity) -> float | None:
        """See `similarity`."""
        return similarity(self.analyser, image, identity)


def similarity(analyser: FaceAnalyser | None, image: Image.Image, identity: Identity) -> float | None:
    """Largest cosine between a person and the faces of a picture; None without a face or an analyser."""
    if analyser is None:
        return None
    try:
        pixels = np.asarray(image.convert("RGB"))
        faces = analyser.faces(pixels, name="the picture made", most_steps=SCORE_STEPS)
    except NoFaceError:
        return None
    return max(float(face.normed_embedding @ identity.f_id()) for face in faces)


def _digest(identity: Identity | None) -> str:
    return "" if identity is None else identity.digest
