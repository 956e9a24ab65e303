"""Whether a reward rises while a held-out judge falls: exact trend tests over a few looks.

The statistic is Kendall's: of all pairs of looks, those in which the later value is higher less
those in which it is lower. Without a trend every order of the values is as likely, whatever their
noise is like, so that its distribution is known without estimating anything.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

FALLS = 2e-4
"""The held-out figure falls where so few orders, of figures without a trend, would fall as far."""
RISES = 0.05
"""The reward rises, likewise."""
ENDS = 0.05
"""A divergence has ended when the held-out figure's fall is no rarer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The trends over a window."""

    rise_p: float
    """Share of orders in which the reward would rise as far, had it no trend."""
    fall_p: float
    """Share of orders in which the held-out figure would fall as far."""
    fall: float
    """Median of its first half less that of its second."""

    def holds(self, *, min_fall: float, already: bool) -> bool:
        """Whether the two have parted; one that has begun (``already``) ends later."""
        if self.fall < min_fall:
            return False
        if already:
            return self.fall_p <= ENDS
        return self.fall_p <= FALLS and self.rise_p <= RISES


def divergence(rewards: Sequence[float], heldout: Sequence[float]) -> Divergence:
    """The trends of n looks, in order of steps.

    At 50 looks and a window of 10, no noise with a trend in it, the chance of a false alarm in a
    whole run is given in docs/watch.md, as ``tests/unit/eval/test_trend.py`` simulates it.
    """
    half = len(heldout) // 2
    fall = statistics.median(heldout[:half]) - statistics.median(heldout[-half:])
    return Divergence(
        rise_p=_at_least(score(rewards), len(rewards)),
        fall_p=_at_least(-score(heldout), len(heldout)),
        fall=fall,
    )


def score(values: Sequence[float]) -> int:
    """Pairs in which the later value is higher, less pairs in which it is lower."""
    return sum(
        (later > earlier) - (later < earlier)
        for index, later in enumerate(values)
        for earlier in values[:index]
    )


def _at_least(value: int, n: int) -> float:
    """Share of the n! orders whose score is at least ``value``."""
    pairs = n * (n - 1) // 2
    inversions = (pairs - value) // 2
    return sum(_orders(n)[: inversions + 1]) / math.factorial(n)


@cache
def _orders(n: int) -> tuple[int, ...]:
    """How many orders of n values have 0, 1, 2 ... pairs that fall."""
    counts = [1]
    for place in range(2, n + 1):
        longer = [0] * (len(counts) + place - 1)
        for index, count in enumerate(counts):
            for falls in range(place):
                longer[index + falls] += count
        counts = longer
    return tuple(counts)
