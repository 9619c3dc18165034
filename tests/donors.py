"""Random checkpoints in the layouts of the public donors, small, and diffusers' own classes with their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from tests.networks import redraw

ID_WIDTH, CLIP_WIDTH, CLIP_TOKENS = 48, 80, 17


def faceid_config(context: int, *, clip: bool, shortcut: bool = False, tokens: int = 4) -> MixerConfig:
    perceiver = {"clip_width": CLIP_WIDTH, "depth": 4, "inner": context, "ff": 4 * context} if clip else {}
    return MixerConfig(Stage1Config(ID_WIDTH, 2 * ID_WIDTH, tokens, context, shortcut=shortcut, **perceiver), None)


def instantid_config(context: int, groups: tuple[tuple[str, int], ...] = ()) -> MixerConfig:
    return MixerConfig(None, Stage2Config(ID_WIDTH, 128, 16, 4, 128, 512, context, groups))


def image_proj(config: MixerConfig, seed: int = 21) -> dict[str, Tensor]:
    """The `image_proj` part of a public file: our names without the stage's prefix."""
    mixer = redraw(FacialAttributeMixer(config), seed)
    return {k.split(".", 1)[1]: v.clone() for k, v in mixer.state_dict().items() if not k.startswith("levels")}


def mixer_of(config: MixerConfig, donor: dict[str, Tensor], stage: str) -> FacialAttributeMixer:
    """A mixer that holds a donor's weights in one stage and otherwise keeps its initial values."""
    mixer = FacialAttributeMixer(config).eval()
    missing, extra = mixer.load_state_dict({f"{stage}.{k}": v for k, v in donor.items()}, strict=False)
    assert not extra and not any(k.startswith(stage) and ".groups." not in k and ".gates." not in k
                                 and ".views" not in k for k in missing)  # fmt: skip
    return mixer


def reference_photos(refs: int = 1, people: int = 1, seed: int = 11) -> tuple[Tensor, dict[int, Tensor]]:
    """f_id (people, refs, ID_WIDTH), normed, and the penultimate hidden states of an encoder."""
    g = torch.Generator().manual_seed(seed)
    f_id = torch.nn.functional.normalize(torch.randn(people, refs, ID_WIDTH, generator=g), dim=-1)
    hidden = {level: torch.randn(people, refs, CLIP_TOKENS, CLIP_WIDTH, generator=g) for level in (-2, 1, 2)}
    return f_id, hidden
