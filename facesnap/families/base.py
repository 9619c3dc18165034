"""A family: everything that one kind of adapter file has to itself.

A new family is a module beside this one that binds `FAMILIES` to a tuple of `Family` objects (see `registry`), and its
test. Facts are fields; a family whose files are read or whose tokens are mixed in another way overrides the methods.
Pictures are RGB everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from facesnap.attach.conditioning import Rule
from facesnap.attach.topology import Topology
from facesnap.checkpoints.adapter import Adapter, AdapterSpec, FamilyMatch, WeightsFile
from facesnap.checkpoints.files import TensorFile
from facesnap.errors import EncoderError
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.known import Item
from facesnap.faces.recognisers import RECOGNISERS
from facesnap.models.fidelity_config import Picture
from facesnap.models.layers import TokenGroup
from facesnap.models.mixer import FacialAttributeMixer
from facesnap.models.mixers import Mixer
from facesnap.remedies import remedy

NATIVE = "facesnap"  # key of FaceSnap's own family, which stands for every adapter of no public one


@dataclass(frozen=True)
class Part:
    """A part that not every adapter has, and the settings that act through it alone.

    Attributes:
        lack: for people, of an adapter without it. settings, person: names of fields of `facesnap.settings.model`.
        pose: whether poses act through it. strength: the person's field that switches it off by 0, or "".
    """

    lack: str
    settings: tuple[str, ...] = ()
    person: tuple[str, ...] = ()
    pose: bool = False
    strength: str = ""


LANDMARKS = Part(
    "brings no landmarks network", ("speed",), ("structure", "structure_start", "structure_end"), True, "structure"
)
LORA = Part("brings no LoRA", (), ("lora", "lora_in_region"), strength="lora")
CLIP_WEIGHT = Part("has no weight for a CLIP branch", (), ("s_struct",))
MODES = Part("has no modes", ("pulid_mode",))
OFFICIAL = Part("has no official example that prepares photos in another way", ("model_card",))


@dataclass(frozen=True)
class OfficialPreprocessing:
    """Where a family's official example differs from FaceSnap's own way; a switch follows it.

    Attributes:
        face: which face it takes of several: "largest", or "first", the one that the detector is surest of.
        bgr: the encoder gets the crop in BGR order, which tints pictures.
        joins: several photos' tokens are joined (the first's, and of the others those of their vectors) instead of
            averaged by quality.
        alike: every one of several photos counts the same, whatever its quality.
        longest: larger photos are first reduced to this many pixels on their longer side, or None.
    """

    face: str = "largest"
    bgr: bool = False
    joins: bool = False
    alike: bool = False
    longest: int | None = None

    @property
    def text(self) -> str:
        """For people; empty where nothing differs."""
        said = (
            (self.face == "first", "takes the face that the detector is surest of, not the largest"),
            (self.bgr, "gives the encoder the crop in BGR order, which tints pictures"),
            (self.joins, "joins several photos' tokens instead of averaging them"),
            (self.alike, "lets several photos count alike, whatever their quality"),
            (self.longest, f"first reduces photos to {self.longest} pixels on their longer side"),
        )
        found = [words for differs, words in said if differs]
        return f"the official example {', and '.join(found)}" if found else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One kind of adapter file.

    Attributes:
        key: for the command line, metadata and infotexts. title: for people. licence: of the weights, with its limits.
        hints: patterns (lower case) found in the names of its files, for files whose tensors leave a choice.
        folder_hints: the same, found in the names of their folders.
        sha256: how the checksums of published files begin, for the same.
        metadata_key: key of .safetensors metadata that marks its files beyond doubt, or "".
        recogniser: key of `facesnap.faces.recognisers.RECOGNISERS`; "" where the mixer sees no recogniser's vector:
            any face-analysis pack will do then, and a saved identity needs none.
        mixer_type: class of its mixer. id_vector, uncond: as in AdapterSpec. rule, zero_tokens: as in Conditioning.
        encoder: name of the image encoder, or "". encoder_type, encoder_kind: its class, and the same for people.
        crop: the encoder's picture of a face, for people. levels: the encoder's hidden states that the mixer takes.
        modes: name -> (rule, zero tokens), where people may choose; the first is that of the fields above.
        shortcut: form of stage 1 with a weight for the encoder's branch (FaceID-PlusV2).
        strength: suggested. structure: suggested strength of the control network, or None without one.
        companion: title of the control network whose file lies beside the adapter's, or "".
        picture: what a control network of this family looks at.
        cfg: suggested CFG scale, of the official example. side: suggested side of the picture in pixels, where it is
            another than the base model's.
        official_preprocessing: where the official example differs.
        lora_in_prompt: pattern of a prompt that asks for the LoRA which the file brings itself; group 1 is its name.
        downloads: items of the catalogue that are adapters of this family.
    """

    key: str
    title: str
    licence: str = ""
    hints: tuple[str, ...] = ()
    folder_hints: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    metadata_key: str = ""
    recogniser: str = ""
    mixer_type: type = FacialAttributeMixer
    id_vector: str = "normed"
    uncond: str = "encoded"
    rule: Rule = Rule.ADD
    zero_tokens: int = 0
    encoder: str = ""
    encoder_type: type = ImageEncoder
    encoder_kind: str = "a CLIP image encoder"
    crop: str = ""
    levels: tuple[int, ...] = ()
    modes: Mapping[str, tuple[Rule, int]] = field(default_factory=dict)
    shortcut: bool = False
    strength: float = 1.0
    structure: float | None = None
    companion: str = ""
    picture: Picture = "landmarks"
    cfg: float | None = None
    side: int | None = None
    official_preprocessing: OfficialPreprocessing = OfficialPreprocessing()
    lora_in_prompt: str = ""
    downloads: tuple[Item, ...] = ()

    @property
    def pack(self) -> str:
        """The face-analysis pack that holds its recogniser; "" without one."""
        return RECOGNISERS[self.recogniser].packs[0] if self.recogniser in RECOGNISERS else ""

    def matches(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors can be those of such a file, by names and shapes alone (meta tensors will do)."""
        return False

    def base_of(self, tensors: Mapping[str, Tensor], where: str) -> str:
        """The base model, "sd15" or "sdxl", by names and shapes alone; "" where they leave it open.

        Raises:
            CheckpointError: the tensors fit no base model. where: the file's name, for messages.
        """
        return ""

    def load(
        self, file: TensorFile, source: WeightsFile, match: FamilyMatch, topology: Topology | None = None
    ) -> Adapter:
        """The adapter of a file.

        Args:
            match: how the family was found. topology: of the UNet, where it has another shape than SD1.5 and SDXL.

        Raises:
            CheckpointError: tensors missing, extra, of a wrong shape or not finite.
        """
        raise NotImplementedError(f"family {self.key}")

    def spec(self, base: str, source: WeightsFile, *, encoder: str | None = None) -> AdapterSpec:
        """The spec of a file that names none of these facts itself; encoder: another than the family's."""
        return AdapterSpec(
            base=base,
            recogniser="",  # the file has no hash of one; see facesnap.faces.recognisers
            recogniser_name=self.recogniser,
            encoder_name=self.encoder if encoder is None else encoder,
            id_vector=self.id_vector,
            uncond=self.uncond,
            shortcut=self.shortcut,
            rule=self.rule,
            zero_tokens=self.zero_tokens,
            strength=self.strength,
            name=source.path.stem,
            licence=self.licence,
            family=self.key,
        )

    def lacks(self, adapter: Adapter) -> tuple[Part, ...]:
        """The parts that an adapter of this family does not have: settings that act through them are of no use to it
        (`facesnap.pipeline.usable`)."""
        configs = [mixer.config for mixer in (adapter.mixer, adapter.ffrnet_mixer)]
        stages = [getattr(config, "stage1", None) for config in configs]
        there = {
            LANDMARKS: adapter.ffrnet is not None,
            LORA: adapter.lora is not None,
            CLIP_WEIGHT: all(stage is not None and stage.shortcut for stage in stages),
            MODES: bool(self.modes),
            OFFICIAL: bool(self.official_preprocessing.text),
        }
        return tuple(part for part, has in there.items() if not has)

    def find_companion(self, adapter: Path) -> Path | None:
        """The control network's file beside an adapter's, where the family has one in a file of its own."""
        return None

    def missing(self, adapter: Adapter, identity: Identity) -> list[str]:
        """Parts of the image encoder's view that the mixers need and an identity lacks, for people."""
        absent = [level for level in adapter.levels if level not in identity.hidden]
        return [f"hidden states of the levels {absent}"] if absent else []

    def tokens(
        self, mixer: Mixer, identity: Identity, spec: AdapterSpec, s_struct: float, official: OfficialPreprocessing
    ) -> dict[str, TokenGroup]:
        """The ID tokens of a person, by group, each (1, T, D).

        Args:
            mixer: of the adapter, in float32. s_struct: weight of the encoder's branch.
            official: what of the official example is followed.
        """
        fused = torch.from_numpy(identity.f_id(spec.id_vector))[None]  # (1, 512)
        weights = None if official.alike else torch.from_numpy(identity.weights)[None]  # (1, R)
        hidden = {level: identity.hidden[level].float()[None] for level in mixer.config.clip_levels}  # (1, R, P, W)
        vectors = id_vectors(identity, spec.id_vector)[None]  # (1, R, 512)
        return mixer(vectors, hidden, f_fused=fused, weights=weights, s_struct=s_struct)

    def unconditional(
        self,
        mixer: Mixer,
        encoder: FaceEncoder | None,
        spec: AdapterSpec,
        s_struct: float,
        official: OfficialPreprocessing,
        references: int,
    ) -> dict[str, TokenGroup]:
        """The tokens that stand beside a person's on unconditional rows: those of zeros and of an empty picture.

        Args:
            encoder: gives the hidden states of the empty picture.
            references: of the person; counts where tokens of several photos are joined.

        Raises:
            EncoderError: an encoder is needed, and there is none.
        """
        own = cast(FacialAttributeMixer, mixer)
        levels = own.config.clip_levels
        hidden = cast(ImageEncoder, self.needed_encoder(encoder, spec)).encode_zero(levels) if levels else {}
        return own(
            torch.zeros(1, 1, own.config.id_width),
            {level: hidden[level].cpu().float()[None] for level in levels},  # (1, P, W) -> (1, 1, P, W)
            s_struct=s_struct,
        )

    def needed_encoder(self, encoder: FaceEncoder | None, spec: AdapterSpec) -> FaceEncoder:
        """The encoder of an adapter that looks at faces; EncoderError without one."""
        if encoder is None:
            raise EncoderError(
                f"The adapter {spec.name!r} needs {self.encoder_kind}, and none was given.",
                expected=spec.encoder_name or "the encoder that it was trained with",
                remedy=remedy("give an encoder"),
            )
        return encoder

    def loras_in_prompt(self, prompt: str) -> list[str]:
        """Names of LoRAs that a prompt asks for and that the file brings itself: they would apply twice."""
        return re.findall(self.lora_in_prompt, prompt, re.IGNORECASE) if self.lora_in_prompt else []


def id_vectors(identity: Identity, kind: str) -> Tensor:
    """(R, 512) float32, each reference's own vector, of a kind as `AdapterSpec.id_vector`."""
    vectors = identity.embeddings
    if kind == "normed":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    elif kind == "none":
        vectors = np.zeros_like(vectors)
    return torch.from_numpy(vectors.astype(np.float32))
