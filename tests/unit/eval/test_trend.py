"""When a reward and a held-out judge part, and how often they only seem to."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from alphagrpo.eval import trend
from alphagrpo.eval.trend import FALLS, RISES, divergence, score

LOOKS, WINDOW, RUNS = 50, 10, 20_000
"""As docs/watch.md has them."""


def test_the_chance_of_an_order_is_counted_exactly() -> None:
    orders = [score(order) for order in permutations(range(5))]
    for value in (-10, -6, 0, 4, 10):
        expected = sum(one >= value for one in orders) / len(orders)
        assert trend._at_least(value, 5) == pytest.approx(expected)
    assert sum(trend._orders(9)) == 362_880


def test_a_reward_that_rises_while_the_judge_falls_is_a_divergence() -> None:
    rising = [0.5 + 0.02 * i for i in range(10)]
    falling = [0.8 - 0.02 * i for i in range(10)]
    found = divergence(rising, falling)
    assert found.holds(min_fall=0.02, already=False)
    assert found.fall == pytest.approx(0.1)
    assert found.fall_p == found.rise_p == pytest.approx(1 / 3_628_800)


@pytest.mark.parametrize(
    ("rewards", "heldout"),
    [
        (range(10), range(10)),  # both rise
        (range(10, 0, -1), range(10, 0, -1)),  # both fall
        ([0.5] * 10, range(10, 0, -1)),  # the reward stays
        (range(10), [0.5] * 10),
        (range(10), [0.5 - 0.0001 * i for i in range(10)]),  # a fall of nothing
        (range(10), [9, 3, 8, 2, 7, 6, 1, 5, 0, 4]),  # noise
    ],
)
def test_anything_else_is_none(rewards: list[float], heldout: list[float]) -> None:
    assert not divergence(list(rewards), list(heldout)).holds(min_fall=0.02, already=False)


def test_a_divergence_ends_later_than_it_begins() -> None:
    noisy = [0.80, 0.70, 0.78, 0.74, 0.75, 0.71, 0.72, 0.69, 0.73, 0.68]
    found = divergence(list(range(10)), noisy)
    assert FALLS < found.fall_p <= trend.ENDS
    assert found.holds(min_fall=0.02, already=True)
    assert not found.holds(min_fall=0.02, already=False)


def scores_of_windows(values: np.ndarray) -> np.ndarray:
    """[runs, windows] Kendall's statistic of every window of [runs, looks]."""
    later, earlier = np.tril_indices(WINDOW, -1)
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=1)
    return np.sign(windows[..., later] - windows[..., earlier]).sum(axis=-1).astype(int)


def false_alarms(*, rises: bool) -> float:
    """Share of runs with an alarm, of noise without a trend; ``rises``: but the reward's."""
    pairs = WINDOW * (WINDOW - 1) // 2
    chance = np.array([trend._at_least(value, WINDOW) for value in range(-pairs, pairs + 1)])
    alarms, rng = 0, np.random.default_rng(7)
    for _ in range(RUNS // 1000):
        rewards, heldout = rng.normal(size=(2, 1000, LOOKS))
        falls = chance[pairs - scores_of_windows(heldout)] <= FALLS
        if not rises:
            falls &= chance[pairs + scores_of_windows(rewards)] <= RISES
        alarms += int(falls.any(axis=1).sum())
    return alarms / RUNS


def test_false_alarms_are_as_rare_as_the_manual_says() -> None:
    assert false_alarms(rises=False) < 0.001
    assert 0.002 < false_alarms(rises=True) < 0.01
