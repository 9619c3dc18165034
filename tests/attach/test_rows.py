"""Row plans: whatever rows the host puts in a call, each gets what it would get alone."""

from __future__ import annotations

import functools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from facesnap.attach import Conditioning, Row, RowPlan, attach
from facesnap.errors import AttachError
from tests.networks import CONTEXT, Batch, ldm_unet, projections_for, run, token_groups

PICTURES = 3


@functools.cache
def _unet() -> nn.Module:
    return ldm_unet("sd15")


@functools.cache
def _people() -> tuple[Conditioning, ...]:
    """One person in every picture; one in picture 1 only, with another number of tokens; one on cond rows only."""
    projections = projections_for(_unet(), CONTEXT["sd15"])
    kv = [projections.keys_values(token_groups(CONTEXT["sd15"], tokens=n, seed=s)) for n, s in ((4, 1), (8, 2), (4, 3))]
    zero = projections.keys_values(token_groups(CONTEXT["sd15"], tokens=4, seed=4))
    return (
        Conditioning(kv[0], zero, pictures=frozenset({0, 2}), strength=0.7),
        Conditioning(kv[1], zero, pictures=frozenset({1})),
        Conditioning(kv[2], None, strength=0.5),
    )


@functools.cache
def _alone(row: Row, part: int) -> tuple[Tensor, Tensor]:
    """What a row gives when it is the only one in the batch: with the people, and bare."""
    batch = _batch((row,), (part,))
    with attach(_unet(), _people(), RowPlan([row])):
        with_people = run(_unet(), batch)
    return with_people, run(_unet(), batch)


def _batch(rows: tuple[Row, ...], parts: tuple[int, ...]) -> Batch:
    """Each row's content depends on its picture, role and AND-part alone."""
    singles = [
        Batch.draw("sd15", 1, (8, 8), seed=100 * r.picture + 10 * r.cond + p) for r, p in zip(rows, parts, strict=True)
    ]
    joined = [torch.cat([getattr(b, f) for b in singles]) for f in ("x", "t", "context", "text_embeds", "time_ids")]
    return Batch(*joined)


ROWS = st.lists(
    st.tuples(st.builds(Row, st.integers(0, PICTURES - 1), st.booleans()), st.integers(0, 2)), min_size=1, max_size=7
)


@settings(max_examples=40)
@given(ROWS)
def test_every_row_gets_what_it_gets_alone(plan: list[tuple[Row, int]]) -> None:
    """Cond only, uncond only, AND-composed (parts), odd batches, any order."""
    rows, parts = tuple(r for r, _ in plan), tuple(p for _, p in plan)
    with attach(_unet(), _people(), RowPlan(rows)):
        out = run(_unet(), _batch(rows, parts))
    for i, (row, part) in enumerate(plan):
        expected, bare = _alone(row, part)
        assert (out[i : i + 1] - expected).abs().max() <= 1e-4
        if row.cond:
            assert (expected - bare).abs().max() > 1e-2


@settings(max_examples=15)
@given(ROWS, st.integers(1, 6))
def test_unequal_calls_of_one_sampling_step(plan: list[tuple[Row, int]], cut: int) -> None:
    """A host that splits a step in two calls (unequal prompt lengths) gets the rows of the one-call step."""
    rows, parts = tuple(r for r, _ in plan), tuple(p for _, p in plan)
    if cut >= len(rows):
        return
    row_plan = RowPlan(rows)
    with attach(_unet(), _people(), row_plan):
        whole = run(_unet(), _batch(rows, parts))
        pieces = []
        for piece in (slice(0, cut), slice(cut, None)):
            row_plan.rows = rows[piece]
            pieces.append(run(_unet(), _batch(rows[piece], parts[piece])))
    assert (torch.cat(pieces) - whole).abs().max() <= 1e-4


def test_tiles_repeat_the_pattern() -> None:
    rows = (Row(0, True), Row(0, False))
    batch = _batch(rows * 3, (0, 0, 1, 1, 2, 2))
    with attach(_unet(), _people(), RowPlan(rows)):
        out = run(_unet(), batch)
    for i, (row, part) in enumerate(zip(rows * 3, (0, 0, 1, 1, 2, 2), strict=True)):
        assert (out[i : i + 1] - _alone(row, part)[0]).abs().max() <= 1e-4


