"""The trainable wiring is the inference attachment, row by row, with gradients."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from facesnap.attach import ControlConditioning, ControlPictures, RowPlan, Speed, attach
from facesnap.attach.conditioning import Conditioning
from facesnap.attach.rows import Row
from facesnap.demo import untrained
from facesnap.errors import AttachError, SettingsError
from facesnap.training.wiring import Inputs, TrainableAdapter, save_activations

B, SIDE = 3, 8


@pytest.fixture
def parts(tmp_path) -> SimpleNamespace:
    from diffusers import UNet2DConditionModel

    untrained.save_pipeline(tmp_path / "model")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet")
    adapter = untrained.make_adapter(unet, recogniser="r", encoder="e")
    g = torch.Generator().manual_seed(0)
    hidden = {level: torch.randn(B, 1, 50, untrained.CLIP_WIDTH, generator=g) for level in (-2, untrained.CLIP_LEVEL)}
    inputs = Inputs(
        latents=torch.randn(B, 4, SIDE, SIDE, generator=g), timesteps=torch.tensor([10, 400, 900]),
        text=torch.randn(B, 77, untrained.CONTEXT, generator=g), f_id=torch.randn(B, 1, 512, generator=g),
        hidden=hidden, landmarks=torch.rand(B, 3, 8 * SIDE, 8 * SIDE, generator=g),
    )  # fmt: skip
    return SimpleNamespace(unet=unet, adapter=adapter, inputs=inputs)


def _inferred(parts: SimpleNamespace) -> torch.Tensor:
    """Three people on three rows through the inference attachment."""
    adapter, x = parts.adapter, parts.inputs
    people, controls = [], []
    with torch.no_grad():
        groups = adapter.mixer(x.f_id, x.hidden)
        for i in range(B):
            only = frozenset({i})
            people.append(Conditioning(adapter.projections.keys_values(groups, i), pictures=only))
            net = adapter.ffrnet
            controls.append(
                ControlConditioning(net, cond=net.project_tokens(groups["mix"].tokens[i : i + 1]), uncond=None,
                          draw=lambda view, i=i: ControlPictures(landmarks=x.landmarks[i : i + 1]),
                          face=(0.0, 0.0, 1.0, 1.0), pictures=only)
            )  # fmt: skip
        plan = RowPlan([Row(i, True) for i in range(B)])
        with attach(parts.unet, people, plan, controls, Speed.EXACT):
            return parts.unet(x.latents, x.timesteps, x.text, return_dict=False)[0]


@pytest.mark.parametrize("saving", (False, True))
def test_equals_the_inference_attachment(parts, saving: bool) -> None:
    wanted = _inferred(parts)
    bare = parts.unet(parts.inputs.latents, parts.inputs.timesteps, parts.inputs.text, return_dict=False)[0]
    module = TrainableAdapter(parts.unet, parts.adapter)
    if saving:
        save_activations(module)
    with module.wiring:
        found = module(parts.inputs).prediction
    assert (found - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))
    assert (bare - wanted).abs().mean() > 0.05
    after = parts.unet(parts.inputs.latents, parts.inputs.timesteps, parts.inputs.text, return_dict=False)[0]
    assert torch.equal(after, bare)


def test_recomputing_changes_no_gradient_and_every_part_has_one(parts) -> None:
    def gradients(module: TrainableAdapter) -> dict[str, torch.Tensor]:
        module.requires_grad_(True).zero_grad()
        with module.wiring:
            module(parts.inputs).prediction.square().mean().backward()
        return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}

    module = TrainableAdapter(parts.unet, parts.adapter)
    kept = gradients(module)
    save_activations(module)
    again = gradients(module)
    assert set(kept) == set(again) == {n for n, _ in module.named_parameters()}
    assert all(float(kept[n].abs().max()) > 0 for n in kept)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in parts.unet.parameters())


def test_a_gate_of_zero_has_a_gradient(parts) -> None:
    module = TrainableAdapter(parts.unet, parts.adapter)
    gates = [
        p.requires_grad_(True) for n, p in module.named_parameters() if n.startswith("projections") and "gate" in n
    ]
    with torch.no_grad():
        for gate in gates:
            gate.zero_()
    with module.wiring:
        module(parts.inputs).prediction.square().mean().backward()
    assert len(gates) == 16 and all(float(gate.grad.abs()) > 0 for gate in gates)


def test_without_projections_the_unet_sees_ffrnet_alone(parts) -> None:
    both, paper = (TrainableAdapter(parts.unet, parts.adapter, use_projections=on) for on in (True, False))
    with both.wiring:
        a = both(parts.inputs).prediction
    with paper.wiring:
        b = paper(parts.inputs).prediction
    assert (a - b).abs().mean() > 0.01
    with pytest.raises(SettingsError, match="projections"):
        paper.part("projections")


def test_refusals(parts) -> None:
    with pytest.raises(AttachError, match="not on the UNet"):
        TrainableAdapter(parts.unet, parts.adapter)(parts.inputs)
    bare = dataclasses.replace(parts.adapter, ffrnet=None, ffrnet_spec=None)
    with pytest.raises(SettingsError, match="changes nothing"):
        TrainableAdapter(parts.unet, bare, use_projections=False)
