"""Which UNet calls compute FFRNet and which take the residuals of the sigma before."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.attach.residual_cache import FEWEST_STEPS, ResidualCache, may_reuse
from facesnap.attach.rows import RowPlan

Call = tuple[str, float, float]  # kind, t, progress


def play(calls: list[Call], steps: int | None) -> list[tuple[int, bool]]:
    """For each call, the number of the call whose value it got, and whether that was its own."""
    reuse: ResidualCache[int] = ResidualCache()
    got = [reuse.get(kind, (t,), RowPlan((), p, steps), lambda i=i: i) for i, (kind, t, p) in enumerate(calls)]
    assert reuse.computed + reuse.reused == len(calls)
    assert reuse.computed == sum(i == source for i, source in enumerate(got))
    return [(source, i == source) for i, source in enumerate(got)]


def euler(steps: int) -> list[Call]:
    return [("cfg", 1000 - 1000 * i / steps, i / steps) for i in range(steps)]


def test_thirty_euler_steps() -> None:
    computed = [own for _, own in play(euler(30), 30)]
    assert [i for i, own in enumerate(computed) if not own] == list(range(6, 23, 2))  # 9 of 30, none at the ends


def test_few_or_unknown_steps_are_all_computed() -> None:
    for steps in (1, 4, 8):
        assert all(own for _, own in play(euler(steps), steps))
    assert all(own for _, own in play(euler(30), None))
    assert FEWEST_STEPS == 9 and not all(own for _, own in play(euler(9), 9))


def test_heun_pairs_first_with_first_and_second_with_second() -> None:
    """Heun visits every sigma twice: as the end of one step, then as the beginning of the next."""
    steps, calls = 20, []
    for i in range(steps):
        calls += [("cfg", 1000 - 50 * i, i / steps), ("cfg", 1000 - 50 * (i + 1), i / steps)]
    result = play(calls, steps)
    for i, (source, own) in enumerate(result):
        if not own:
            assert calls[i][1] == calls[source][1] - 50 and i - source == 2  # first from first, second from second
    assert sum(not own for _, own in result) > 8


def test_midpoint_samplers_reuse_at_the_midpoint() -> None:
    """DPM++ SDE calls at sigma_i and at a midpoint: the midpoints take what was computed at sigma_i."""
    steps = 20
    calls = [("cfg", 1000 - 50 * i - 25 * half, (i + half / 2) / steps) for i in range(steps) for half in (0, 1)]
    result = play(calls, steps)
    reused = [i for i, (_, own) in enumerate(result) if not own]
    assert len(reused) >= 11 and all(result[i][0] == i - 1 for i in reused)


def test_split_calls_and_tiles_get_their_own() -> None:
    """AND parts, tiles and separate cond and uncond calls: several calls a sigma, in the same order each time."""
    steps = 20
    calls = [(kind, 1000.0 - 50 * i, i / steps) for i in range(steps) for kind in ("a", "b", "a", "a")]
    result = play(calls, steps)
    for i, (source, own) in enumerate(result):
        assert own or i - source == 4
    assert sum(not own for _, own in result) == 4 * 6


def test_restart_computes_after_going_up() -> None:
    ts = [700.0, 650, 600, 550, 700, 650, 600]
    result = play([("cfg", t, 0.5) for t in ts], 30)
    assert [own for _, own in result] == [True, False, True, False, True, False, True]
    up = play([("cfg", t, 0.5) for t in (600.0, 700)], 30)
    assert all(own for _, own in up)


def test_a_kind_that_paused_is_computed_again() -> None:
    calls = [("a", 900.0, 0.5), ("b", 890.0, 0.5), ("a", 880.0, 0.5), ("a", 870.0, 0.5)]
    assert [own for _, own in play(calls, 30)] == [True, True, True, False]


def test_nothing_is_reused_across_a_call_without_the_unet() -> None:
    """An accelerator leaves the UNet out in some of the sampler's calls: what was kept is then two sigmas old."""
    reuse: ResidualCache[int] = ResidualCache()
    plan, steps = RowPlan((), steps=30), 30
    ran = [i for i in range(steps) if i < 10 or i % 3]  # from the tenth on, every third call is left out
    source = {}
    for i in ran:
        plan.step, plan.progress = i, i / steps
        source[i] = reuse.get("cfg", (1000.0 - 30 * i,), plan, lambda i=i: i)
    assert {i: at for i, at in source.items() if at != i} == {6: 5, 8: 7, 10: 9, 14: 13, 17: 16, 20: 19, 23: 22}


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.floats(0, 1)),
        max_size=40,
    ),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_reused_values_come_from_the_sigma_just_before(calls: list[Call], steps: int | None) -> None:
    result = play(calls, steps)
    visits = [0]  # number of the visit to a sigma that each call belongs to
    for (_, t, _), (_, nxt, _) in pairwise(calls):
        visits.append(visits[-1] + (t != nxt))

    def place(n: int) -> int:
        """How many calls of its kind came before it within its visit."""
        return sum(calls[k][0] == calls[n][0] and visits[k] == visits[n] for k in range(n))

    for i, (source, own) in enumerate(result):
        if own:
            continue
        (kind, t, progress), (kind0, t0, _) = calls[i], calls[source]
        assert may_reuse(progress, steps) and steps is not None and steps > 8 and 0.2 <= progress < 0.8
        assert kind == kind0 and t < t0 and visits[i] == visits[source] + 1
        assert result[source][1] and place(i) == place(source)  # never reused twice, first from first
