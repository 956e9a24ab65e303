"""The memory of answers: bounded, and what was used last stays longest."""

from __future__ import annotations

import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.judging.cache import LruCache


def kept(cache: LruCache[int]) -> set[str]:
    return {key for key in "abcd" if (key,) in cache._entries}


def test_what_was_asked_for_last_outlives_what_was_put_last() -> None:
    cache: LruCache[int] = LruCache(2)
    cache.put(("a",), 1)
    cache.put(("b",), 2)
    assert cache.get(("a",)) == 1
    cache.put(("c",), 3)
    assert kept(cache) == {"a", "c"}
    cache.put(("a",), 4)
    cache.put(("d",), 5)
    assert kept(cache) == {"a", "d"}
    assert cache.get(("a",)) == 4
    assert len(cache) == 2


def test_hits_and_misses_are_counted() -> None:
    cache: LruCache[int] = LruCache(1)
    assert cache.get(("a",)) is None
    cache.put(("a",), 0)
    assert cache.get(("a",)) == 0
    assert (cache.hits, cache.misses) == (1, 1), "an answer of 0 is an answer"


def test_a_capacity_of_nought_keeps_nothing_and_a_negative_one_is_refused() -> None:
    cache: LruCache[int] = LruCache(0)
    cache.put(("a",), 1)
    assert cache.get(("a",)) is None
    with pytest.raises(ConfigError, match="at least 0"):
        LruCache(-1)