@pytest.mark.parametrize("copied", (False, True), ids=("views", "copies"))
@pytest.mark.parametrize("first_half_cond", (True, False))
def test_slices_of_the_batch_inside_a_site(
    copied: bool, first_half_cond: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regional Prompter's way: attn2.forward replaced, to_q and to_out called several times with half of the rows."""
    unet = _unet()
    rows = tuple(Row(p, c) for c in (first_half_cond, not first_half_cond) for p in (0, 1))
    batch = _batch(rows, (0, 0, 0, 0))
    with attach(unet, _people(), RowPlan(rows)):
        expected = run(unet, batch)
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            monkeypatch.setattr(module, "forward", _by_halves(module, copied))
    with attach(unet, _people(), RowPlan(rows)):
        halves = run(unet, batch)
    assert (halves - expected).abs().max() <= 1e-4
    assert (run(unet, batch) - expected).abs().max() > 1e-2


def _by_halves(module: nn.Module, copied: bool):
    whole = type(module).forward

    def forward(x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        out = []
        for half, c in zip(x.chunk(2), context.chunk(2), strict=True):
            half = half.clone() if copied else half
            once = whole(module, half, c)
            twice = whole(module, half, c)  # one call a region
            out.append((once + twice) / 2)
        return torch.cat(out)

    return forward


class Couple:
    """Forge Couple's way: at each attn2 the cond rows come once for every prompt, with a row of zeros where the number
    would be odd; afterwards the copies are blended, here into their mean."""

    def __init__(self, unet: nn.Module, rows: tuple[Row, ...], times: int, reverse: bool = False) -> None:
        self.sites = [m for n, m in unet.named_modules() if n.endswith("attn2")]
        size = len({row.picture for row in rows})
        self.chunks = [(slice(a, a + size), times if rows[a].cond else 1) for a in range(0, len(rows), size)]
        self.reverse = reverse

    def __enter__(self) -> None:
        self.handles = [m.register_forward_pre_hook(self.repeat, with_kwargs=True) for m in self.sites]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def repeat(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x, context = args[0], kwargs["context"]
        parts = [(x[c].repeat(n, 1, 1), context[c].repeat(n, 1, 1)) for c, n in self.chunks]
        x, context = (torch.cat(part) for part in zip(*(parts[::-1] if self.reverse else parts), strict=True))
        if len(x) % 2:
            x, context = (torch.cat((part, torch.zeros_like(part[:1]))) for part in (x, context))
        return (x, *args[1:]), {**kwargs, "context": context}

    def blend(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        out, at = [], 0
        for chunk, n in self.chunks:
            size = chunk.stop - chunk.start
            out.append(output[at : at + n * size].view(n, size, *output.shape[1:]).mean(0))
            at += n * size
        return torch.cat(out)


COUPLED = {
    "three prompts": ((Row(0, False), Row(0, True)), 3),
    "two, the number odd": ((Row(0, False), Row(0, True)), 2),
    "two pictures": ((Row(0, False), Row(1, False), Row(0, True), Row(1, True)), 2),
    "AND": ((Row(0, False), Row(0, True), Row(0, True)), 2),
    "cond alone": ((Row(0, True),), 3),
    "uncond alone": ((Row(0, False),), 3),
}


@pytest.mark.parametrize("case", COUPLED)
def test_cond_rows_that_come_once_for_every_prompt(case: str) -> None:
    rows, times = COUPLED[case]
    unet, batch = _unet(), _batch(rows, tuple(range(len(rows))))
    with attach(unet, _people(), RowPlan(rows)):
        expected = run(unet, batch)
    couple = Couple(unet, rows, times)
    with couple:
        couple.handles += [m.register_forward_hook(couple.blend) for m in couple.sites]
        with attach(unet, _people(), RowPlan(rows)):
            coupled = run(unet, batch)
    assert (coupled - expected).abs().max() <= 1e-4
    assert (run(unet, batch) - expected).abs().max() > 1e-2


def test_repeated_rows_in_another_order_are_an_error() -> None:
    rows = (Row(0, False), Row(0, True))
    unet = _unet()
    with (
        Couple(unet, rows, 3, reverse=True),
        pytest.raises(AttachError, match="4 rows out of 2"),
        attach(unet, _people(), RowPlan(rows)),
    ):
        run(unet, _batch(rows, (0, 0)))


def test_one_site_at_a_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of all sites of SDXL at 1024 pixels are 400 MB."""
    unet, rows, alive = _unet(), (Row(0, True), Row(0, False)), []
    kept: list[weakref.ref[Tensor]] = []
    handles = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(module.register_forward_pre_hook(lambda _, args: kept.append(weakref.ref(args[0]))))
            handles.append(
                module.register_forward_pre_hook(lambda *_: alive.append(sum(one() is not None for one in kept)))
            )
    with torch.no_grad(), attach(unet, _people(), RowPlan(rows)):
        run(unet, _batch(rows, (0, 0)))
    for handle in handles:
        handle.remove()
    assert len(alive) == 16 and max(alive) <= 2


def test_a_slice_that_cannot_be_placed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, rows = _unet(), (Row(0, True), Row(0, False))
    site = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
    whole = type(site).forward
    monkeypatch.setattr(
        site, "forward", lambda x, context=None, mask=None: whole(site, x[:1] * 1.5, context[:1]).expand(2, -1, -1)
    )
    with pytest.raises(AttachError, match=r"cannot be placed.*Remedy"), attach(unet, _people(), RowPlan(rows)):
        run(unet, _batch(rows, (0, 0)))


def test_a_batch_that_does_not_fit_the_plan_is_an_error() -> None:
    rows = (Row(0, True), Row(0, False))
    batch = _batch((*rows, Row(1, True)), (0, 0, 0))
    with pytest.raises(AttachError, match="3 rows, the host's plan has 2"), attach(_unet(), _people(), RowPlan(rows)):
        run(_unet(), batch)
