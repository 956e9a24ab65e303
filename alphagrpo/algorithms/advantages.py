"""Group-normalised advantages, with samples that have no reward left out of every statistic.

Plain numbers and no torch: the loop computes them once, from rewards that are a few hundred floats,
and hands them to the learner and to the ledger.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from alphagrpo.options import StdMode

Rewards = Sequence[float | None]
"""G rewards of one group; None where a sample has none."""


def group_advantages(
    rewards: Sequence[Rewards], *, std: StdMode, epsilon: float = 1e-4
) -> list[tuple[float, ...]]:
    """``A_pg = (R_pg - mean_p) / (std + epsilon)`` (AlphaGRPO; method: section 1.2).

    The mean is each group's own. ``std="batch"`` divides by the population standard deviation of
    all rewards together, as the released code does; ``std="group"`` by the group's own, which needs
    no other group. Samples without a reward enter neither.

    Args:
        rewards: P groups.
        std: whose spread to divide by.
        epsilon: added to the standard deviation.

    Returns:
        P tuples of G numbers, each rounded to float32 as the losses take them; exactly 0 for
        samples without a reward and in groups whose rewards are all equal.

    Raises:
        ValueError: for an unknown ``std``, or a reward that is not finite.
    """
    if std not in ("batch", "group"):
        raise ValueError(f"std must be 'batch' or 'group', got {std!r}")
    known = [[reward for reward in group if reward is not None] for group in rewards]
    if not all(math.isfinite(reward) for group in known for reward in group):
        raise ValueError("a sample has a reward that is not finite; leave it without one instead")
    batch_spread = _population_std([reward for group in known for reward in group])
    advantages = []
    for group, group_known in zip(rewards, known, strict=True):
        # A rounded mean of equal numbers may miss them by a bit; equal rewards must teach nothing.
        if len(set(group_known)) < 2:
            advantages.append((0.0,) * len(group))
            continue
        mean = math.fsum(group_known) / len(group_known)
        spread = batch_spread if std == "batch" else _population_std(group_known)
        advantages.append(
            tuple(0.0 if r is None else _float32((r - mean) / (spread + epsilon)) for r in group)
        )
    return advantages


def _population_std(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _float32(value: float) -> float:
    """The float32 nearest to ``value``."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
