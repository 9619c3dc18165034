"""Kernel launches that ID tokens add at a site, counted by operators that are dispatched; views start no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from facesnap.attach import Conditioning, Row, RowPlan, Rule, attach, read_topology
from tests.networks import CONTEXT, Batch, ldm_unet, projections_for, run, token_groups

COND, UNCOND = True, False
CASES = {  # rows of a call -> launches that a person adds on cond rows, without and with a region
    "all": ((COND, COND), 2, 3),
    "A1111: cond first": ((COND, UNCOND), 2, 3),
    "diffusers, Forge: uncond first": ((UNCOND, UNCOND, COND, COND), 2, 3),
    "scattered": ((COND, UNCOND, COND, UNCOND), 3, 4),
}


class Launches(TorchDispatchMode):
    """A count of operators whose result is no view of their input, and a list of those that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.waits = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        self.count += not views
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default):
            self.waits.append(str(func))  # .item(), bool(tensor); a tensor made of a list
        return func(*args, **(kwargs or {}))


def _count(roles: Sequence[bool], **person: Any) -> tuple[float, list[str]]:
    """Launches that one person adds a site in the second call, and what waits for the device there."""
    unet, batch = ldm_unet("sd15"), Batch.draw("sd15", len(roles), (8, 8))
    kv = projections_for(unet, CONTEXT["sd15"]).keys_values(token_groups(CONTEXT["sd15"]))
    rows = [Row(i, cond) for i, cond in enumerate(roles)]
    with torch.inference_mode():
        with Launches() as bare:
            without = run(unet, batch)
        with attach(unet, [Conditioning(kv, strength=0.8, **person)], RowPlan(rows)):
            run(unet, batch)
            with Launches() as ours:
                out = run(unet, batch)
    changed = (out - without).abs().amax((1, 2, 3))
    assert all((c > 1e-2) == cond for c, cond in zip(changed.tolist(), roles, strict=True))
    assert bare.count > 100
    return (ours.count - bare.count) / len(read_topology(unet).sites), ours.waits


@pytest.mark.parametrize("case", CASES)
def test_launches_a_site(case: str) -> None:
    roles, plain, with_region = CASES[case]
    assert _count(roles) == (plain, [])
    region = torch.linspace(0.1, 1, 64).reshape(8, 8)
    assert _count(roles, region=region) == (with_region, [])


@pytest.mark.parametrize("rule", (Rule.ORTHO, Rule.ORTHO_V2))
def test_a_later_rule_still_reads_the_text_as_it_was(rule: Rule) -> None:
    """A person that is added in place must not change what another person's rule sees."""
    unet, batch = ldm_unet("sd15"), Batch.draw("sd15", 2, (8, 8))
    kv = projections_for(unet, CONTEXT["sd15"]).keys_values(token_groups(CONTEXT["sd15"]))
    people = [Conditioning(kv), Conditioning(kv, rule=rule)]
    rows = RowPlan.classifier_free()

    def both(order: Sequence[Conditioning]) -> Tensor:
        with torch.inference_mode(), attach(unet, order, rows):
            return run(unet, batch)

    ahead, behind = both(people), both(people[::-1])
    assert (ahead - behind).abs().max() <= 1e-4
    with torch.inference_mode(), attach(unet, people[:1], rows):
        assert (run(unet, batch) - ahead).abs().max() > 1e-2


def test_in_place_equals_the_copy_that_a_backward_pass_gets() -> None:
    unet, batch = ldm_unet("sd15"), Batch.draw("sd15", 2, (8, 8))
    kv = projections_for(unet, CONTEXT["sd15"]).keys_values(token_groups(CONTEXT["sd15"]))
    people, rows = [Conditioning(kv), Conditioning(kv, strength=0.5)], RowPlan.classifier_free()
    with torch.inference_mode(), attach(unet, people, rows):
        in_place = run(unet, batch)
    with torch.enable_grad(), attach(unet, people, rows):
        copied = unet(batch.x, batch.t, context=batch.context)
    assert copied.requires_grad
    copied.sum().backward()  # raises where a tensor that it needs was changed in place
    assert (copied.detach() - in_place).abs().max() <= 1e-5
