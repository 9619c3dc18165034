"""PuLID's rules against the formulas of its paper and code, written out on explicit attention maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facesnap.attach import Conditioning, RowPlan, Rule, attach
from facesnap.attach.attention import id_output, stack_rows
from facesnap.models.projections import GroupKV
from tests.networks import CONTEXT, Batch, diffusers_unet, projections_for, run, token_groups

HEADS = 4


def _explicit(q: Tensor, text: Tensor, k: Tensor, v: Tensor, rule: Rule, zeros: int) -> Tensor:
    """One row at a time, head by head, in float64."""
    k = torch.cat((k, k.new_zeros(zeros, k.shape[1])))
    v = torch.cat((v, v.new_zeros(zeros, v.shape[1])))
    d = q.shape[-1] // HEADS
    heads, maps = [], []
    for i in range(HEADS):
        part = slice(i * d, (i + 1) * d)
        logits = q[:, part] @ k[:, part].T
        heads.append(torch.softmax(logits / d**0.5, -1) @ v[:, part])
        maps.append(torch.softmax(logits, -1))
    o = torch.cat(heads, -1)
    parallel = text * (text * o).sum(0) / (text * text).sum(0)
    if rule is Rule.ORTHO:
        return o - parallel
    if rule is Rule.ORTHO_V2:
        m = torch.stack(maps).mean(0)[:, :5].sum(-1, keepdim=True)
        return o + (m - 1) * parallel
    return o


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("zeros", (0, 8, 16))
def test_rules_equal_their_formulas(rule: Rule, zeros: int) -> None:
    g = torch.Generator().manual_seed(0)
    rows, n, tokens, width = 3, 21, 10, 32
    q, text = torch.randn(rows, n, width, generator=g), torch.randn(rows, n, width, generator=g)
    kv = [GroupKV(*torch.randn(2, tokens, width, generator=g)) for _ in range(rows)]
    ours = id_output(q, text, [stack_rows(kv, zeros, q)], HEADS, rule)
    for i in range(rows):
        expected = _explicit(q[i].double(), text[i].double(), kv[i].k.double(), kv[i].v.double(), rule, zeros)
        assert (ours[i] - expected).abs().max() <= 1e-5
        assert expected.abs().mean() > 1e-2
    if rule is Rule.ORTHO:
        assert (ours * text).sum(1).abs().max() <= 1e-3  # nothing is left along the text output


def test_rules_differ_on_a_unet_and_see_the_text_output_of_another_person() -> None:
    unet, batch = diffusers_unet("sd15"), Batch.draw("sd15")
    kv = projections_for(unet, CONTEXT["sd15"]).keys_values(token_groups(CONTEXT["sd15"], tokens=10))
    results = {}
    for rule in Rule:
        with attach(unet, [Conditioning(kv, kv, rule=rule, zero_tokens=8)], RowPlan.classifier_free()):
            results[rule] = run(unet, batch)
    assert (results[Rule.ADD] - results[Rule.ORTHO]).abs().max() > 1e-2
    assert (results[Rule.ORTHO_V2] - results[Rule.ORTHO]).abs().max() > 1e-2
    # h is the text output, not what another person has made of it: the order of people does not matter
    people = [Conditioning(kv, kv, rule=Rule.ORTHO), Conditioning(kv, kv)]
    outputs = []
    for order in (people, people[::-1]):
        with attach(unet, order, RowPlan.classifier_free()):
            outputs.append(run(unet, batch))
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-4


def test_quality_bias_makes_copies_of_a_reference_count_once() -> None:
    """k equal references with weight 1/k each attend exactly as one; an unsure one counts for less."""
    g = torch.Generator().manual_seed(0)
    q, text = torch.randn(2, 1, 9, 32, generator=g)
    k, v = torch.randn(2, 4, 32, generator=g)
    one = id_output(q, text, [stack_rows([GroupKV(k, v)], 0, q)], HEADS, Rule.ADD)
    thrice = GroupKV(k.repeat(3, 1), v.repeat(3, 1), torch.full((12,), 1 / 3).log())
    assert (id_output(q, text, [stack_rows([thrice], 0, q)], HEADS, Rule.ADD) - one).abs().max() <= 1e-6
    other_k, other_v = torch.randn(2, 4, 32, generator=g)
    for weight, bound in ((1e-6, 1e-4), (0.5, None)):
        bias = torch.tensor([1 - weight] * 4 + [weight] * 4).log()
        mixed = GroupKV(torch.cat((k, other_k)), torch.cat((v, other_v)), bias)
        change = (id_output(q, text, [stack_rows([mixed], 0, q)], HEADS, Rule.ADD) - one).abs().max()
        assert change <= bound if bound else change > 1e-2
