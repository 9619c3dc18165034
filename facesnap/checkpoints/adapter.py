"""An adapter: what one checkpoint brings, what it asks of the rest (base model, recogniser, encoder), and its kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from facesnap.attach.conditioning import Rule
from facesnap.attach.topology import Topology
from facesnap.errors import CheckpointError, IdentityMismatchError
from facesnap.models.fidelity import FFRNet, skip_widths
from facesnap.models.lora import AttentionLora
from facesnap.models.mixers import Mixer
from facesnap.models.projections import IDProjections

BASES = ("sd15", "sdxl")
ID_VECTORS = ("normed", "raw", "none")
UNCOND_RULES = ("encoded", "zeros", "none")
LONGEST_TEXT = 1000  # characters


@dataclass(frozen=True)
class AdapterSpec:
    """The facts that the tensors alone leave open.

    Attributes:
        base: "sd15" or "sdxl".
        recogniser: sha256 of the recogniser's ONNX file; the space of f_id. Empty in public files, which only have a
            name: see `facesnap.faces.recognisers`.
        recogniser_name: its name (w600k_r50). Both empty: the mixer sees no recogniser's vector (`id_vector` "none").
        encoder, encoder_name: fingerprint and name of the CLIP image encoder; empty where the mixer takes none.
            Without a fingerprint the name decides (`ImageEncoder.name`), and without either any encoder will do.
        id_vector: "normed" or "raw", which form of the recogniser's vector the mixer was trained on; "none" where it
            was trained on zeros in its place and sees the image encoder's tokens alone.
        uncond: "encoded" (uncond rows get the mixer's tokens of a zero vector and of the encoder's hidden states of
            a zero pixel tensor), "zeros" (its tokens of zeros in the place of every input) or "none" (nothing).
        shortcut: FaceID-PlusV2's form of stage 1. dim_head: width of one head in the mixer.
        rule, zero_tokens: how the ID output joins the text output.
        strength: suggested strength. name, licence: shown to people.
        family: key of `facesnap.families`; empty for FaceSnap's own training.
    """

    base: str
    recogniser: str
    recogniser_name: str = ""
    encoder: str = ""
    encoder_name: str = ""
    id_vector: str = "normed"
    uncond: str = "encoded"
    shortcut: bool = False
    dim_head: int = 64
    rule: Rule = Rule.ADD
    zero_tokens: int = 0
    strength: float = 1.0
    name: str = ""
    licence: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        for value, allowed, what in (
            (self.base, BASES, "base"),
            (self.id_vector, ID_VECTORS, "id_vector"),
            (self.uncond, UNCOND_RULES, "uncond"),
        ):
            if value not in allowed:
                raise CheckpointError(
                    f"The checkpoint's {what} is {value!r}.",
                    expected=" or ".join(allowed),
                    remedy="the file was written by a newer version or is damaged; update FaceSnap or fetch it again",
                )
        for field in fields(self):  # they are shown on terminals and written into infotexts
            text = getattr(self, field.name)
            if isinstance(text, str) and not (text.isprintable() and len(text) <= LONGEST_TEXT):
                raise CheckpointError(
                    f"The checkpoint's {field.name} is {text[:60]!a}.",
                    expected=f"one line of at most {LONGEST_TEXT} characters that can be shown",
                    remedy="give it another name, or fetch the file again",
                )


@dataclass(frozen=True)
class FFRNetSpec:
    """The use of an FFRNet, which its tensors leave open.

    Attributes:
        groups: the mixer's token groups that its cross-attention sees, joined in this order. The paper's f_mix is
            "mix". Log-quality biases of several references' "id" tokens do not reach FFRNet: each counts alike.
        strength: suggested factor of the residuals, 0..10.
    """

    groups: tuple[str, ...] = ("mix",)
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.groups or len(set(self.groups)) < len(self.groups):
            raise CheckpointError(
                f"FFRNet's token groups are {list(self.groups)}.",
                expected="at least one of the mixer's groups, each once",
                remedy="name the groups that it was trained with",
            )
        if not (math.isfinite(self.strength) and 0 <= self.strength <= 10):
            raise CheckpointError(
                f"FFRNet's suggested strength is {self.strength}.", expected="0 to 10", remedy="correct the metadata"
            )

    @classmethod
    def default(cls, mixer: Mixer) -> FFRNetSpec:
        """f_mix where the mixer has stage 2, else the tokens of stage 1."""
        return cls(("mix",) if "mix" in mixer.config.token_counts else ("id",))


@dataclass(frozen=True)
class WeightsFile:
    """The facts of a file besides its tensors.

    Attributes:
        path: of the file. sha256: of its content. family: the user's word, or "" to find out.
    """

    path: Path
    sha256: str = ""
    family: str = ""


@dataclass(frozen=True)
class FamilyMatch:
    """The kind of a file.

    Attributes:
        family: key of `facesnap.families`. why: the reason, for people.
        structure: a file beside the adapter that belongs to it (InstantID's IdentityNet), or None.
    """

    family: str
    why: str
    structure: Path | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """A loaded checkpoint. Its modules are on the CPU and need not leave it.

    Attributes:
        spec: see `AdapterSpec`.
        mixer, projections: the networks.
        digest: sha256 of the file, or of the tensors where there is no file; key of caches.
        ffrnet: FFRNet, or None where the checkpoint brings ID tokens only. ffrnet_spec: how it is used; by default
            `FFRNetSpec.default`.
        lora: for the UNet's attentions, where the file brings one.
        detection: the kind of its file and how that was found; None for one made in memory.
        control_mixer: of the ID tokens that FFRNet sees, where these are others than the UNet's.
    """

    spec: AdapterSpec
    mixer: Mixer
    projections: IDProjections
    digest: str = ""
    ffrnet: FFRNet | None = None
    ffrnet_spec: FFRNetSpec | None = None
    lora: AttentionLora | None = None
    detection: FamilyMatch | None = None
    control_mixer: Mixer | None = None

    def __post_init__(self) -> None:
        if self.ffrnet is not None and self.ffrnet_spec is None:
            object.__setattr__(self, "ffrnet_spec", FFRNetSpec.default(self.ffrnet_mixer))

    @property
    def ffrnet_mixer(self) -> Mixer:
        """The mixer whose ID tokens FFRNet sees."""
        return self.mixer if self.control_mixer is None else self.control_mixer

    @property
    def levels(self) -> tuple[int, ...]:
        """The image encoder's hidden states that the mixers need; empty without an encoder."""
        return tuple(dict.fromkeys((*self.mixer.config.clip_levels, *self.ffrnet_mixer.config.clip_levels)))

    @property
    def needs_recogniser(self) -> bool:
        """Whether identities must come from one recogniser; without, any face-analysis pack's will do."""
        return bool(self.spec.recogniser or self.spec.recogniser_name)

    def check_unet(self, topology: Topology) -> None:
        """Compare with a UNet before anything is changed.

        Raises:
            CheckpointError: another base, other sites, widths or context.
        """
        remedy = f"choose a base model of the kind {self.spec.base}, or an adapter made for {topology.base}"
        if topology.base != self.spec.base:
            raise CheckpointError(
                f"The adapter {self.spec.name!r} was made for {self.spec.base}, the loaded UNet is {topology.base}.",
                expected=f"a UNet of the layout {self.spec.base}",
                remedy=remedy,
            )
        wanted = {site: (width, self.projections.context) for site, width in self.projections.widths.items()}
        found = {site.name: (site.width, site.context) for site in topology.sites}
        for name in sorted(set(wanted) | set(found)):
            w, f = wanted.get(name), found.get(name)
            # Quantised layers do not show their sizes (None); those that they show must fit.
            if w is None or f is None or any(b is not None and a != b for a, b in zip(w, f, strict=True)):
                raise CheckpointError(
                    f"Site {name}: the adapter has (width, context) {w}, the UNet {f}.",
                    expected="the same sites with the same sizes in both",
                    remedy=remedy,
                )
        if self.ffrnet is not None:
            wanted_skips, found_skips = skip_widths(self.ffrnet.config), topology.skip_widths
            same = len(wanted_skips) == len(found_skips)
            if not same or any(f not in (None, w) for w, f in zip(wanted_skips, found_skips, strict=True)):
                raise CheckpointError(
                    f"FFRNet of {self.spec.name!r} makes residuals of {wanted_skips} channels.",
                    expected=f"{list(found_skips)}, the channels of this UNet's skip connections",
                    remedy=remedy,
                )

    def check_encoder(self, encoder: str, encoder_name: str) -> None:
        """Raise IdentityMismatchError where CLIP tokens of another encoder than the adapter's are offered."""
        by_name = not self.spec.encoder and bool(self.spec.encoder_name)
        other = encoder_name != self.spec.encoder_name if by_name else encoder != self.spec.encoder
        if self.levels and (self.spec.encoder or by_name) and other:
            raise IdentityMismatchError(
                f"The CLIP tokens come from {encoder_name or encoder or 'no encoder'}.",
                expected=f"{self.spec.encoder_name or self.spec.encoder}, which {self.spec.name!r} was trained with",
                remedy="encode the photos again with the adapter's encoder",
            )
