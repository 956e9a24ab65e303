"""Means, and the paired difference of two evaluations of the same prompts with the same seeds.

Every interval is one of 95 % over prompts, and none is of width 0: that all prompts of a small set
came out alike is no proof that all prompts would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alphagrpo.errors import ConfigError

NORMAL_95 = 1.959963984540054
"""Quantile 0.975 of the standard normal distribution."""
EQUAL = 1e-9
"""Values whose range is at most this are alike; what is left is rounding."""
HALVINGS = 60
"""Of an interval no longer than 2, until its ends differ by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean of (after - before) over prompts, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Prompts, or pairs of values."""


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of no values: what nobody could tell is absent, never 0."""
    return sum(values) / len(values) if values else None


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Mean and 95 % interval of ``after[i] - before[i]`` over n prompts; values in [0, 1].

    Where every value is 0 or 1 the interval is Tango's score interval for paired proportions,
    which is right however few prompts changed (:func:`score_interval`). Elsewhere it is the normal
    one, mean ± 1.96 s / sqrt(n) with s the sample standard deviation (n - 1) of the differences:
    pairing removes how hard each prompt is. Differences that are all alike have no spread to go
    by; their interval is :func:`alike_interval`. All are clipped to [-1, 1].

    Raises ConfigError for lists of different or zero length.
    """
    n = len(before)
    if n != len(after) or n == 0:
        raise ConfigError(
            f"a paired difference needs the same prompts on both sides, got {n} before and "
            f"{len(after)} after; evaluate both with the same held-out set"
        )
    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    centre = math.fsum(differences) / n
    if all(value in (0, 1) for value in (*before, *after)):
        low, high = score_interval(differences.count(1.0), differences.count(-1.0), n)
    elif max(differences) - min(differences) <= EQUAL:
        low, high = alike_interval(centre, n)
    else:
        variance = math.fsum((difference - centre) ** 2 for difference in differences) / (n - 1)
        half = NORMAL_95 * math.sqrt(variance / n)
        low, high = centre - half, centre + half
    return PairedDifference(mean=centre, low=max(-1.0, low), high=min(1.0, high), n=n)


def share_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a share, the mean of ``values`` that are 0 or 1, by Wilson (1927).

    The shares from which the observed one is 1.96 of their own standard deviations away; of no
    values, all of [0, 1].
    """
    n = len(values)
    if n == 0:
        return (0.0, 1.0)
    share, squared = math.fsum(values) / n, NORMAL_95**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    spread = share * (1 - share) / n + squared / (4 * n * n)
    half = NORMAL_95 * math.sqrt(spread) / (1 + squared / n)
    return (max(0.0, centre - half), min(1.0, centre + half))


def score_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % interval of the share gained less the share lost, of n pairs, by Tango (1998).

    The differences that the score test of paired proportions does not reject. Without a change
    among n pairs it is ± z^2 / (n + z^2), z = 1.96: about 4 / n.
    """
    estimate = (gained - lost) / n

    def score(difference: float) -> float:
        """The test's statistic, standard normal where ``difference`` is the true one."""
        # The likeliest share of losses among all with this difference: a quadratic's larger root.
        linear = (2 * n - gained + lost) * difference - gained - lost
        square = linear**2 + 8 * n * lost * difference * (1 - difference)
        lost_share = (math.sqrt(max(0.0, square)) - linear) / (4 * n)
        variance = 2 * lost_share + difference * (1 - difference)
        return (estimate - difference) * math.sqrt(n / variance)

    low = -1.0 if lost == n else _falls_to(NORMAL_95, score, -1.0, estimate)
    high = 1.0 if gained == n else _falls_to(-NORMAL_95, score, estimate, 1.0)
    return (low, high)


def alike_interval(value: float, n: int) -> tuple[float, float]:
    """95 % interval of the mean of numbers in [-1, 1] of which n were seen, all of them ``value``.

    Up to a share z^2 / (n + z^2) of all prompts, z = 1.96, may be others than those seen without
    the score test of that share rejecting it; their numbers may lie anywhere. With ``value`` 0
    this is what :func:`score_interval` says of n pairs without a change.
    """
    unseen = NORMAL_95**2 / (n + NORMAL_95**2)
    return (value - unseen * (1 + value), value + unseen * (1 - value))


def _falls_to(level: float, score: Callable[[float], float], low: float, high: float) -> float:
    """Where in (low, high) a falling function passes ``level``."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if score(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
