"""From the reports of a step's groups to what the learner is handed, block by block.

Advantages are computed here, once: the learner uses these numbers and the ledger records them. A
block is what a standard deviation is taken over: one group with ``algorithm.advantage_std: group``,
``advantage_prompts`` groups of one task with ``batch``. Its groups can be learnt from as soon as
their rewards are there, while others of the step are still drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alphagrpo.algorithms.advantages import Rewards, group_advantages
from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import (
    GroupReport,
    GroupWeights,
    Sample,
    SampleWeights,
    TrainingBatch,
    TrainingGroup,
)

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig

DRAFTS, SAMPLES = "drafts", "samples"


@dataclass(frozen=True, slots=True)
class _Entry:
    """The rewards of one group's drafts or samples."""

    position: int
    stage: str
    rewards: Rewards


class StepBlocks:
    """The groups of one optimizer step, as their advantages become known.

    Trained drafts are a group of their own, of the task text-to-image, in the place before their
    refinements. With ``batch`` a spread is taken over groups of one task only, since rewards of
    different tasks have different scales (the format bonus), and over ``advantage_prompts`` groups
    at a time in prompt order: the release has 8, its micro-rollout (method: section 1.2).
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        algorithm = config.algorithm
        self._by_group = algorithm.advantage_std == "group"
        self._size = 1 if self._by_group else algorithm.advantage_prompts
        self._waiting: dict[int, GroupReport | None] = {}
        """Groups that came before one of an earlier position, which decides their block."""
        self._next = 0
        self._open: dict[str, list[_Entry]] = {}
        self._expected: dict[int, set[str]] = {}
        self._known: dict[int, dict[str, SampleWeights]] = {}
        self.weights: dict[int, GroupWeights] = {}
        """What is trained on of each group whose block is complete, by position."""

    @property
    def denominator(self) -> float:
        """How many samples share the step's mean, trained drafts included."""
        return math.fsum(weights.total for weights in self.weights.values())

    def add(self, position: int, report: GroupReport | None) -> list[int]:
        """Take in a finished group, None where it is not trained on.

        Returns the positions whose weights are known now, in order.

        Raises:
            PolicyDataError: for a reward that is not finite.
        """
        if self._by_group:
            return [] if report is None else self._enter(position, report)
        self._waiting[position] = report
        ready = []
        while self._next in self._waiting:
            waiting = self._waiting.pop(self._next)
            if waiting is not None:
                ready += self._enter(self._next, waiting)
            self._next += 1
        return ready

    def close(self) -> list[int]:
        """No group is left to come: the positions whose weights are known now, in order."""
        ready = []
        for task in list(self._open):
            ready += self._complete(task)
        return sorted(ready)

    def _enter(self, position: int, report: GroupReport) -> list[int]:
        entries = []
        if trains_drafts(report, self._config):
            entries.append(("rt2i", DRAFTS, report.drafts))
        entries.append((report.job.task, SAMPLES, report.samples))
        self._expected[position] = {stage for _, stage, _ in entries}
        ready = []
        for task, stage, samples in entries:
            block = self._open.setdefault(task, [])
            block.append(_Entry(position, stage, _finite_rewards(report, samples)))
            if len(block) == self._size:
                ready += self._complete(task)
        return ready

    def _complete(self, task: str) -> list[int]:
        """The advantages of a task's open block; positions of which nothing is missing any more."""
        block, algorithm = self._open.pop(task), self._config.algorithm
        advantages = group_advantages(
            [entry.rewards for entry in block],
            std=algorithm.advantage_std,
            epsilon=algorithm.advantage_epsilon,
        )
        ready = []
        for entry, values in zip(block, advantages, strict=True):
            known = self._known.setdefault(entry.position, {})
            scored = tuple(float(reward is not None) for reward in entry.rewards)
            known[entry.stage] = SampleWeights(values, scored)
            if known.keys() == self._expected[entry.position]:
                self.weights[entry.position] = GroupWeights(**self._known.pop(entry.position))
                ready.append(entry.position)
        return ready


def training_batch(reports: Sequence[GroupReport], config: RunConfig) -> TrainingBatch:
    """A whole step at once, of groups all of which have samples enough to train on."""
    blocks = StepBlocks(config)
    for position, report in enumerate(reports):
        blocks.add(position, report)
    blocks.close()
    groups = (
        group
        for position, report in enumerate(reports)
        for group in training_groups(position, report, blocks.weights[position])
    )
    return TrainingBatch(groups=tuple(groups), denominator=blocks.denominator)


def training_groups(
    position: int, report: GroupReport, weights: GroupWeights
) -> tuple[TrainingGroup, ...]:
    """What the learner is handed of the group at ``position`` of its step: itself, or its slices,
    those of its trained drafts first.
    """
    if not report.slices:
        whole = TrainingGroup(
            reference=report.reference,
            samples=weights.samples,
            drafts=weights.drafts,
            place=position,
            rank=report.job.ranks[0],
            task=report.job.task,
        )
        return (whole,)
    parts = [(part, weights.drafts) for part in report.draft_slices if weights.drafts is not None]
    parts += [(part, weights.samples) for part in report.slices]
    first = position * places_per_group(len(report.slices))
    return tuple(
        TrainingGroup(
            reference=part.reference,
            samples=all_samples.part(part.job.samples),
            place=first + index,
            rank=part.job.ranks[0],
            task=part.job.task,
        )
        for index, (part, all_samples) in enumerate(parts)
        if all_samples is not None
    )


def places_per_group(slices: int) -> int:
    """How many places of a step's sum a group has: one, or two for each of its slices."""
    return 1 if slices == 1 else 2 * slices


def trains_drafts(report: GroupReport, config: RunConfig) -> bool:
    """Whether the group's drafts carry rewards (``refinement.drafts.trained``), and enough."""
    return sum(sample.reward is not None for sample in report.drafts) >= config.min_valid


def _finite_rewards(report: GroupReport, samples: Sequence[Sample]) -> Rewards:
    rewards = [sample.reward for sample in samples]
    if not all(math.isfinite(reward) for reward in rewards if reward is not None):
        raise PolicyDataError(
            f"rewards must be finite, prompt {report.job.prompt.id} has {rewards}; fix the reward "
            "program: a score that could not be had is None"
        )
    return rewards
