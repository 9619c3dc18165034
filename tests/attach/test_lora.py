"""LoRA through hooks: exact, off without a trace, inside a region only, in any order of things."""

from __future__ import annotations

import pytest
import torch

from facesnap.attach import Conditioning, LoraPart, RowPlan, attach
from facesnap.attach.region import token_weights
from facesnap.attach.topology import ip_adapter_order, read_topology
from facesnap.checkpoints import layout
from facesnap.errors import AttachError, CheckpointError, SettingsError
from facesnap.models.lora import AttentionLora, LoraLayer
from tests import formulas
from tests.networks import CONTEXT, Batch, diffusers_unet, ldm_unet, projections_for, run, token_groups
from tests.public_files import draw, processor_shapes

TOLERANCE = 1e-4


def processors(unet, context: int, seed: int = 4) -> dict[str, torch.Tensor]:
    sites = {site.name: site.width for site in read_topology(unet).sites}
    return draw(processor_shapes("faceid", [sites[n] for n in ip_adapter_order(tuple(sites))], context), seed)


def hooks(unet) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


@pytest.mark.parametrize("base", ("sd15", "sdxl"))
@torch.no_grad()
def test_two_loras_add_up_as_the_formula_says(base: str) -> None:
    ldm = ldm_unet(base)
    states = [processors(ldm, CONTEXT[base], seed) for seed in (4, 5)]
    loras = [layout.read_processors(s, "file", "id").lora for s in states]
    batch = Batch.draw(base)
    bare = run(ldm, batch)
    with attach(
        ldm, [], RowPlan.classifier_free(), loras=[LoraPart(loras[0], strength=0.5), LoraPart(loras[1], strength=0.8)]
    ):
        ours = run(ldm, batch)
    joined = {}  # two LoRAs are one of the double rank
    for key, value in states[0].items():
        other, dim = states[1][key], 0 if ".down." in key else 1
        joined[key] = torch.cat((value, other), dim) if ".down." in key else torch.cat((0.5 * value, 0.8 * other), 1)
    theirs = diffusers_unet(base, like=ldm)
    formulas.set_reference(theirs, joined, None, 0.0, lora=1.0)
    assert (ours - run(theirs, batch)).abs().max() <= TOLERANCE
    assert (ours - bare).abs().max() > 100 * TOLERANCE
    assert torch.equal(run(ldm, batch), bare) and hooks(ldm) == 0


@torch.no_grad()
def test_strength_and_window_decide_to_the_bit() -> None:
    base = "sd15"
    unet = diffusers_unet(base)
    lora = layout.read_processors(processors(unet, CONTEXT[base]), "file", "id").lora
    batch, bare = Batch.draw(base), run(unet, Batch.draw(base))
    for part, progress in (
        (LoraPart(lora, strength=0.0), 0.0),
        (LoraPart(lora, start=0.5), 0.4),
        (LoraPart(lora, end=0.4), 0.4),
        (LoraPart(lora, start=0.4, end=0.4), 0.4),
    ):
        plan = RowPlan.classifier_free()
        plan.progress = progress
        with attach(unet, [], plan, loras=[part]):
            assert torch.equal(run(unet, batch), bare)
    with attach(unet, [], RowPlan.classifier_free(), loras=[LoraPart(lora, strength=0.0)]):
        without = hooks(unet)
    with attach(unet, [], RowPlan.classifier_free()):
        assert hooks(unet) == without  # a LoRA of strength 0 has none
    with pytest.raises(SettingsError, match="LoRA strength"):
        LoraPart(lora, strength=-1.0)


@torch.no_grad()
def test_a_failure_inside_leaves_no_hook() -> None:
    base = "sd15"
    unet = diffusers_unet(base)
    lora = layout.read_processors(processors(unet, CONTEXT[base]), "file", "id").lora
    kv = projections_for(unet, CONTEXT[base]).keys_values(token_groups(CONTEXT[base]))
    batch, bare = Batch.draw(base), run(unet, Batch.draw(base))
    parts = [LoraPart(lora, region=torch.ones(16, 16))]

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), attach(unet, [Conditioning(kv, kv)], RowPlan.classifier_free(), loras=parts):
        handle = unet.up_blocks[1].register_forward_pre_hook(fail)
        try:
            run(unet, batch)
        finally:
            handle.remove()
    assert hooks(unet) == 0 and torch.equal(run(unet, batch), bare)


