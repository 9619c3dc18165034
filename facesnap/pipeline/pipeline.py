"""One generation, start to end: references -> Identity -> ID tokens -> keys and values -> attached sampling -> scores.

Where the adapter brings an FFRNet, the identity's landmarks, in the pose that is asked for, go the same way.

Everything before the sampling depends on the inputs alone and is cached by content, so the second picture of the
same person pays nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facesnap.attach import Conditioning, ControlConditioning, LoraPart, Speed
from facesnap.attach.region import union
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import NoFaceError, PackError, SettingsError
from facesnap.faces.analysed import AnalysedIdentity, ReferenceFace
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import Choice, choose_face
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.picture import read_picture, reduced
from facesnap.families.base import Family, OfficialPreprocessing
from facesnap.families.registry import find
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.models.fidelity import FFRNet
from facesnap.models.layers import TokenGroup
from facesnap.models.projections import SiteKV
from facesnap.models.tensors import copied_to
from facesnap.models.unet_blocks import KeyValue
from facesnap.pipeline.cache import ContentCache, content_digest
from facesnap.pipeline.id_tokens import check_encoder_kind, check_identity, mix, rule_of
from facesnap.pipeline.person import PersonSettings
from facesnap.pipeline.shape import PoseSettings, Shape, Shapes

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 << 20
# s_struct, the parts of the official example that are followed, references where tokens are joined
Variant = tuple[float, OfficialPreprocessing, int]
SCORE_STEPS = 3  # of the detection ladder: portraits made are upright, and a picture without a face must cost little


@dataclass(frozen=True)
class Portrait:
    """One picture made.

    Attributes:
        image: RGB. seed: its own. similarity: per person, cosine of the recogniser's vectors of reference and
            picture, -1..1, or None where the picture shows no face.
    """

    image: Image.Image
    seed: int
    similarity: tuple[float | None, ...] = ()


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
            match_model_card: as in `PersonSettings`.

        Raises:
            PackError: no analyser. PictureError, NoFaceError: a photo cannot be used.
            EncoderError: the adapter looks at faces, and no encoder was given.
            IdentityMismatchError: the analyser's recogniser is not the adapter's.
        """
        if self.analyser is None:
            raise PackError(
                "Photos were given, but no face-analysis pack.",
                expected="a pack, to find and embed faces",
                remedy="give --pack, or a saved identity instead of photos",
            )
        analyser, levels, official = self.analyser, self.adapter.levels, self._official(match_model_card)
        encoder = self.family.needed_encoder(self.encoder, self.adapter.spec) if levels else None
        if official.face != "largest" and choose == "largest":  # another choice was asked for, and is another person
            choose = official.face
        key = (
            "identity",
            tuple(map(content_digest, photos)),
            choose,
            name,
            tuple(names),
            analyser.recogniser,
            official,
        )

        def make() -> AnalysedIdentity:
            called: Sequence[str | None] = names or [str(p) if isinstance(p, Path) else None for p in photos]
            pixels = [reduced(read_picture(p, name=n), official.longest) for p, n in zip(photos, called, strict=True)]
            found = [analyser.faces(p, name=n) for p, n in zip(pixels, called, strict=True)]
            faces = [choose_face(one, choose) for one in found]
            landmarks = None if self.adapter.ffrnet is None else self.shapes.landmarks(faces)
            identity = Identity.from_faces(faces, encoder, levels or (), name, landmarks=landmarks, bgr=official.bgr)
            return AnalysedIdentity(identity, tuple(map(ReferenceFace.of, faces, found)))

        found: AnalysedIdentity = self._cache.get(key, make, lambda one: _identity_bytes(one.identity))
        self.check(found.identity)
        return found

    @property
    def family(self) -> Family:
        """The adapter's family."""
        return find(self.adapter.spec.family)

    def _official(self, match: bool) -> OfficialPreprocessing:
        """The parts of the family's official example that are followed: all where it is to be matched, else none."""
        return self.family.official_preprocessing if match else OfficialPreprocessing()

    def check(self, identity: Identity) -> None:
        """Raise IdentityMismatchError or EncoderError where an identity does not suit the adapter."""
        check_identity(self.adapter, identity)

    def conditioning(self, identity: Identity, settings: PersonSettings | None = None) -> Conditioning:
        """Keys and values of a person at every site, made once, with the settings of this generation."""
        settings = settings or PersonSettings()
        self.check(identity)
        spec, variant = self.adapter.spec, self._variant(identity, settings)
        cond = self._cache.get(("kv", identity.digest, variant), lambda: self._project(identity, variant), _kv_bytes)
        uncond = None
        if spec.uncond != "none":
            uncond = self._cache.get(("uncond", "", variant), lambda: self._project(None, variant), _kv_bytes)
        rule, zero_tokens = rule_of(self.adapter, settings.pulid_mode)
        return Conditioning(
            cond,
            uncond,
            strength=spec.strength if settings.strength is None else settings.strength,
            start=settings.start,
            end=settings.end,
            block_strengths=settings.block_strengths,
            region=settings.region,
            pictures=settings.pictures,
            rule=rule,
            zero_tokens=zero_tokens,
        )

    def shape(self, identity: Identity, settings: PersonSettings, size: tuple[int, int]) -> Shape | None:
        """The landmarks that FFRNet gets for a picture of a size (width, height); None where it is off.

        Raises:
            SettingsError: structure or a pose is asked of an adapter without FFRNet.
            LandmarkError, PackError, PictureError, NoFaceError: see `facesnap.pipeline.shape.Shapes.shape`.
        """
        if self._structure_strength(settings) == 0.0:
            return None
        return self.shapes.shape(identity, settings.pose or PoseSettings(), size)

    def control(
        self,
        identity: Identity,
        settings: PersonSettings | None = None,
        size: tuple[int, int] = (512, 512),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ControlConditioning | None:
        """FFRNet's part of a person for a picture of a size (width, height); None where it is off.

        K and V of the ID tokens are made in float32 on the CPU and stay there: the attachment takes them along.

        Args:
            device, dtype: where and in what the network computes, best those of the UNet; the adapter's own stays
                where it is. None: the adapter's own network, on the CPU in the dtype of its file, for hosts that
                place it themselves (`facesnap.hosts.memory`).

        Raises:
            As `shape`; IdentityMismatchError or EncoderError where the identity does not suit the adapter.
        """
        settings = settings or PersonSettings()
        shape = self.shape(identity, settings, size)
        if shape is None:
            return None
        self.check(identity)
        variant = self._variant(identity, settings)

        def kept(key: str, who: Identity | None) -> list[KeyValue]:
            full = ("ffrnet", key, variant)
            return self._cache.get(full, lambda: self._ffrnet_kv(who, variant), _pairs_bytes)

        net = self._net(None if device is None else torch.device(device), dtype)
        return ControlConditioning(
            net,
            cond=kept(identity.digest, identity),
            uncond=kept("", None) if self.adapter.spec.uncond != "none" else None,
            draw=lambda view: self.shapes.pictures(shape, view, net.config),
            face=shape.landmarks.box,
            strength=self._structure_strength(settings),
            start=settings.structure_start,
            end=settings.structure_end,
            region=settings.region,
            pictures=settings.pictures,
        )

    def loras(self, people: Sequence[PersonSettings]) -> list[LoraPart]:
        """The adapter's LoRA, once for all of its people: with the strongest strength that one of them asks for, and,
        where all of them keep it to their regions, inside these regions."""
        strength = max((settings.lora for settings in people), default=0.0)
        if self.adapter.lora is None or strength == 0.0:
            return []
        wanted = [settings for settings in people if settings.lora != 0.0]
        region = union([settings.region if settings.lora_in_region else None for settings in wanted])
        return [LoraPart(self.adapter.lora, strength=strength, region=region)]

    def _structure_strength(self, settings: PersonSettings) -> float:
        spec = self.adapter.ffrnet_spec
        if spec is not None:
            return spec.strength if settings.structure is None else settings.structure
        if settings.structure or settings.pose is not None:
            raise SettingsError(
                f"Structure or a pose was asked of the adapter {self.adapter.spec.name!r}, which brings no FFRNet.",
                expected="an adapter with an FFRNet",
                remedy="choose another adapter, or leave structure strength and pose out",
            )
        return 0.0

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

    @torch.no_grad()
    def _ffrnet_kv(self, identity: Identity | None, variant: Variant) -> list[KeyValue]:
        """K and V of the ID tokens at every site of FFRNet."""
        net = self.adapter.ffrnet
        assert net is not None and self.adapter.ffrnet_spec is not None
        groups = self._tokens(identity, variant, control=True)
        tokens = torch.cat([groups[name].tokens for name in self.adapter.ffrnet_spec.groups], dim=1)  # (1, T, D)
        return net.project_tokens(tokens)

    def _project(self, identity: Identity | None, variant: Variant) -> SiteKV:
        return self.adapter.projections.keys_values(self._tokens(identity, variant))

    def _tokens(self, identity: Identity | None, variant: Variant, control: bool = False) -> dict[str, TokenGroup]:
        """The ID tokens, made once; the unconditional ones for None. control: those that FFRNet sees."""
        control = control and self.adapter.control_mixer is not None
        key = ("tokens", "" if identity is None else identity.digest, variant, control)

        def make() -> dict[str, TokenGroup]:
            return mix(self.adapter, identity, self.encoder, *variant, control=control)

        return self._cache.get(key, make, _tokens_bytes)

    def _variant(self, identity: Identity, settings: PersonSettings) -> Variant:
        """All of the settings that ID tokens depend on: a key of caches."""
        official = self._official(settings.match_model_card)
        return settings.s_struct, official, identity.references if official.joins else 1

    def generate(
        self,
        host: DiffusersHost,
        sampling: Sampling,
        people: Sequence[tuple[Identity, PersonSettings]],
        on_step: Callable[[int, int], None] | None = None,
        speed: Speed = Speed.BALANCED,
    ) -> list[Portrait]:
        """Make one batch of pictures with these people in them.

        Args:
            speed: how much of FFRNet is computed.

        Raises:
            CheckpointError: the adapter was made for another base than the host's UNet.
            Errors of `conditioning` and `control`.
        """
        self.adapter.check_unet(host.topology)
        conditionings = [self.conditioning(identity, settings) for identity, settings in people]
        found = [self.control(who, settings, sampling.size, host.device, host.dtype) for who, settings in people]
        controls = [control for control in found if control is not None]
        loras = self.loras([settings for _, settings in people])
        doubled = self.family.loras_in_prompt(sampling.prompt) if loras else []
        if doubled:
            logger.warning(
                "The prompt asks for the LoRA %s, and %s brings one of its own: it is applied twice. Take it out of "
                "the prompt, or set the adapter's LoRA strength to 0.", ", ".join(doubled), self.adapter.spec.name,
            )  # fmt: skip
        images = host.sample(sampling, conditionings, on_step, controls, speed, loras)
        return [
            Portrait(image, sampling.seed + i, tuple(self.similarity(image, who) for who, _ in people))
            for i, image in enumerate(images)
        ]

    def similarity(self, image: Image.Image, identity: Identity) -> float | None:
        """Largest cosine between a person and the faces of a picture; None without a face or an analyser."""
        if self.analyser is None:
            return None
        try:
            pixels = np.asarray(image.convert("RGB"))
            faces = self.analyser.faces(pixels, name="the picture made", most_steps=SCORE_STEPS)
        except NoFaceError:
            return None
        return max(float(face.normed_embedding @ identity.f_id()) for face in faces)


def _kv_bytes(sites: SiteKV) -> int:
    return sum(kv.nbytes for groups in sites.values() for kv in groups)


def _pairs_bytes(pairs: list[KeyValue]) -> int:
    return sum(t.numel() * t.element_size() for pair in pairs for t in pair)


def _tokens_bytes(groups: dict[str, TokenGroup]) -> int:
    return sum(group.tokens.numel() * group.tokens.element_size() for group in groups.values())


def _identity_bytes(identity: Identity) -> int:
    hidden = sum(t.numel() * t.element_size() for t in identity.hidden.values())
    return hidden + identity.embeddings.nbytes
