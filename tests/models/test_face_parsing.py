"""The parsing networks against facexlib's own source on the same random weights."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch

from facesnap.errors import EncoderError
from facesnap.models.face_parsing import parser_of


def facexlib_networks(components: Path) -> dict[str, torch.nn.Module]:
    """facexlib's networks, every weight and statistic drawn; its package itself needs torchvision."""
    package = types.ModuleType("facexlib_parsing")
    package.__path__ = [str(components / "facexlib")]
    sys.modules["facexlib_parsing"] = package
    bisenet = importlib.import_module("facexlib_parsing.bisenet").BiSeNet(19)
    parsenet = importlib.import_module("facexlib_parsing.parsenet").ParseNet(512, 512, parsing_ch=19)
    return {"BiSeNet": redrawn(bisenet), "ParseNet": redrawn(parsenet)}


@torch.no_grad()
def redrawn(network: torch.nn.Module) -> torch.nn.Module:
    g = torch.Generator().manual_seed(4)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=g)
        if tensor.ndim > 1:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        else:
            one = name.endswith(("running_var", "norm.weight", "bn.weight", "bn1.weight", "bn2.weight"))
            tensor.copy_(1 + 0.2 * noise.abs() if one else 0.2 * noise)
    return network.eval()


@pytest.fixture(scope="module")
def networks(components: Path) -> dict[str, torch.nn.Module]:
    return facexlib_networks(components)


@pytest.mark.parametrize(("kind", "mean", "std"), (
    ("BiSeNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ("ParseNet", (0.5,) * 3, (0.5,) * 3),
))  # fmt: skip
@torch.no_grad()
def test_the_same_parts_as_facexlib(networks, kind: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    theirs = networks[kind]
    ours = parser_of(theirs.state_dict(), "file")
    assert ours.title == kind and not any(p.requires_grad for p in ours.parameters())
    g = torch.Generator().manual_seed(1)
    rough = torch.rand(1, 3, 16, 16, generator=g)
    picture = torch.nn.functional.interpolate(rough, (256, 256), mode="bilinear")  # of half the side that they are for
    x = (picture - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    scores = theirs(x)[0]
    assert torch.equal(ours(x), scores)  # to the bit: where two labels are alike, rounding would choose another
    labels = scores.argmax(1, keepdim=True)
    assert len(labels.unique()) > 2
    # Background, hat, ears and their rings, neck, necklace, clothes: CelebAMask-HQ in either order.
    apart = {"BiSeNet": (0, 16, 18, 7, 8, 9, 14, 15), "ParseNet": (0, 18, 14, 8, 9, 15, 17, 16)}[kind]
    expected = sum(labels == label for label in apart).bool()
    assert torch.equal(ours.not_face(picture), expected) and 0 < expected.float().mean() < 1


def test_damaged_files_are_refused(networks) -> None:
    for network in networks.values():
        state = network.state_dict()
        name = next(k for k, v in state.items() if v.ndim == 4)
        for broken in (
            {k: v for k, v in state.items() if k != name},
            state | {name: torch.ones(2)},
            state | {name: state[name] * float("nan")},
            state | {"more": torch.ones(2)},
            {},
        ):
            with pytest.raises(EncoderError, match="no face-parsing network"):
                parser_of(broken, "file")
