"""Parts lie on the CPU and the UNet on another device: every tensor follows, and nothing stays there.

The device is `tests.devices`: it refuses to compute with tensors of two devices, as torch does.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from facesnap.attach import Conditioning, LoraPart, Networks, RowPlan, Speed, attach, lora, residuals, tokens
from facesnap.checkpoints import layout
from facesnap.hosts.memory import OwnPlacement, Stay
from facesnap.models.tensors import copied_to
from tests.attach.test_lora import processors
from tests.attach.test_residuals import Setting
from tests.devices import CPU, GPU, Devices, places
from tests.networks import CONTEXT, Batch, projections_for, run, token_groups

BOXES = ((0.3, 0.3, 0.6, 0.6), (0.1, 0.1, 0.4, 0.4))
TREES = [("sd15", "ldm", torch.float32), ("sdxl", "diffusers", torch.bfloat16)]  # ldm computes in float32 only


@pytest.fixture(scope="module", params=TREES, ids=lambda tree: tree[1])
def parts(request) -> SimpleNamespace:
    """A UNet, and everything that can be attached to it, on the CPU; FFRNet's file is of the other dtype."""
    base, tree, dtype = request.param
    setting = Setting(base, tree, own=True)
    setting.net.to(torch.bfloat16 if dtype == torch.float32 else torch.float32)
    region = torch.rand(24, 24, generator=torch.Generator().manual_seed(1))
    projections = projections_for(setting.unet, CONTEXT[base])
    kv, unconditional = (projections.keys_values(token_groups(CONTEXT[base], seed=s)) for s in (3, 4))
    changes = layout.read_processors(processors(setting.unet, CONTEXT[base]), "file", "id").lora
    return SimpleNamespace(
        dtype=dtype, unet=setting.unet.to(dtype), net=setting.net, batch=Batch.draw(base, size=(8, 8)).to(dtype),
        people=[Conditioning(kv, unconditional), Conditioning(kv, region=region)],
        controls=[setting.person(face=box, region=map) for box, map in zip(BOXES, (None, region), strict=True)],
        loras=[LoraPart(changes, strength=0.7), LoraPart(changes, strength=0.4, region=region)],
    )  # fmt: skip


def placement(stay: Stay = Stay.ADAPTER) -> OwnPlacement:
    return OwnPlacement(lambda: stay, lambda: None)


def to(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(getattr(batch, name).to(device) for name in vars(batch)))


@torch.no_grad()
def attached(parts: SimpleNamespace, batch: Batch, speed: Speed, networks: Networks, calls: int = 1) -> Tensor:
    plan = RowPlan.classifier_free()
    with attach(parts.unet, parts.people, plan, parts.controls, speed, parts.loras, networks):
        for _ in range(calls):
            out = run(parts.unet, batch)
    return out


@pytest.fixture()
def gpu(parts):
    """The device, with the UNet on it."""
    with Devices() as devices:
        parts.unet.to(GPU)
        yield devices
        parts.unet.to(CPU)


@pytest.mark.parametrize("speed", Speed)
def test_every_part_follows_the_unet_and_none_stays(parts, speed: Speed) -> None:
    on_cpu = attached(parts, parts.batch, speed, placement())
    bare = run(parts.unet, parts.batch)
    weights = [p.clone() for p in parts.net.parameters()]
    with Devices() as devices:
        parts.unet.to(GPU)
        batch = to(parts.batch, GPU)
        before, networks = len(devices.on_gpu()), placement(Stay.PASS)
        out = attached(parts, batch, speed, networks)
        assert out.device == GPU and out.dtype == parts.dtype
        assert torch.equal(out.cpu(), on_cpu) and (on_cpu - bare).abs().max() > 0.1
        del out
        networks.leave()
        assert len(devices.on_gpu()) == before
        parts.unet.to(CPU)
    assert places(parts.net) == {CPU} and parts.net.dtype != parts.dtype
    assert all(map(torch.equal, weights, parts.net.parameters()))


def test_networks_compute_where_they_lie_without_a_placement(parts, gpu) -> None:
    """The command line's way: whoever makes the structure decides."""
    out = attached(parts, to(parts.batch, GPU), Speed.EXACT, Networks())
    assert out.device == GPU and places(parts.net) == {CPU}
    weights = sorted(tuple(p.shape) for p in parts.net.parameters() if p.ndim > 1)
    assert not set(weights) <= {shape for shape, _ in gpu.uploads}


def one_module_forgotten(parts) -> Networks:
    class Forgetful(Networks):
        def at(self, net, x):
            copy = copied_to(net, x.device, x.dtype)
            copy.mid_block.to(CPU)
            return copy

    return Forgetful()


FORGOTTEN = {
    "keys and values of the ID tokens": (tokens, "stack_rows"),
    "regions": (tokens.TokenInjection, "_region"),
    "LoRA's weights": (lora.LoraInjection, "_layer"),
    "LoRA's regions": (lora.LoraInjection, "_region"),
    "keys and values of FFRNet": (residuals.ResidualInjection, "_kv"),
}


@pytest.mark.parametrize("what", [*FORGOTTEN, "a module of FFRNet"])
def test_what_is_left_on_the_cpu_is_noticed(parts, gpu, monkeypatch, what: str) -> None:
    """The control: each place where somebody could forget to move a tensor."""
    networks: Networks = placement()
    if what in FORGOTTEN:
        owner, name = FORGOTTEN[what]
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: left_behind(original(*args)))
    else:
        networks = one_module_forgotten(parts)
    with pytest.raises(RuntimeError, match="same device"):
        attached(parts, to(parts.batch, GPU), Speed.EXACT, networks)


def left_behind(made):
    """The same, on the CPU."""
    if isinstance(made, Tensor):
        return made.cpu()
    if isinstance(made, (tuple, list)):
        return type(made)(left_behind(one) for one in made)
    if hasattr(made, "k"):
        return type(made)(made.k.cpu(), made.v.cpu(), made.bias, made.gate)
    return made
