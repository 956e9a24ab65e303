"""What the learner refuses to train on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

import numpy as np

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import TrainingGroup
from alphagrpo.types import Group, Trajectory

Turn = tuple[str, int, str, int]
"""What a group is known by: prompt, visit, task, first sample."""


def refuse_unfit(
    training: TrainingGroup,
    version: int,
    config: RunConfig,
    visits: Mapping[str, int],
    taken: Set[Turn],
) -> None:
    """Raise PolicyDataError for a group that may not be trained on.

    Args:
        training: with the group itself in the place of its reference.
        version: the newest published version.
        config: group size and the lag allowed.
        visits: last visit of each prompt that earlier steps trained on.
        taken: the turns that this step has replayed already.
    """
    group: Group = training.reference
    _refuse_weights(training)
    turn = turn_of(group)
    prompt, visit, *_ = turn
    if visit <= visits.get(prompt, -1) or turn in taken:
        raise PolicyDataError(
            f"a group is trained on once, prompt {prompt} at visit {visit} came again; "
            "resume loop and learner from the same checkpoint"
        )
    for part in (group, group.draft_group):
        if part is not None:
            _refuse_version(part, version, config.rollout.max_lag)
            _refuse_form(part)
            for trajectory in part.trajectories:
                _refuse_numbers(trajectory)


def turn_of(group: Group) -> Turn:
    """What the group is known by."""
    job = group.job
    return (job.prompt.id, job.visit, job.task, job.first)


def _refuse_version(group: Group, version: int, max_lag: int) -> None:
    named = group.job.policy_version
    if not version - max_lag <= named <= version:
        raise PolicyDataError(
            f"groups may be at most {max_lag} versions behind {version}, "
            f"{group.trajectories[0].id} is of version {named}; raise rollout.max_lag or sample "
            "it again"
        )
    others = {t.policy_version for t in group.trajectories} - {named}
    if others:
        raise PolicyDataError(
            f"a group must be sampled by one version, its job names {named} and "
            f"{group.trajectories[0].id} has {sorted(others)}; its runner did not pull"
        )


def _refuse_form(group: Group) -> None:
    size = len(group.trajectories)
    if size != group.job.size or len(group.rewards) != size:
        raise PolicyDataError(
            f"a group must hold {group.job.size} samples with a reward or None each, "
            f"prompt {group.job.prompt.id} has {size} and {len(group.rewards)} rewards; "
            "score it first"
        )
    if any(reward is not None and not math.isfinite(reward) for reward in group.rewards):
        raise PolicyDataError(f"rewards must be finite, prompt {group.job.prompt.id} has others")


def _refuse_weights(training: TrainingGroup) -> None:
    """The loop weighs what the group holds: a weight of 1 exactly where there is a reward."""
    whole: Group = training.reference
    for group, weights in ((whole.draft_group, training.drafts), (whole, training.samples)):
        scored = None if group is None else tuple(float(valid) for valid in group.valid)
        if scored != (None if weights is None else weights.weights):
            raise PolicyDataError(
                f"a group is trained on with a weight of 1 for each sample with a reward, prompt "
                f"{whole.job.prompt.id} has rewards at {scored} and weights "
                f"{None if weights is None else weights.weights}; compute both from one report"
            )


def _refuse_numbers(trajectory: Trajectory) -> None:
    arrays = [a for image in trajectory.images for a in (image.latents, image.log_probs)]
    arrays += [text.log_probs for text in trajectory.texts]
    if not all(np.isfinite(array).all() for array in arrays):
        raise PolicyDataError(
            f"latents and log-probabilities must be finite, those of {trajectory.id} are not; "
            "the policy has diverged: resume from an earlier checkpoint with a lower optimizer.lr"
        )
