from __future__ import annotations

import math

import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.eval.paired import mean, paired_difference, share_interval


def test_binary_pairs_agree_with_the_closed_form() -> None:
    # b prompts gained, c lost, of n: mean (b - c)/n, variance ((b + c) - (b - c)^2/n)/(n - 1).
    n, gained, lost = 100, 30, 10
    before = [0.0] * gained + [1.0] * lost + [1.0] * (n - gained - lost)
    after = [1.0] * gained + [0.0] * lost + [1.0] * (n - gained - lost)
    difference = paired_difference(before, after)
    half = 1.959963984540054 * math.sqrt(((gained + lost) - (gained - lost) ** 2 / n) / (n - 1) / n)
    assert difference.mean == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert difference.n == n


def test_pairing_is_narrower_than_two_independent_samples() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.random(300)
    difference = paired_difference(list(hardness), list(hardness + 0.05))
    assert difference.high - difference.low < 1e-9
    assert difference.mean == pytest.approx(0.05)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        before = rng.random(256) < 0.4
        after = before ^ (rng.random(256) < 0.3)
        truth = 0.3 * (0.6 - 0.4)
        difference = paired_difference(before.tolist(), after.tolist())
        hits += difference.low <= truth <= difference.high
    assert 0.92 <= hits / 400 <= 0.98


def test_one_prompt_says_nothing_and_none_is_refused() -> None:
    assert (paired_difference([0], [1]).low, paired_difference([0], [1]).high) == (-1.0, 1.0)
    with pytest.raises(ConfigError, match="same prompts"):
        paired_difference([], [])
    with pytest.raises(ConfigError, match="got 2 before and 1 after"):
        paired_difference([0, 1], [1])


def test_share_interval_stays_inside_zero_and_one() -> None:
    assert share_interval([]) == (0.0, 1.0)
    low, high = share_interval([1, 1, 1, 0])
    assert 0 < low < 0.75 < high <= 1
    assert share_interval([0.5]) == (0.5, 0.5)


def test_the_mean_of_nothing_is_absent_and_not_zero() -> None:
    assert mean([]) is None
    assert mean([0.25, 0.75]) == 0.5
