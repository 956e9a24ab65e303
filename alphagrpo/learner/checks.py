"""What the learner refuses: unfit trajectories, and a replay that disagrees with the rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from alphagrpo.config import RunConfig
from alphagrpo.errors import ParityError, PolicyDataError
from alphagrpo.learner.diagnostics import Diagnostics
from alphagrpo.ports import TrainingBatch, TrainingGroup
from alphagrpo.types import Group, Trajectory


def refuse_unfit(
    batch: TrainingBatch, version: int, config: RunConfig, visits: Mapping[str, int]
) -> None:
    """Raise PolicyDataError for groups that may not be trained on.

    Args:
        batch: of one optimizer step, each group itself in the place of its reference.
        version: the newest published version.
        config: group size and the lag allowed.
        visits: last visit of each prompt that was trained on.
    """
    groups: list[Group] = [group.reference for group in batch.groups]
    if not groups:
        raise PolicyDataError("an optimizer step needs at least one group, got none")
    for training in batch.groups:
        _refuse_weights(training)
    turns = [(group.job.prompt.id, group.job.visit) for group in groups]
    for group, (prompt, visit) in zip(groups, turns, strict=True):
        if visit <= visits.get(prompt, -1) or turns.count((prompt, visit)) > 1:
            raise PolicyDataError(
                f"a group is trained on once, prompt {prompt} at visit {visit} came again; "
                "resume loop and learner from the same checkpoint"
            )
        for part in (group, group.draft_group):
            if part is not None:
                _refuse_version(part, version, config.rollout.max_lag)
                _refuse_form(part, config.rollout.group_size)
                for trajectory in part.trajectories:
                    _refuse_numbers(trajectory)


def parity_gate(diagnostics: Diagnostics, config: RunConfig) -> None:
    """Raise ParityError where replay differs from rollout by more than a share of the clip range.

    Before the first step the policy is the one that sampled, so that every |log ratio| is an error
    of computation (method: section 1.2, "On-policy exactness").
    """
    share, algorithm = config.training.parity_limit_share, config.algorithm
    clips = {
        "text": min(algorithm.text.clip_low, algorithm.text.clip_high),
        "image": algorithm.image.clip,
    }
    for part, clip in clips.items():
        largest = diagnostics.max_abs_log_ratio(part)
        diagnostics.parity[part] = largest
        if largest > share * clip:
            raise ParityError(
                f"before the first step |log ratio| must be at most {share:g} of the clip range, "
                f"{share * clip:.1e}; the {part} part has {largest:.1e}. Rollout and replay "
                "compute different numbers: give both the same dtype, device, attention kernel and "
                "rollout.threads, or raise training.parity_limit_share if you accept the drift"
            )


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


def _refuse_form(group: Group, group_size: int) -> None:
    size = len(group.trajectories)
    if size != group_size or len(group.rewards) != size:
        raise PolicyDataError(
            f"a group must hold {group_size} samples with a reward or None each, "
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
