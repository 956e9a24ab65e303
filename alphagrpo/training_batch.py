"""From the groups' reports to what the learner is handed: advantages are computed here, once.

The learner uses these numbers and the ledger records them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alphagrpo.algorithms.advantages import Rewards, step_advantages
from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import GroupReport, Sample, SampleWeights, TrainingBatch, TrainingGroup

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig


def training_batch(reports: Sequence[GroupReport], config: RunConfig) -> TrainingBatch:
    """The groups of ``reports``, all of which have samples enough to train on, with advantages.

    Trained drafts are a group of their own, of the task text-to-image, in the place before their
    refinements. Raises PolicyDataError for a reward that is not finite.
    """
    rewards: list[Rewards] = []
    tasks: list[str] = []
    for report in reports:
        if trains_drafts(report, config):
            rewards.append(_finite_rewards(report, report.drafts))
            tasks.append("rt2i")
        rewards.append(_finite_rewards(report, report.samples))
        tasks.append(report.job.task)
    algorithm = config.algorithm
    advantages = step_advantages(
        rewards,
        tasks,
        std=algorithm.advantage_std,
        prompts=algorithm.advantage_prompts,
        epsilon=algorithm.advantage_epsilon,
    )
    parts = [
        SampleWeights(values, tuple(float(reward is not None) for reward in group))
        for values, group in zip(advantages, rewards, strict=True)
    ]
    groups, remaining = [], iter(parts)
    for report in reports:
        drafts = next(remaining) if trains_drafts(report, config) else None
        samples = next(remaining)
        groups.append(TrainingGroup(reference=report.reference, samples=samples, drafts=drafts))
    denominator = math.fsum(weight for part in parts for weight in part.weights)
    return TrainingBatch(groups=tuple(groups), denominator=denominator)


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
