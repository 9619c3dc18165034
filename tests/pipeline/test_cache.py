"""The content cache keeps its bound and serves several threads."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from facesnap.pipeline.cache import ContentCache


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60), st.integers(0, 100))
def test_the_bound_holds_and_results_are_right(requests: list[tuple[int, int]], bound: int) -> None:
    cache = ContentCache(bound)
    sizes = {}
    for key, size in requests:
        size = sizes.setdefault(key, size)
        assert cache.get(key, lambda k=key: ("result", k), lambda _, s=size: s) == ("result", key)
        assert cache.nbytes <= bound


def test_kept_results_are_not_made_again_and_the_oldest_goes_first() -> None:
    cache, made = ContentCache(20), []
    for key in (1, 2, 1, 3, 1, 2):  # 2 is the least recently used when 3 comes
        cache.get(key, lambda k=key: made.append(k) or k, lambda _: 10)
    assert made == [1, 2, 3, 2]


def test_threads() -> None:
    cache, wrong = ContentCache(50), []

    def work() -> None:
        for i in range(300):
            if cache.get(i % 7, lambda k=i % 7: k * 11, lambda _: 10) != i % 7 * 11:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.nbytes <= 50
