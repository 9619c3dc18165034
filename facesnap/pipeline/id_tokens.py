"""An identity through an adapter's mixer: references -> ID tokens, on the CPU in float32."""

from __future__ import annotations

import copy

import torch

from facesnap.attach import Rule
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import EncoderError, IdentityMismatchError, SettingsError
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.recognisers import require_named
from facesnap.families.base import OfficialPreprocessing
from facesnap.families.registry import BY_KEY, find
from facesnap.models.layers import TokenGroup


def check_identity(adapter: Adapter, identity: Identity) -> None:
    """Raise IdentityMismatchError or EncoderError where an identity does not suit an adapter."""
    spec = adapter.spec
    if spec.recogniser:
        identity.require_recogniser(spec.recogniser, spec.recogniser_name)
    elif adapter.needs_recogniser:  # public files only name it
        require_named(f"identity '{identity.name}'", identity.recogniser, identity.alias, spec.recogniser_name)
    if not adapter.levels:
        return
    adapter.check_encoder(identity.encoder or "", identity.encoder_name or "")
    missing = find(spec.family).missing(adapter, identity)
    if missing:
        raise EncoderError(
            f"Identity '{identity.name}' has no {' and no '.join(missing)}.",
            expected=f"the levels {list(adapter.levels)} of {spec.encoder_name or 'its encoder'}",
            remedy="make the identity again with this adapter's encoder and these levels",
        )


def check_encoder_kind(adapter: Adapter, encoder: FaceEncoder) -> None:
    """Raise IdentityMismatchError where an adapter that looks at faces meets another kind of encoder than its own."""
    if adapter.levels and not isinstance(encoder, find(adapter.spec.family).encoder_type):
        raise IdentityMismatchError(
            f"The encoder is {encoder.name}.",
            expected=f"{adapter.spec.encoder_name or 'another kind'}, which {adapter.spec.name!r} was trained with",
            remedy="give that encoder",
        )


def rule_of(adapter: Adapter, mode: str | None = None) -> tuple[Rule, int]:
    """The rule by which the ID output joins the text output, and the number of zero vectors beside the ID tokens.

    Args:
        mode: of the family's `modes` (PuLID's); None is as the adapter says.

    Raises:
        SettingsError: the family has no such mode.
    """
    if mode is None:
        return adapter.spec.rule, adapter.spec.zero_tokens
    modes = find(adapter.spec.family).modes
    if mode not in modes:
        titles = [one.title for one in BY_KEY.values() if mode in one.modes]
        raise SettingsError(
            f"The mode {mode!r} was asked of the adapter {adapter.spec.name!r}.",
            expected=f"an adapter of {' or '.join(titles)}" if titles else "a mode that an adapter has",
            remedy="choose another adapter, or leave the mode out",
        )
    return modes[mode]


@torch.no_grad()
def mix(
    adapter: Adapter,
    identity: Identity | None,
    encoder: FaceEncoder | None,
    s_struct: float = 1.0,
    official: OfficialPreprocessing | None = None,
    references: int = 1,
    *,
    control: bool = False,
) -> dict[str, TokenGroup]:
    """The ID tokens of a person by group, each (1, T, D); the unconditional ones where the identity is None.

    Args:
        encoder: gives the hidden states of an empty picture, for adapters whose unconditional tokens are made of it.
        official: the parts of the official example that are followed; none where None.
        references: of the person beside the unconditional tokens; counts where tokens of several photos are joined.
        control: those that FFRNet sees, by the adapter's `control_mixer` where it has one.
    """
    family, official = find(adapter.spec.family), official or OfficialPreprocessing()
    mixer = adapter.ffrnet_mixer if control else adapter.mixer
    if any(one.dtype != torch.float32 for one in mixer.parameters()):  # a file may mix dtypes
        mixer = copy.deepcopy(mixer).float()  # a copy: another thread may be using the adapter's own
    if identity is None:
        return family.unconditional(mixer, encoder, adapter.spec, s_struct, official, references)
    return family.tokens(mixer, identity, adapter.spec, s_struct, official)
