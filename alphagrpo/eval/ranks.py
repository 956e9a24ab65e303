"""How alike two judges rank the same pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from alphagrpo.errors import ConfigError

DIGITS = 6
"""Values are compared to so many decimals: the ledger keeps float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """Two rankings of the same things."""

    kendall: float | None
    """Kendall's tau-b, from -1 to 1; None where one side ranks nothing above anything."""
    spearman: float | None
    """Spearman's rho, of mid-ranks; None likewise."""
    pairs: int
    """Pairs of which the first side ranks one above the other."""
    flipped: int
    """Of these, pairs that the second side ranks the other way round."""
    tied: int
    """Of these, pairs that the second side does not tell apart."""


def rank_agreement(first: Sequence[float], second: Sequence[float]) -> RankAgreement:
    """Compare ``second`` with ``first``, value by value of the same n things.

    With C pairs ranked alike, D the other way round, and T ranked at all, on either side::

        tau-b = (C - D) / sqrt(T_first T_second)

    Raises ConfigError for lists of different lengths.
    """
    if len(first) != len(second):
        raise ConfigError(
            f"two rankings are of the same things, got {len(first)} and {len(second)} values; "
            "leave out what one of them lacks"
        )
    a, b = ([round(value, DIGITS) for value in side] for side in (first, second))
    signs = [(_sign(a[i] - a[j]), _sign(b[i] - b[j])) for i in range(len(a)) for j in range(i)]
    products = [x * y for x, y in signs]
    ranked = [sum(side != 0 for side in sides) for sides in zip(*signs, strict=True)] or [0, 0]
    scale = math.sqrt(ranked[0] * ranked[1])
    return RankAgreement(
        kendall=sum(products) / scale if scale else None,
        spearman=_correlation(_mid_ranks(a), _mid_ranks(b)),
        pairs=ranked[0],
        flipped=products.count(-1),
        tied=sum(x != 0 and y == 0 for x, y in signs),
    )


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _mid_ranks(values: Sequence[float]) -> list[float]:
    """Places from 0 in rising order; equal values share the middle of theirs."""
    ordered = sorted(values)
    starts = [0, *(i + 1 for i, (x, y) in enumerate(pairwise(ordered)) if x != y), len(ordered)]
    middle = {
        ordered[start]: (start + end - 1) / 2 for start, end in pairwise(starts) if start < end
    }
    return [middle[value] for value in values]


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    n = len(a)
    if n < 2:
        return None
    mean_a, mean_b = math.fsum(a) / n, math.fsum(b) / n
    covariance = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    variances = [math.fsum((x - m) ** 2 for x in side) for side, m in ((a, mean_a), (b, mean_b))]
    scale = math.sqrt(variances[0] * variances[1])
    return covariance / scale if scale else None
