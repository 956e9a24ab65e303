"""One optimizer step as the ranks of a learner agree on it, and what they say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.learner.notes import GroupNotes, StepNotes
from alphagrpo.ports import RankSeconds, UpdateReport

Part = Literal["samples", "drafts"]
"""What of a training group is replayed at a time, where ranks keep step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """Where a learner is when a step begins."""

    step: int
    """Optimizer steps so far."""
    version: int
    """Of the newest published weights; -1 before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """What every rank must know of a whole step to take it."""

    denominator: float
    """How many samples share the step's mean."""
    visits: dict[str, int]
    """The last visit of each prompt of the step."""
    teaches: bool
    """False where no advantage is other than zero and there is no KL term: no step is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """What taking a step was to one rank; the figures are the same on all."""

    step: int
    """Optimizer steps so far."""
    seconds: float
    """Summing and stepping."""
    figures: dict[str, float] = field(default_factory=dict)
    """``area/name`` to value."""


def step_end(
    notes: Sequence[GroupNotes], denominator: float, state: LearnerState, config: RunConfig
) -> tuple[StepEnd, dict[str, float]]:
    """How a step ends whose groups have all been replayed, and its figures so far.

    Raises:
        PolicyDataError: for a step without groups.
        ParityError: before the first step, where replay and rollout disagree.
    """
    step = StepNotes(notes)
    if not step:
        raise PolicyDataError("an optimizer step needs at least one group, got none")
    figures = step.metrics(denominator)
    figures["learner/lag"] = float(state.version - step.oldest_version)
    teaches = config.algorithm.has_kl or step.teaches
    if teaches and state.step == 0:
        figures |= step.check_parity(config)
    return StepEnd(denominator=denominator, visits=step.visits, teaches=teaches), figures


def update_report(
    notes: Sequence[Sequence[GroupNotes]], taken: Sequence[StepTaken], figures: dict[str, float]
) -> UpdateReport:
    """The report of a step from what each rank noted and took, rank by rank."""
    seconds = [
        math.fsum(group.seconds for group in own) + end.seconds
        for own, end in zip(notes, taken, strict=True)
    ]
    step = taken[0]
    skipped = "learner/grad_norm" not in step.figures
    metrics = {
        **figures,
        "learner/grad_norm": 0.0,
        **step.figures,
        "learner/skipped": float(skipped),
        "learner/step": float(step.step),
        "learner/update_s": max(seconds),
    }
    groups = list(chain.from_iterable(notes))
    if len(taken) > 1:
        metrics["learner/rank_groups_max"] = float(max(map(len, notes)))
        metrics["learner/rank_groups_mean"] = len(groups) / len(taken)
    return UpdateReport(
        step=step.step,
        skipped=skipped,
        seconds=RankSeconds(math.fsum(seconds), max(seconds)),
        metrics=metrics,
    )
