"""Rounds of ranks that keep step: which part of a training step each rank replays when.

Where layers are sharded (:mod:`alphagrpo.learner.sharding`), every pass through a layer is a
collective of all ranks. So the ranks replay in rounds: in a round each replays one part, and all
parts of a round are of one form, which is what decides how many passes there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Round(Generic[Part]):
    """What the ranks replay together."""

    parts: tuple[Part, ...]
    """One for each rank."""
    counting: int
    """The first ranks' parts count; the others only keep step, and their gradients are times 0."""


class Rounds(Generic[Part]):
    """Deals parts to ranks as they come; each part counts in exactly one round.

    Dealing looks at forms, order and the number of ranks alone. A round goes as soon as there is a
    part of one form for each rank, since one with empty places costs as much as a full one. What is
    left goes last (:meth:`rest`): a rank without a part then replays the one it had in the form's
    round before, which it still holds, or the round's first where there was none before.
    """

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._open: dict[Hashable, list[Part]] = {}
        self._before: dict[Hashable, tuple[Part, ...]] = {}

    def add(self, form: Hashable, part: Part) -> Round[Part] | None:
        """Take in a part, whose ``form`` equals that of parts it may share a round with.

        Returns the round that it fills, if it fills one.
        """
        parts = self._open.setdefault(form, [])
        parts.append(part)
        return self._take(form) if len(parts) == self._ranks else None

    def rest(self) -> Iterator[Round[Part]]:
        """The rounds of the parts that are left, in the order in which their forms first came."""
        for form, parts in self._open.items():
            if parts:
                yield self._take(form)

    def _take(self, form: Hashable) -> Round[Part]:
        parts = tuple(self._open[form])
        held = self._before.get(form, parts[:1] * self._ranks)
        self._open[form] = []
        self._before[form] = (*parts, *held[len(parts) :])
        return Round(self._before[form], len(parts))
