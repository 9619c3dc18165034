"""Nothing is added where nothing is asked for, and nothing stays behind, however a run ends."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from facesnap.attach import Conditioning, RowPlan, attach
from facesnap.errors import AttachError, SettingsError, TopologyError
from tests.networks import CONTEXT, Batch, diffusers_unet, ldm_unet, projections_for, run, token_groups


def _hooks(unet: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
             "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks")  # fmt: skip
    return sum(len(getattr(m, k)) for m in unet.modules() for k in kinds)


TREES = [("sd15", "ldm"), ("sdxl", "ldm"), ("sd15", "diffusers"), ("sdxl", "diffusers")]


@pytest.fixture(params=TREES, ids=str, scope="module")
def setting(request: pytest.FixtureRequest):
    """One UNet for all tests: each leaves it as it was, which is what they are about."""
    base, tree = request.param
    unet = ldm_unet(base) if tree == "ldm" else diffusers_unet(base)
    kv = projections_for(unet, CONTEXT[base]).keys_values(token_groups(CONTEXT[base]))
    return unet, Batch.draw(base, size=(8, 8)), Conditioning(kv, kv)


def test_no_weight_is_bit_identical(setting) -> None:
    unet, batch, person = setting
    bare = run(unet, batch)
    sites = {name.split(".")[0] for name in person.cond}
    idle = {
        "strength 0": (replace(person, strength=0.0), 0.5),
        "before the window": (replace(person, start=0.4), 0.39),
        "after the window": (replace(person, end=0.4), 0.4),
        "empty window": (replace(person, start=0.5, end=0.5), 0.5),
        "blocks at 0": (replace(person, block_strengths=dict.fromkeys(sites, 0.0)), 0.5),
        "another picture": (replace(person, pictures=frozenset({7})), 0.5),
        "no person": (None, 0.5),
    }
    for name, (one, progress) in idle.items():
        plan = RowPlan.classifier_free()
        plan.progress = progress
        with attach(unet, [one] if one else [], plan) as attachment:
            assert torch.equal(run(unet, batch), bare), name
        assert attachment.calls == 1 and attachment.active_calls == 0
    plan = RowPlan.classifier_free()
    with attach(unet, [replace(person, start=0.4, end=0.6)], plan):
        for progress, inside in ((0.0, False), (0.4, True), (0.59, True), (0.6, False), (1.0, False)):
            plan.progress = progress
            assert torch.equal(run(unet, batch), bare) != inside
    plan.progress = 1.0
    with attach(unet, [person], plan):
        assert not torch.equal(run(unet, batch), bare)


@pytest.mark.parametrize("error", (RuntimeError, KeyboardInterrupt, GeneratorExit))
def test_nothing_stays_after_an_exception(setting, error: type[BaseException]) -> None:
    unet, batch, person = setting
    bare, hooks, modules = run(unet, batch), _hooks(unet), {n for n, _ in unet.named_modules()}
    names = [n for n, m in unet.named_modules() if n.endswith(("attn2.to_q", "attn2.to_k", "attn2.to_out.0"))]
    for name in (names[0], names[len(names) // 2], names[-1]):  # an exception in any place of the UNet
        module = unet.get_submodule(name)

        def fail(*_: object) -> None:
            raise error("planted")

        handle = module.register_forward_hook(fail)
        with pytest.raises(error), attach(unet, [person], RowPlan.classifier_free()):
            run(unet, batch)
        handle.remove()
        assert _hooks(unet) == hooks
        assert torch.equal(run(unet, batch), bare)
    with pytest.raises(error), attach(unet, [person], RowPlan.classifier_free()):
        run(unet, batch)
        raise error("between two steps")
    assert _hooks(unet) == hooks and {n for n, _ in unet.named_modules()} == modules
    assert torch.equal(run(unet, batch), bare)


def test_an_exception_in_our_own_hooks_leaves_nothing(setting, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, batch, person = setting
    bare, hooks = run(unet, batch), _hooks(unet)
    monkeypatch.setattr("facesnap.attach.tokens.id_output", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError), attach(unet, [person], RowPlan.classifier_free()):
        run(unet, batch)
    assert _hooks(unet) == hooks and torch.equal(run(unet, batch), bare)


def test_a_call_after_a_failed_call_starts_afresh(setting) -> None:
    """A host that retries inside the `with` (out of memory, smaller batch) gets the right result."""
    unet, batch, person = setting
    with attach(unet, [person], RowPlan.classifier_free()):
        expected = run(unet, batch)
        handle = next(m for n, m in unet.named_modules() if n.endswith("attn2.to_k")).register_forward_hook(
            lambda *_: 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            run(unet, batch)
        handle.remove()
        assert torch.equal(run(unet, batch), expected)


def test_a_failed_install_leaves_nothing(setting, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, _, person = setting
    hooks = _hooks(unet)
    site = [m for n, m in unet.named_modules() if n.endswith("attn2")][-1]
    monkeypatch.setattr(site, "register_forward_pre_hook", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError), attach(unet, [person], RowPlan.classifier_free()):
        pass
    assert _hooks(unet) == hooks


def test_nested_attachments_add_up_and_come_off(setting) -> None:
    unet, batch, person = setting
    half = replace(person, strength=0.5)
    bare = run(unet, batch)
    with attach(unet, [person], RowPlan.classifier_free()):
        whole = run(unet, batch)
    with attach(unet, [half], RowPlan.classifier_free()):
        alone = run(unet, batch)
        with attach(unet, [half], RowPlan.classifier_free()):
            assert (run(unet, batch) - whole).abs().max() <= 1e-4
        assert torch.equal(run(unet, batch), alone)
    assert torch.equal(run(unet, batch), bare)


def test_no_projection_and_no_module_is_held(setting) -> None:
    unet, batch, _ = setting
    base_context = next(m for n, m in unet.named_modules() if n.endswith("attn2.to_k")).in_features
    projections = projections_for(unet, base_context)
    kv = projections.keys_values(token_groups(base_context))
    dead = [weakref.ref(p) for p in projections.parameters()]
    with attach(unet, [Conditioning(kv, kv)], RowPlan.classifier_free()):
        run(unet, batch)
        del projections
        gc.collect()
        assert not any(ref() is not None for ref in dead)


def test_sites_that_do_not_fire_are_an_error(setting) -> None:
    """TensorRT and compiled UNets never call the modules."""
    unet, batch, person = setting
    site = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
    original = site.forward
    site.forward = lambda x, *a, **k: torch.zeros_like(x)
    try:
        with (
            pytest.raises(AttachError, match=r"compiled or replaced"),
            attach(unet, [person], RowPlan.classifier_free()),
        ):
            run(unet, batch)
    finally:
        site.forward = original
    with attach(unet, [person], RowPlan.classifier_free()) as attachment:
        pass  # the host sampled elsewhere
    with pytest.raises(AttachError, match="without calling"):
        attachment.require_called()


def test_unets_that_cannot_be_attached_to() -> None:
    kv: dict = {}
    with (
        pytest.raises(TopologyError, match=r"Linear.*input_blocks.*down_blocks"),
        attach(nn.Linear(2, 2), [Conditioning(kv)], RowPlan.classifier_free()),
    ):
        pass
    compiled = torch.compile(diffusers_unet("sd15"))
    with (
        pytest.raises(TopologyError, match=r"torch\.compile"),
        attach(compiled, [Conditioning(kv)], RowPlan.classifier_free()),
    ):
        pass
    in_place = diffusers_unet("sd15")
    in_place.compile()
    with (
        pytest.raises(TopologyError, match=r"torch\.compile"),
        attach(in_place, [Conditioning(kv)], RowPlan.classifier_free()),
    ):
        pass


def test_an_adapter_of_another_base_is_refused_before_anything_changes() -> None:
    xl = diffusers_unet("sdxl")
    kv = projections_for(xl, CONTEXT["sdxl"]).keys_values(token_groups(CONTEXT["sdxl"]))
    unet = diffusers_unet("sd15")
    with (
        pytest.raises(SettingsError, match=r"sites missing .*made for sd15"),
        attach(unet, [Conditioning(kv)], RowPlan.classifier_free()),
    ):
        pass
    assert _hooks(unet) == 0


@pytest.mark.parametrize(
    "wrong",
    (
        {"strength": float("nan")}, {"strength": -1}, {"start": 2.0}, {"end": float("inf")}, {"zero_tokens": -1},
        {"block_strengths": {"input": 99.0}}, {"region": torch.full((4, 4), 2.0)}, {"region": torch.zeros(4)},
        {"region": torch.full((4, 4), float("nan"))},
    ),
    ids=str,
)  # fmt: skip
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingsError, match="Expected"):
        Conditioning({}, **wrong)


def test_a_block_strength_that_names_no_site() -> None:
    unet = ldm_unet("sd15")
    kv = projections_for(unet, CONTEXT["sd15"]).keys_values(token_groups(CONTEXT["sd15"]))
    person = Conditioning(kv, block_strengths={"input.3": 0.5})
    with (
        pytest.raises(SettingsError, match=r"input\.3.*names no site"),
        attach(unet, [person], RowPlan.classifier_free()),
    ):
        pass
