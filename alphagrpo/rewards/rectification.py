"""False-positive rectification: what a refinement is worth that did not improve its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from alphagrpo.options import Rectification


def rectify(
    rewards: Sequence[float | None], initial: float, mode: Rectification
) -> list[float | None]:
    """Rewards of a group after false-positive rectification (AlphaGRPO; method: section 1.2).

    Both readings act on samples with ``r <= initial``, those that did not improve:

    - ``max`` (released code): r becomes ``initial``, i.e. ``max(r, initial)``. A sample that did
      harm is raised to the tie.
    - ``group_min`` (the paper's wording): r becomes the lowest reward of the group, so that a
      sample that changed nothing is as bad as the worst.

    Either way, a group in which nothing improved is tied and teaches nothing.

    Args:
        rewards: G rewards of refined pictures; None where there is none, which stays so.
        initial: reward of the picture they all began from.
        mode: which reading; ``off`` returns the rewards as they are.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in get_args(Rectification):
        raise ValueError(
            f"rectification must be one of {', '.join(get_args(Rectification))}, got {mode!r}"
        )
    known = [reward for reward in rewards if reward is not None]
    if mode == "off" or not known:
        return list(rewards)
    floor = initial if mode == "max" else min(known)
    return [floor if reward is not None and reward <= initial else reward for reward in rewards]
