"""The memory of answers: what it keeps, what goes first, what it counts."""

from __future__ import annotations

import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.judging.cache import LruCache

A, B, C = ("a",), ("b",), ("c",)


def filled(capacity: int, *keys: tuple[str, ...]) -> LruCache[int]:
    cache: LruCache[int] = LruCache(capacity)
    for number, key in enumerate(keys):
        cache.put(key, number)
    return cache


def test_the_oldest_goes_first() -> None:
    cache = filled(2, A, B, C)
    assert [cache.get(key) for key in (A, B, C)] == [None, 1, 2]
    assert len(cache) == 2


def test_what_was_read_last_stays() -> None:
    cache = filled(2, A, B)
    cache.get(A)
    cache.put(C, 2)
    assert [cache.get(key) for key in (A, B, C)] == [0, None, 2]


def test_what_was_written_again_stays_with_its_new_value() -> None:
    cache = filled(2, A, B, A)
    cache.put(C, 3)
    assert [cache.get(key) for key in (A, B, C)] == [2, None, 3]


def test_a_miss_does_not_change_the_order() -> None:
    cache = filled(2, A, B)
    cache.get(C)
    cache.put(C, 2)
    assert cache.get(A) is None


def test_hits_and_misses_are_counted() -> None:
    cache = filled(2, A)
    for key in (A, A, B):
        cache.get(key)
    assert (cache.hits, cache.misses) == (2, 1)


def test_an_answer_that_is_false_is_an_answer() -> None:
    cache: LruCache[float] = LruCache(1)
    cache.put(A, 0.0)
    assert cache.get(A) == 0.0
    assert cache.hits == 1


def test_a_capacity_of_0_keeps_nothing_and_less_is_refused() -> None:
    assert filled(0, A).get(A) is None
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        LruCache(-1)
