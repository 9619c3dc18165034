"""EVA02-CLIP's image tower against its formulas and against numbers that timm gave."""

from __future__ import annotations

import math

import pytest
import torch

from facesnap.errors import EncoderError
from facesnap.models import eva_tower
from facesnap.models.eva_tower import EvaConfig, EvaTower, tower_tensors
from tests import eva
from tests.public_files import draw


def built(state: eva.State) -> EvaTower:
    found = tower_tensors(state)
    assert found is not None
    tower = EvaTower(EvaConfig.from_state_dict(found))
    tower.load_state_dict(found)
    return tower.eval()


@torch.no_grad()
def test_every_state_equals_the_formulas() -> None:
    state = draw(eva.tower_shapes(width=128, layers=21, ff=72, patch=14, grid=3, vector=24), 5)
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(2))
    states, vector = eva.tower(state, pixels)
    ours = built(state)(pixels, eva.LEVELS)
    assert list(ours.hidden) == list(eva.LEVELS)
    for level, expected in states.items():
        if level in eva.LEVELS:
            assert (ours.hidden[level] - expected).abs().max() <= 1e-4 and expected.std() > 0.5
    assert (ours.class_vector - vector).abs().max() <= 1e-5
    assert (ours.hidden[20] - ours.hidden[16]).abs().max() > 0.1


def wave(shape: tuple[int, ...], k: int) -> torch.Tensor:
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(steps * (1.7 + 0.31 * k) + k).float().reshape(shape)


@torch.no_grad()
def test_timms_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm 1.0.31's Eva (width 128, 3 blocks, 2 heads, 4 x 4 patches of 14, SwiGLU 96) with the weights below."""
    state = eva.timm_names(draw(eva.tower_shapes(128, 3, 96, 14, 4, 6), 0))
    for k, name in enumerate(sorted(state)):
        w, shape = wave(tuple(state[name].shape), k % 7), state[name].shape
        if "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.1 * w
        else:
            state[name] = 0.2 * w if len(shape) < 2 else 2 * w / state[name][0].numel() ** 0.5
    pixels = wave((1, 3, 56, 56), 3)
    ours = built(state)(pixels, (1, 2, 3))
    vector = torch.tensor([-0.26746, 0.670086, 0.132321, -0.482528, -0.204348, 0.432839])
    some = {1: (-0.60118, -0.3186, -0.69113), 2: (-1.02591, -0.38806, -1.28509), 3: (-1.46553, -0.44296, -1.891)}
    assert (ours.class_vector[0] - vector).abs().max() < 1e-5
    for level, values in some.items():
        assert (ours.hidden[level][0, [0, 6, 16], [3, 70, 127]] - torch.tensor(values)).abs().max() < 1e-4
    for name, change in (("TRAINED_GRID", 4.0), ("EPS", 1e-2), ("THETA", 100.0)):  # each of them shows
        with monkeypatch.context() as patch:
            patch.setattr(eva_tower, name, change)
            other = built(state)(pixels, (3,))
        assert (other.hidden[3] - ours.hidden[3]).abs().max() > 1e-4, name


@torch.no_grad()
def test_every_layout_is_the_same_tower() -> None:
    state = eva.tower_state(layers=3)
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    expected = built(state)(pixels, (2,))
    files = {
        "official": eva.official(state),
        "of a trainer": {f"module.{k}": v for k, v in eva.official(state).items()},
        "OpenCLIP": eva.timm_names(state, "visual.trunk."),
        "timm": eva.timm_names(state),
        "tower alone": state,
    }
    for name, file in files.items():
        tower = built({k: v.float() for k, v in file.items()})
        found = tower(pixels, (2,))
        off = 0.05 if "offic" in name or "trainer" in name else 0.0  # half precision
        assert (found.hidden[2] - expected.hidden[2]).abs().max() <= off, name
        assert (found.class_vector - expected.class_vector).abs().max() <= off, name


def test_what_is_no_tower_is_refused() -> None:
    state = eva.tower_state(layers=3)
    assert tower_tensors({"visual.conv1.weight": torch.ones(2)}) is None and tower_tensors({}) is None
    for name, shape in (
        ("pos_embed", (1, 16, 64)), ("pos_embed", (1, 1, 64)), ("pos_embed", (17,)), ("head.weight", (3,)),
        ("patch_embed.proj.weight", (64, 3)),
    ):  # fmt: skip
        with pytest.raises(EncoderError, match="image tower has"):
            EvaConfig.from_state_dict(state | {name: torch.ones(shape)})
    with pytest.raises(EncoderError, match="image tower has"):
        EvaConfig.from_state_dict({k: v for k, v in state.items() if k != "blocks.0.mlp.w1.weight"})
    tower = built(state)
    for size, levels in ((42, (2,)), (56, (4,)), (56, (0,))):
        with pytest.raises(EncoderError, match="asked for the levels"):
            tower(torch.zeros(1, 3, size, size), levels)
