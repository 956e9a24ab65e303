"""Group-normalised advantages, with samples that have no reward left out of every statistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

StdMode = Literal["batch", "group"]


@dataclass(frozen=True, slots=True)
class Advantages:
    """What the losses weigh each sample by."""

    values: Tensor
    """[P, G] float32; exactly 0 for invalid samples and in groups whose rewards are all equal."""
    weights: Tensor
    """[P, G] float32: 1 for a sample with a reward, 0 for one without."""


def group_advantages(
    rewards: Tensor, valid: Tensor, *, std: StdMode, epsilon: float = 1e-4
) -> Advantages:
    """``A_pg = (R_pg - mean_p) / (std + epsilon)`` (AlphaGRPO; method: section 1.2).

    The mean is each group's own. ``std="batch"`` divides by the population standard deviation of
    all valid rewards together, as the released code does; ``std="group"`` by the group's own, which
    needs no other group. Invalid samples enter neither, and what stands at their place (NaN
    included) does not matter.

    Args:
        rewards: [P, G].
        valid: [P, G] bool: which samples have a reward.
        std: whose spread to divide by.
        epsilon: added to the standard deviation.

    Raises:
        ValueError: if the shapes differ or are not [P, G], or a valid reward is not finite.
    """
    if rewards.ndim != 2 or rewards.shape != valid.shape:
        raise ValueError(
            f"rewards and valid must both be [groups, samples], got {tuple(rewards.shape)} "
            f"and {tuple(valid.shape)}"
        )
    if std not in ("batch", "group"):
        raise ValueError(f"std must be 'batch' or 'group', got {std!r}")
    valid = valid.bool()
    # float64 keeps the centring of nearly equal rewards from drowning in rounding.
    known = torch.where(valid, rewards.double(), 0.0)
    if not torch.isfinite(known).all():
        raise ValueError("a valid sample has a reward that is not finite; mark it invalid instead")
    count = valid.sum(dim=1, keepdim=True)
    mean = known.sum(dim=1, keepdim=True) / count.clamp_min(1)
    centred = torch.where(valid, known - mean, 0.0)
    if std == "group":
        spread = (centred.square().sum(dim=1, keepdim=True) / count.clamp_min(1)).sqrt()
    else:
        spread = _population_std(known[valid])
    values = centred / (spread + epsilon)
    # A rounded mean of equal numbers may miss them by a bit; equal rewards must teach nothing.
    values = torch.where(valid & ~_all_equal(known, valid), values, 0.0)
    return Advantages(values=values.float(), weights=valid.float())


def step_advantages(
    rewards: Tensor,
    valid: Tensor,
    tasks: Sequence[str],
    *,
    std: StdMode,
    prompts: int | None = None,
    epsilon: float = 1e-4,
) -> Advantages:
    """:func:`group_advantages` of a whole optimizer step, whose groups may be of several tasks.

    With ``std="batch"`` a spread is taken over groups of one task only, since rewards of different
    tasks have different scales (the format bonus), and over ``prompts`` groups at a time in their
    order: the release has 8, which is its micro-rollout (method: section 1.2).

    Args:
        rewards: [P, G].
        valid: [P, G] bool.
        tasks: P names.
        std: whose spread to divide by.
        prompts: groups per spread; None for all of a task.
        epsilon: added to the standard deviation.
    """
    values, weights = torch.zeros(rewards.shape), torch.zeros(rewards.shape)
    for task in dict.fromkeys(tasks):
        mine = [index for index, name in enumerate(tasks) if name == task]
        size = prompts or len(mine)
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            found = group_advantages(rewards[part], valid[part], std=std, epsilon=epsilon)
            values[part], weights[part] = found.values, found.weights
    return Advantages(values=values, weights=weights)


def _population_std(values: Tensor) -> Tensor:
    if values.numel() == 0:
        return values.new_zeros(())
    return (values - values.mean()).square().mean().sqrt()


def _all_equal(values: Tensor, valid: Tensor) -> Tensor:
    """[P, 1]: whether a group's valid values are all the same (also true of none or one)."""
    highest = torch.where(valid, values, -torch.inf).amax(dim=1, keepdim=True)
    lowest = torch.where(valid, values, torch.inf).amin(dim=1, keepdim=True)
    return highest <= lowest
