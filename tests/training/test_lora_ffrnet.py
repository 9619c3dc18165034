"""FFRNet as a LoRA: the UNet's encoder with a change of its own, in training, on disk and in generation."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facesnap.attach import ControlConditioning, ControlPictures, RowPlan, Speed, attach
from facesnap.checkpoints import native
from facesnap.demo import untrained
from facesnap.errors import AttachError, CheckpointError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_lora import LoraFFRNet
from facesnap.models.tensors import copied_to
from facesnap.training.encoder_shape import config_of
from facesnap.training.wiring import Inputs, TrainableAdapter
from tests import networks
from tests.families.test_families import ldm_of, twin_of

SIDE = 8


@pytest.fixture(params=["sd15", "sdxl"])
def parts(request) -> SimpleNamespace:
    """ldm's and diffusers' UNet of the same weights, a LoRA FFRNet with every parameter drawn, and inputs."""
    ldm, unet = ldm_of(request.param), twin_of(request.param, "lora")
    net = LoraFFRNet.from_unet_state_dict(config_of(unet), unet.state_dict(), rank=3)
    networks.redraw(net, 11)
    batch = networks.Batch.draw(request.param, rows=2)
    tokens = torch.randn(1, 4, networks.CONTEXT[request.param], generator=torch.Generator().manual_seed(2))
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    net.requires_grad_(False)
    return SimpleNamespace(ldm=ldm, unet=unet, net=net, batch=batch, tokens=tokens, picture=picture)


def merged(net: LoraFFRNet, unet: torch.nn.Module) -> FFRNet:
    """The same function as a full network: each weight with its low-rank change multiplied out."""
    state = {k: v for k, v in unet.state_dict().items() if k in net.borrowed}
    own = {k: v for k, v in net.state_dict().items() if ".lora." not in k}
    for name, module in net.named_modules():
        if hasattr(module, "lora"):
            down, up = module.lora.down.weight, module.lora.up.weight
            change = torch.einsum("or,r...->o...", up.flatten(1), down)
            state[f"{name}.weight"] = state[f"{name}.weight"] + change
    full = FFRNet(net.config)
    full.load_state_dict({**state, **own})
    return full.requires_grad_(False).eval()


def generate(unet: torch.nn.Module, net: FFRNet, parts: SimpleNamespace) -> torch.Tensor:
    draw = lambda view: ControlPictures(landmarks=parts.picture)  # noqa: E731
    structure = ControlConditioning(
        net, cond=net.project_tokens(parts.tokens), uncond=None, draw=draw, face=(0, 0, 1, 1)
    )
    plan = RowPlan.classifier_free(1, guidance=True, uncond_first=True)
    with attach(unet, [], plan, [structure], Speed.EXACT):
        return networks.run(unet, parts.batch)


@pytest.mark.parametrize("layout", ["unet", "ldm"])
def test_generation_equals_the_full_network_multiplied_out(parts, layout: str) -> None:
    unet = getattr(parts, layout)
    bare = networks.run(unet, parts.batch)
    found, wanted = generate(unet, parts.net, parts), generate(unet, merged(parts.net, parts.unet), parts)
    assert (found - wanted).abs().max() < 1e-4 * max(1.0, float(wanted.abs().max()))
    assert (found - bare).abs().mean() > 0.01
    silent = copy.deepcopy(parts.net)
    for name, parameter in silent.named_parameters():
        if ".lora.up." in name:
            parameter.zero_()
    assert (generate(unet, silent, parts) - found).abs().mean() > 1e-3  # the change takes part
    assert torch.equal(networks.run(unet, parts.batch), bare)


def test_no_tensor_of_the_unet_is_copied_or_kept(parts) -> None:
    before = {id(p) for p in parts.net.parameters()}
    parts.net.borrow(dict(parts.unet.named_parameters()))
    pointers = {p.data_ptr() for p in parts.unet.parameters()}
    assert all(getattr(owner, key).data_ptr() in pointers for owner, key, _ in parts.net.borrowed.values())
    assert {id(p) for p in parts.net.parameters()} == before  # neither saved nor moved with the network
    parts.net.release()
    owned = sum(p.numel() for p in parts.net.parameters())
    assert sum(p.numel() for p in copied_to(parts.net, torch.device("cpu"), torch.float16).parameters()) == owned
    generate(parts.unet, parts.net, parts)
    assert all(key not in owner.__dict__ for owner, key, _ in parts.net.borrowed.values())


def test_a_unet_that_cannot_lend_is_named(parts) -> None:
    tensors = dict(parts.unet.named_parameters())
    name = "mid_block.resnets.0.conv1.weight"
    wrong = {"none": None, "float8": torch.empty(tensors[name].shape, dtype=torch.float8_e4m3fn),
             "meta": torch.empty(tensors[name].shape, device="meta")}  # fmt: skip
    for told, tensor in wrong.items():
        changed = {k: v for k, v in {**tensors, name: tensor}.items() if v is not None}
        with pytest.raises(AttachError, match=f"mid_block.resnets.0.conv1.weight is .*{told}"):
            parts.net.borrow(changed)


def test_a_fresh_one_changes_nothing_and_every_tensor_learns(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    untrained.save_pipeline(tmp_path / "model")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet")
    adapter = untrained.make_adapter(unet, recogniser="r", encoder="e")
    g = torch.Generator().manual_seed(0)
    hidden = {level: torch.randn(2, 1, 50, untrained.CLIP_WIDTH, generator=g) for level in (-2, untrained.CLIP_LEVEL)}
    inputs = Inputs(
        latents=torch.randn(2, 4, SIDE, SIDE, generator=g), timesteps=torch.tensor([10, 900]),
        text=torch.randn(2, 77, untrained.CONTEXT, generator=g), f_id=torch.randn(2, 1, 512, generator=g),
        hidden=hidden, landmarks=torch.rand(2, 3, 64, 64, generator=g),
    )  # fmt: skip
    net = LoraFFRNet.from_unet_state_dict(config_of(unet), unet.state_dict(), rank=2)
    module = TrainableAdapter(unet, dataclasses.replace(adapter, ffrnet=net), use_projections=False)
    with module.wiring:
        fresh = module(inputs).prediction
        assert torch.equal(fresh, unet(inputs.latents, inputs.timesteps, inputs.text, return_dict=False)[0])
        untrained.draw(net, 5)
        module.ffrnet.requires_grad_(True)
        output = module(inputs)
        output.prediction.square().mean().backward()
    assert (output.prediction - fresh).abs().mean() > 0.01
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.parameters())
    assert all(p.grad is None for p in unet.parameters())

    native.save(module.adapter(), tmp_path / "lora.safetensors")
    full = dataclasses.replace(adapter, ffrnet=FFRNet.from_unet_state_dict(config_of(unet), unet.state_dict()))
    native.save(full, tmp_path / "full.safetensors")
    again = native.load(tmp_path / "lora.safetensors")
    assert isinstance(again.ffrnet, LoraFFRNet) and again.ffrnet.rank == 2
    assert all(torch.equal(a, b) for a, b in zip(again.ffrnet.parameters(), net.parameters(), strict=True))
    loaded = TrainableAdapter(unet, again, use_projections=False)
    with loaded.wiring:
        assert torch.equal(loaded(inputs).prediction, output.prediction)


def test_damaged_metadata_are_named(parts, tmp_path: Path) -> None:
    adapter = untrained.make_adapter(parts.unet, recogniser="r", encoder="e", ffrnet=False)
    file = tmp_path / "lora.safetensors"
    native.save(dataclasses.replace(adapter, ffrnet=parts.net), file)
    with safe_open(file, "pt") as opened:
        good = json.loads(opened.metadata()["facesnap"])
    for key, value in (("rank", 5), ("rank", "many"), ("channels", []), ("mid_depth", 5000), ("time_dim", -1)):
        told = copy.deepcopy(good)
        told["ffrnet"]["lora"][key] = value
        save_file(load_file(file), tmp_path / "odd.safetensors", metadata={"facesnap": json.dumps(told)})
        with pytest.raises(CheckpointError):
            native.load(tmp_path / "odd.safetensors")
