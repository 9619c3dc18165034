"""One generation, start to end: references -> Identity -> ID tokens -> keys and values -> attached sampling -> scores.

Everything before the sampling depends on the inputs alone and is cached by content, so the second picture of the
same person pays nothing.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facesnap.attach import Conditioning
from facesnap.cache import ContentCache
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import EncoderError, NoFaceError, PackError, SettingsError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.face import Choice
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.models.projections import SiteKV

CACHE_BYTES = 256 << 20
SCORE_STEPS = 3  # of the detection ladder: portraits made are upright, and a picture without a face must cost little


@dataclass(frozen=True)
class PersonSettings:
    """How much and where a person is wanted; see `facesnap.attach.Conditioning` for ranges.

    Attributes:
        strength: of the ID tokens; None takes the adapter's suggestion.
        s_struct: 0..5, weight of the CLIP branch (PlusV2 form only).
        start, end, block_strengths, region, pictures: as in Conditioning.
    """

    strength: float | None = None
    s_struct: float = 1.0
    start: float = 0.0
    end: float = 1.0
    block_strengths: Mapping[str, float] = field(default_factory=dict)
    region: Tensor | None = None
    pictures: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.s_struct <= 5.0:
            raise SettingsError(
                f"s_struct is {self.s_struct}.", expected="a number from 0 to 5", remedy="correct s_struct"
            )


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


class Studio:
    """An adapter with what it needs to see people, and the caches.

    Args:
        adapter: a loaded checkpoint.
        analyser: finds and embeds faces; not needed where identities come from files.
        encoder: the CLIP image encoder; not needed by adapters without a CLIP branch.
        cache_bytes: bound on what is kept between generations.
    """

    def __init__(
        self,
        adapter: Adapter,
        analyser: FaceAnalyser | None = None,
        encoder: ImageEncoder | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.adapter, self.analyser, self.encoder = adapter, analyser, encoder
        if encoder is not None:
            adapter.check_encoder(encoder.fingerprint, encoder.name)
        self._cache = ContentCache(cache_bytes)
        self._files: dict[Path, tuple[tuple[int, int], str]] = {}

    def identity(self, photos: Sequence[Path], choose: Choice = "largest", name: str = "unnamed") -> Identity:
        """Who is on these photos; found again without any work where nothing of them has changed.

        Raises:
            PackError: no analyser. PictureError, NoFaceError: a photo cannot be used.
            IdentityMismatchError: the analyser's recogniser is not the adapter's.
        """
        if self.analyser is None:
            raise PackError(
                "Photos were given, but no face-analysis pack.",
                expected="a pack, to find and embed faces",
                remedy="give --pack, or a saved identity instead of photos",
            )
        analyser, levels = self.analyser, self.adapter.mixer.config.clip_levels
        encoder = self._needed_encoder() if levels else None
        key = ("identity", tuple(map(self._file_digest, photos)), choose, name, analyser.recogniser)

        def make() -> Identity:
            faces = [analyser.face(photo, choose) for photo in photos]
            return Identity.from_faces(faces, encoder, levels or (), name=name)

        identity = self._cache.get(key, make, _identity_bytes)
        self.check(identity)
        return identity

    def check(self, identity: Identity) -> None:
        """Raise IdentityMismatchError or EncoderError where an identity does not suit the adapter."""
        spec, levels = self.adapter.spec, self.adapter.mixer.config.clip_levels
        identity.require_recogniser(spec.recogniser, spec.recogniser_name)
        if levels:
            self.adapter.check_encoder(identity.encoder or "", identity.encoder_name or "")
            missing = [level for level in levels if level not in identity.hidden]
            if missing:
                raise EncoderError(
                    f"Identity '{identity.name}' has no CLIP hidden states of the levels {missing}.",
                    expected=f"the levels {list(levels)} of {spec.encoder_name or 'its encoder'}",
                    remedy="make the identity again with this adapter's encoder and these levels",
                )

    def conditioning(self, identity: Identity, settings: PersonSettings | None = None) -> Conditioning:
        """Keys and values of a person at every site, made once, with the settings of this generation."""
        settings = settings or PersonSettings()
        self.check(identity)
        spec, key = self.adapter.spec, ("kv", identity.digest, settings.s_struct)
        cond = self._cache.get(key, lambda: self._project(identity, settings.s_struct), _kv_bytes)
        uncond = None
        if spec.uncond == "encoded":
            key = ("uncond", "", settings.s_struct)
            uncond = self._cache.get(key, lambda: self._project(None, settings.s_struct), _kv_bytes)
        return Conditioning(
            cond,
            uncond,
            strength=spec.strength if settings.strength is None else settings.strength,
            start=settings.start,
            end=settings.end,
            block_strengths=settings.block_strengths,
            region=settings.region,
            pictures=settings.pictures,
            rule=spec.rule,
            zero_tokens=spec.zero_tokens,
        )

    @torch.no_grad()
    def _project(self, identity: Identity | None, s_struct: float) -> SiteKV:
        """Mixer and projections, on the CPU in float32; None stands for nobody (the unconditional tokens)."""
        mixer, levels = self.adapter.mixer, self.adapter.mixer.config.clip_levels
        if next(mixer.parameters()).dtype != torch.float32:
            mixer = copy.deepcopy(mixer).float()  # a copy: another thread may be using the adapter's own
        if identity is None:
            zero = self._needed_encoder().encode_zero(levels) if levels else {}
            groups = mixer(
                torch.zeros(1, 1, mixer.config.id_width),
                {level: zero[level].cpu().float()[None] for level in levels},  # (1, P, W) -> (1, 1, P, W)
                s_struct=s_struct,
            )
        else:
            groups = mixer(
                self._vectors(identity)[None],
                {level: identity.hidden[level].float()[None] for level in levels},  # (1, R, P, W)
                f_fused=torch.from_numpy(identity.f_id(self.adapter.spec.id_vector))[None],
                weights=torch.from_numpy(identity.weights)[None],
                s_struct=s_struct,
            )
        return self.adapter.projections.keys_values(groups)

    def _vectors(self, identity: Identity) -> Tensor:
        """(R, 512), each reference's own vector in the form that the adapter wants."""
        vectors = identity.embeddings
        if self.adapter.spec.id_vector == "normed":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return torch.from_numpy(vectors.astype(np.float32))

    def _needed_encoder(self) -> ImageEncoder:
        if self.encoder is None:
            raise EncoderError(
                f"The adapter {self.adapter.spec.name!r} needs a CLIP image encoder, and none was given.",
                expected=self.adapter.spec.encoder_name or "the encoder that it was trained with",
                remedy="give --encoder FILE",
            )
        return self.encoder

    def _file_digest(self, path: Path) -> str:
        """sha256 of a file's content, computed again only when its size or time has changed."""
        path = Path(path)
        if not path.is_file():
            return str(path)  # reading it will say what is wrong
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        if self._files.get(path, (None, ""))[0] != stamp:
            self._files[path] = (stamp, hashlib.sha256(path.read_bytes()).hexdigest())
        return self._files[path][1]

    def generate(
        self,
        host: DiffusersHost,
        sampling: Sampling,
        people: Sequence[tuple[Identity, PersonSettings]],
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Portrait]:
        """Make one batch of pictures with these people in them.

        Raises:
            CheckpointError: the adapter was made for another base than the host's UNet.
        """
        self.adapter.check_unet(host.topology)
        conditionings = [self.conditioning(identity, settings) for identity, settings in people]
        images = host.sample(sampling, conditionings, on_step)
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


def _identity_bytes(identity: Identity) -> int:
    hidden = sum(t.numel() * t.element_size() for t in identity.hidden.values())
    return hidden + identity.embeddings.nbytes
