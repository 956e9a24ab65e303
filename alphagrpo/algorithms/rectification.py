"""False-positive rectification: what a refinement is worth that did not improve its picture."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Rectification = Literal["off", "max", "group_min"]


def rectify(
    rewards: Tensor, initial: Tensor | float, mode: Rectification, valid: Tensor | None = None
) -> Tensor:
    """Rewards of a group after false-positive rectification (AlphaGRPO; method: section 1.2).

    Both readings act on samples with ``r <= initial``, those that did not improve:

    - ``max`` (released code): r becomes ``initial``, i.e. ``max(r, initial)``. A sample that did
      harm is raised to the tie.
    - ``group_min`` (the paper's wording): r becomes the lowest valid reward of the group, so that
      a sample that changed nothing is as bad as the worst.

    Either way, a group in which nothing improved is tied and teaches nothing.

    Args:
        rewards: [..., G] of refined pictures.
        initial: reward of the starting picture, a number or [...].
        mode: which reading; ``off`` returns the rewards as they are.
        valid: [..., G] bool, default all: samples that count for the minimum. Invalid entries are
            returned untouched.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in get_args(Rectification):
        raise ValueError(
            f"rectification must be one of {', '.join(get_args(Rectification))}, got {mode!r}"
        )
    if mode == "off":
        return rewards
    known = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid.bool()
    start = torch.as_tensor(initial, dtype=rewards.dtype, device=rewards.device)[..., None]
    if mode == "max":
        floor = start.expand_as(rewards)
    else:
        lowest = torch.where(known, rewards, torch.inf).amin(dim=-1, keepdim=True)
        floor = lowest.expand_as(rewards)
    return torch.where(known & (rewards <= start), floor, rewards)
