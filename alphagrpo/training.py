"""What an optimizer step is made of: what its samples weigh, and where their groups lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphagrpo.types import TaskName


@dataclass(frozen=True, slots=True)
class SampleWeights:
    """What the losses weigh the G samples of a group by."""

    advantages: tuple[float, ...]
    """Float32 values; exactly 0 without a reward and where all rewards of the group are equal."""
    weights: tuple[float, ...]
    """1 for a sample with a reward, 0 for one without."""

    def part(self, samples: range) -> SampleWeights:
        """Of consecutive samples alone."""
        chosen = slice(samples.start, samples.stop)
        return SampleWeights(self.advantages[chosen], self.weights[chosen])

    def trained_advantages(self) -> tuple[float | None, ...]:
        """The advantages of samples that are trained on, None of the others: for the ledger."""
        pairs = zip(self.advantages, self.weights, strict=True)
        return tuple(advantage if weight > 0 else None for advantage, weight in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWeights:
    """What is trained on of one group."""

    samples: SampleWeights
    drafts: SampleWeights | None = None
    """Of the drafts a refinement began from, where they are trained on too."""

    @property
    def total(self) -> float:
        """Samples that are trained on, drafts included."""
        parts = (self.samples,) if self.drafts is None else (self.drafts, self.samples)
        return math.fsum(weight for part in parts for weight in part.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroup(GroupWeights):
    """Samples of an optimizer step that are replayed together."""

    reference: Any
    """The :class:`alphagrpo.types.Group`, or an object-store reference to it."""
    place: int = 0
    """Where its gradient stands in the step's sum, which is taken in this order."""
    rank: int = 0
    """Which of the learner's ranks replays it."""
    task: TaskName = "rt2i"


@dataclass(frozen=True, slots=True)
class CallOrder:
    """Where a call of a learner stands among those of its step: on the way to another process
    calls may overtake one another.
    """

    attempt: int
    """At a step; calls of one that was given up are ignored."""
    number: int
    """Of the calls of this attempt, from 0."""
    settled: int
    """All groups at places below this one were handed over by this call or those before it, or will
    never come."""


class Settling:
    """Up to which place all groups of a step are there, however its calls come."""

    def __init__(self) -> None:
        self._next, self._settled = 0, 0
        self._early: dict[int, int] = {}

    def arrived(self, order: CallOrder) -> int:
        """A call is there; all groups at places below the number returned are, too."""
        self._early[order.number] = order.settled
        while self._next in self._early:
            self._settled = max(self._settled, self._early.pop(self._next))
            self._next += 1
        return self._settled


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBlock:
    """Groups of one step whose advantages are known: what a learner is handed at a time."""

    groups: tuple[TrainingGroup, ...]
    order: CallOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """All groups of one optimizer step, in prompt order: for a learner that is handed it whole."""

    groups: tuple[TrainingGroup, ...]
    denominator: float
    """How many samples share the step's mean, trained drafts included."""


@dataclass(frozen=True, slots=True)
class RankSeconds:
    """What the learner's ranks spent on a step: replaying, summing and stepping."""

    total: float = 0.0
    longest: float = 0.0
    """Of the rank that spent most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one optimizer step did."""

    step: int
    """Optimizer steps taken so far, this one included."""
    skipped: bool = False
    """True where every advantage was zero, so that no step was taken."""
    seconds: RankSeconds = RankSeconds()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """``area/name`` to value: losses, ratios, clip shares, gradient norm, seconds."""