def _level(unet, site: str) -> torch.nn.Module:
    return next(s for s in read_topology(unet).sites if s.name == site).module


@torch.no_grad()
def test_a_region_of_ones_is_everywhere_and_of_zeros_nowhere() -> None:
    base = "sd15"
    unet = ldm_unet(base)
    lora = layout.read_processors(processors(unet, CONTEXT[base]), "file", "id").lora
    batch = Batch.draw(base, size=(16, 24))
    results = {}
    for name, region in (("none", None), ("ones", torch.ones(8, 12)), ("zeros", torch.zeros(40, 60))):
        with attach(unet, [], RowPlan.classifier_free(), loras=[LoraPart(lora, strength=0.9, region=region)]):
            results[name] = run(unet, batch)
    bare = run(unet, batch)
    assert (results["ones"] - results["none"]).abs().max() <= TOLERANCE
    assert torch.equal(results["zeros"], bare)
    assert (results["ones"] - bare).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_inside_one_attention_only_the_region_changes() -> None:
    """At the first cross-attention: positions outside keep their bits, positions well inside are the full LoRA's."""
    base = "sd15"
    unet = ldm_unet(base)
    whole = layout.read_processors(processors(unet, CONTEXT[base]), "file", "id").lora
    site = "input.1.1.0"
    lora = AttentionLora({k: v for k, v in whole.layers.items() if k.startswith(f"{site}.attn2.")})
    assert len(lora.layers) == 4
    region = torch.zeros(16, 16)
    region[:, 8:] = 1
    batch, seen = Batch.draw(base), {}
    for name, parts in (("bare", []), ("full", [LoraPart(lora)]), ("part", [LoraPart(lora, region=region)])):
        handle = _level(unet, site).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out}))
        with attach(unet, [], RowPlan.classifier_free(), loras=parts):
            run(unet, batch)
        handle.remove()
    inside = token_weights(region, (16, 16), 256) == 1
    assert torch.equal(seen["part"][:, ~inside], seen["bare"][:, ~inside])
    assert (seen["part"] - seen["full"])[:, inside].abs().max() <= 1e-5
    assert (seen["full"] - seen["bare"]).abs().max() > 1e-2


@torch.no_grad()
def test_half_precision_follows_the_unet() -> None:
    base = "sd15"
    unet = diffusers_unet(base)
    lora = layout.read_processors(processors(unet, CONTEXT[base]), "file", "id").lora
    batch, bare = Batch.draw(base), run(unet, Batch.draw(base))
    with attach(unet, [], RowPlan.classifier_free(), loras=[LoraPart(lora)]):
        full = run(unet, batch)
    unet.to(torch.bfloat16)
    with attach(unet, [], RowPlan.classifier_free(), loras=[LoraPart(lora)]):
        half = run(unet, batch.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and (half.float() - full).abs().mean() < 0.15 * (full - bare).abs().mean()


@torch.no_grad()
def test_what_does_not_fit_or_does_not_run_is_refused() -> None:
    base = "sd15"
    unet = diffusers_unet(base)
    lora = layout.read_processors(processors(unet, CONTEXT[base]), "file", "id").lora
    plan = RowPlan.classifier_free()
    name = "input.1.1.0.attn1.to_q"
    other = AttentionLora({name: LoraLayer(torch.ones(4, 33), torch.ones(32, 4))})
    with pytest.raises(CheckpointError, match=r"33 -> 32, the UNet's 32 -> 32"):  # noqa: SIM117
        with attach(unet, [], plan, loras=[LoraPart(other)]):
            pass
    missing = AttentionLora({"input.99.1.0.attn1.to_q": lora.layers[name]})
    with pytest.raises(CheckpointError, match="which this UNet has not"):  # noqa: SIM117
        with attach(unet, [], plan, loras=[LoraPart(missing)]):
            pass
    with pytest.raises(CheckpointError, match=r"down \(4, 32\) and up \(32, 5\)"):
        LoraLayer(torch.ones(4, 32), torch.ones(32, 5))
    attn = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    replaced = attn.to_q.forward
    attn.processor = lambda a, x, *_, **__: a.to_out[0](x)  # an extension that leaves the layers out
    with pytest.raises(AttachError, match="did not run as modules"), attach(unet, [], plan, loras=[LoraPart(lora)]):
        run(unet, Batch.draw(base))
    assert hooks(unet) == 0 and attn.to_q.forward == replaced
