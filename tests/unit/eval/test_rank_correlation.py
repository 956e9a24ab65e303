"""Rank agreement against definitions, and against scipy where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.eval.ranks import rank_agreement


def test_the_same_order_the_opposite_order_and_one_swap() -> None:
    same = rank_agreement([1, 2, 3, 4], [10, 20, 30, 40])
    assert (same.kendall, same.spearman, same.flipped, same.pairs) == (1.0, 1.0, 0, 6)
    opposite = rank_agreement([1, 2, 3, 4], [4, 3, 2, 1])
    assert (opposite.kendall, opposite.spearman, opposite.flipped) == (-1.0, -1.0, 6)
    swap = rank_agreement([1, 2, 3, 4], [1, 3, 2, 4])
    assert swap.kendall == pytest.approx(4 / 6)
    assert swap.spearman == pytest.approx(0.8)
    assert (swap.flipped, swap.tied) == (1, 0)


def test_ties_are_neither_alike_nor_flipped() -> None:
    found = rank_agreement([1, 1, 2, 3], [5, 6, 7, 7])
    assert (found.pairs, found.flipped, found.tied) == (5, 0, 1)
    assert found.kendall == pytest.approx(4 / math.sqrt(25))


@pytest.mark.parametrize("values", [([1.0, 1.0], [1.0, 2.0]), ([1.0], [2.0]), ([], [])])
def test_a_side_that_ranks_nothing_has_no_correlation(values) -> None:
    found = rank_agreement(*values)
    assert (found.kendall, found.spearman) == (None, None)


def test_rounding_of_the_ledger_is_no_difference() -> None:
    assert rank_agreement([0.1, 0.2], [float(np.float32(0.1)), 0.1]).tied == 1


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 2 and 1 values; leave out"):
        rank_agreement([1, 2], [1])


def test_scipy_says_the_same() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    for _ in range(20):
        first, second = rng.integers(0, 6, (2, 12)).tolist()
        found = rank_agreement(first, second)
        assert found.kendall == pytest.approx(stats.kendalltau(first, second).statistic)
        assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic)
