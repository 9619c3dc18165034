"""Networks on the meta device: built without drawing a weight, and whole once tensors are loaded."""

from __future__ import annotations

import torch
from torch import nn

from facesnap.models.tensors import load_strictly, on_meta


def test_a_network_on_meta_takes_tensors_and_no_random_number() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 5), nn.Conv2d(5, 2, 3), nn.LayerNorm(4), nn.Embedding(6, 2))

    torch.manual_seed(0)
    wanted = net()
    before = torch.get_rng_state()
    with on_meta():
        found = net()
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.device.type for p in found.parameters()} == {"meta"}
    load_strictly(found, wanted.state_dict(), network="net")
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    torch.manual_seed(0)
    assert torch.equal(net()[0].weight, wanted[0].weight)  # weights are drawn again afterwards
