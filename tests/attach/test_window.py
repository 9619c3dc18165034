"""Strength and window of everything that can be attached: one rule for ID tokens, FFRNet and LoRA."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facesnap.attach import Conditioning, ControlConditioning, LoraPart
from facesnap.errors import SettingsError

KINDS = {
    "": partial(Conditioning, {}),
    "structure ": partial(ControlConditioning, None, (), None),
    "LoRA ": partial(LoraPart, None),
}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=["tokens", "control", "lora"])
fractions = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])


@every
@given(start=fractions, end=fractions, progress=fractions, strength=st.sampled_from([0.0, 0.3, 10.0]))
def test_active_inside_the_window_and_never_outside(kind, start, end, progress, strength) -> None:
    one = kind(start=start, end=end, strength=strength)
    # The last call of a sampling may be at 1 exactly: a window that ends at 1 holds it.
    inside = start <= progress < end or (start < end == 1.0 == progress)
    assert one.active(progress) == (strength > 0 and inside)
    assert one.dormant == (strength == 0 or start >= end)
    assert not (one.dormant and one.active(progress))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("key", "value"),
    [("strength", -0.1), ("strength", 10.1), ("strength", float("nan")), ("start", -0.1), ("end", 1.1)],
)
def test_a_value_out_of_range_is_named(name: str, key: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"^{name}{key} is "):
        KINDS[name](**{key: value})


@every
@pytest.mark.parametrize("region", [torch.ones(2), torch.full((2, 2), 1.1), torch.full((2, 2), float("nan"))])
def test_a_region_is_a_soft_map(kind, region: torch.Tensor) -> None:
    with pytest.raises(SettingsError, match="region map"):
        kind(region=region)
    assert kind(region=torch.ones(2, 3)).region.shape == (2, 3)
