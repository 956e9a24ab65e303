"""Means, and the paired difference of two evaluations of the same prompts with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alphagrpo.errors import ConfigError

NORMAL_95 = 1.959963984540054
"""Quantile 0.975 of the standard normal distribution."""


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
    """Mean and 95 % interval of ``after[i] - before[i]`` over n prompts.

    The interval is the normal one, mean ± 1.96 s / sqrt(n) with s the sample standard deviation
    (n - 1) of the differences: pairing removes how hard each prompt is, and at the 256 prompts
    and more that an evaluation has, the mean is normal for all practical purposes. One prompt
    alone has no spread, so its interval is the whole range [-1, 1], to which all are clipped.

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
    if n == 1:
        return PairedDifference(mean=centre, low=-1.0, high=1.0, n=1)
    half = _half_width(differences, centre)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return PairedDifference(mean=centre, low=low, high=high, n=n)


def share_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of values in [0, 1] (normal, clipped to [0, 1])."""
    n = len(values)
    if n == 0:
        return (0.0, 1.0)
    centre = math.fsum(values) / n
    half = _half_width(values, centre)
    return (max(0.0, centre - half), min(1.0, centre + half))


def _half_width(values: Sequence[float], centre: float) -> float:
    """Half of the 95 % interval of the mean ``centre``; 0 for a single value."""
    n = len(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / max(n - 1, 1)
    return NORMAL_95 * math.sqrt(variance / n)
