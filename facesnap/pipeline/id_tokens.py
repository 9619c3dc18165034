"""An identity through an adapter's mixer: references -> ID tokens, on the CPU in float32."""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import torch
from torch import Tensor

from facesnap.attach import Rule
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import EncoderError, IdentityMismatchError, SettingsError
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.recognisers import require_named
from facesnap.families.recipes import PULID_MODES, OfficialPreprocessing
from facesnap.models.layers import TokenGroup
from facesnap.models.mixers import Mixer
from facesnap.models.pulid import PulidMixer


def check_identity(adapter: Adapter, identity: Identity) -> None:
    """Raise IdentityMismatchError or EncoderError where an identity does not suit an adapter."""
    spec, levels = adapter.spec, adapter.mixer.config.clip_levels
    if spec.recogniser:
        identity.require_recogniser(spec.recogniser, spec.recogniser_name)
    else:  # public files name their recogniser only
        require_named(f"identity '{identity.name}'", identity.recogniser, identity.alias, spec.recogniser_name)
    if not levels:
        return
    adapter.check_encoder(identity.encoder or "", identity.encoder_name or "")
    config, missing = adapter.mixer.config, []
    absent = [level for level in levels if level not in identity.hidden]
    if absent:
        missing.append(f"hidden states of the levels {absent}")
    if isinstance(adapter.mixer, PulidMixer):
        class_width = adapter.mixer.config.class_width
        if identity.class_vectors is None or identity.class_vectors.shape[1] != class_width:
            missing.append(f"class vectors {class_width} wide")
        if any(states.shape[2] != config.clip_width for states in identity.hidden.values()):
            missing.append(f"hidden states {config.clip_width} wide")
    if missing:
        raise EncoderError(
            f"Identity '{identity.name}' has no {' and no '.join(missing)}.",
            expected=f"the levels {list(levels)} of {spec.encoder_name or 'its encoder'}",
            remedy="make the identity again with this adapter's encoder and these levels",
        )


def needed_encoder(adapter: Adapter, encoder: FaceEncoder | None) -> FaceEncoder:
    """The encoder of an adapter that looks at faces; EncoderError without one."""
    if encoder is None:
        what = "an image tower" if isinstance(adapter.mixer, PulidMixer) else "a CLIP image encoder"
        raise EncoderError(
            f"The adapter {adapter.spec.name!r} needs {what}, and none was given.",
            expected=adapter.spec.encoder_name or "the encoder that it was trained with",
            remedy="give --encoder FILE; `facesnap doctor` lists those of this machine",
        )
    return encoder


def check_encoder_kind(adapter: Adapter, encoder: FaceEncoder) -> None:
    """Raise IdentityMismatchError where PuLID meets a CLIP encoder, or another adapter meets PuLID's tower."""
    wants_tower = isinstance(adapter.mixer, PulidMixer)
    if adapter.mixer.config.clip_levels and wants_tower == isinstance(encoder, ImageEncoder):
        raise IdentityMismatchError(
            f"The encoder is {encoder.name}.",
            expected=f"{adapter.spec.encoder_name or 'another kind'}, which {adapter.spec.name!r} was trained with",
            remedy="give that encoder",
        )


def rule_of(adapter: Adapter, mode: str | None = None) -> tuple[Rule, int]:
    """How the ID output joins the text output, and how many zero vectors join the ID tokens.

    Args:
        mode: of PuLID, a key of `PULID_MODES`; None is as the adapter says.

    Raises:
        SettingsError: a mode is asked of an adapter that is not PuLID's.
    """
    if mode is None:
        return adapter.spec.rule, adapter.spec.zero_tokens
    if not isinstance(adapter.mixer, PulidMixer):
        raise SettingsError(
            f"PuLID's mode {mode!r} was asked of the adapter {adapter.spec.name!r}.",
            expected="an adapter of PuLID",
            remedy="choose another adapter, or leave the mode out",
        )
    return PULID_MODES[mode]


@torch.no_grad()
def mix(
    adapter: Adapter,
    identity: Identity | None,
    encoder: FaceEncoder | None,
    s_struct: float = 1.0,
    card: OfficialPreprocessing | None = None,
    references: int = 1,
) -> dict[str, TokenGroup]:
    """The mixer's ID tokens of a person, or of nobody (None): the unconditional ones.

    Args:
        encoder: gives the tokens of an empty picture, where the adapter wants these for nobody.
        card: follow the official example where it says otherwise.
        references: of the person that nobody stands beside; only joined tokens depend on it.
    """
    mixer = _in_float32(adapter.mixer)
    if isinstance(mixer, PulidMixer):
        join = card is not None and card.joins
        if identity is None:
            return mixer.unconditional(references if join else 1)
        return _mix_pulid(mixer, identity, adapter.spec.id_vector, s_struct, join)
    levels = mixer.config.clip_levels
    if identity is None:
        zero = {}
        if levels:
            clip = cast(ImageEncoder, needed_encoder(adapter, encoder))  # see check_encoder_kind
            zero = clip.encode_zero(levels)
        return mixer(
            torch.zeros(1, 1, mixer.config.id_width),
            {level: zero[level].cpu().float()[None] for level in levels},  # (1, P, W) -> (1, 1, P, W)
            s_struct=s_struct,
        )
    return mixer(
        _vectors(identity, adapter.spec.id_vector)[None],
        {level: identity.hidden[level].float()[None] for level in levels},  # (1, R, P, W)
        f_fused=torch.from_numpy(identity.f_id(adapter.spec.id_vector))[None],
        weights=None if card is not None and card.alike else torch.from_numpy(identity.weights)[None],
        s_struct=s_struct,
    )


def _mix_pulid(
    mixer: PulidMixer, identity: Identity, id_vector: str, s_struct: float, join: bool
) -> dict[str, TokenGroup]:
    """Each reference's own vector, class vector and hidden states."""
    assert identity.class_vectors is not None  # see check_identity
    return mixer(
        _vectors(identity, id_vector)[None],  # (1, R, 512)
        {level: identity.hidden[level].float()[None] for level in mixer.config.clip_levels},  # (1, R, P, W)
        class_vector=identity.class_vectors.float()[None],  # (1, R, V)
        weights=torch.from_numpy(identity.weights)[None],
        s_struct=s_struct,
        join=join,
    )


def _in_float32(mixer: Mixer) -> Mixer:
    """The mixer itself, or a copy where it computes in less: another thread may be using the adapter's own."""
    return mixer if next(mixer.parameters()).dtype == torch.float32 else copy.deepcopy(mixer).float()


def _vectors(identity: Identity, kind: str) -> Tensor:
    """(R, 512), each reference's own vector as `kind` of AdapterSpec.id_vector."""
    vectors = identity.embeddings
    if kind == "normed":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    elif kind == "none":
        vectors = np.zeros_like(vectors)
    return torch.from_numpy(vectors.astype(np.float32))
