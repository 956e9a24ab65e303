"""Rounds of ranks that keep step: which part of a training step each rank replays when.

Where layers are sharded (:mod:`alphagrpo.learner.sharding`), every pass through a layer is a
collective of all ranks. So the ranks replay in rounds: in a round each replays one part, and all
parts of a round are of one form, which is what decides how many passes there are. Dealing looks at
forms, order and the number of ranks alone, so that every rank deals the same rounds by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """What one rank does in one round."""

    part: int
    """Index of the part it replays."""
    counts: bool
    """False where the rank has none of its own and only keeps step: its gradient is times 0."""


def deal_rounds(forms: Sequence[Hashable], ranks: int) -> list[tuple[Turn, ...]]:
    """Deal parts to ranks: rounds of ``ranks`` turns, in which each part counts exactly once.

    Parts keep their order among those of one form; forms come in the order of their first part. A
    rank that is left without a part in the last round of a form replays the one it had in the round
    before, which it still holds, or the round's first where there was no round before.

    While a step's parts still arrive, deal only as many of each form as fill whole rounds, and what
    is left when the last one is there: a round with empty places costs as much as a full one.

    Args:
        forms: of the parts, in their order; equal where parts may share a round.
        ranks: how many take part in each round.
    """
    order: dict[Hashable, list[int]] = {}
    for index, form in enumerate(forms):
        order.setdefault(form, []).append(index)
    rounds = []
    for parts in order.values():
        for start in range(0, len(parts), ranks):
            own = parts[start : start + ranks]
            held = parts[start - ranks : start] if start else [own[0]] * ranks
            turns = [Turn(part, True) for part in own]
            rounds.append((*turns, *(Turn(part, False) for part in held[len(own) :])))
    return rounds
