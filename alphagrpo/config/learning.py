"""Where the learner's processes are, how many they are, and what they trade."""

from __future__ import annotations

import math
from typing import Literal, get_args

from pydantic import Field, field_validator

from alphagrpo.config.sampling import Section
from alphagrpo.options import RecomputeMode


class LearnerConfig(Section):
    """The central learner: one process, or several ranks whose gradients are summed."""

    placement: Literal["own", "runners"] = "own"
    """``own``: the ranks have devices of their own. ``runners``: every rollout runner is a rank and
    learns what it drew; trajectories stay where they are, and no weights are pulled.
    """
    ranks: int = Field(1, ge=1)
    """Processes, each on a device of its own. Each replays its share of a step's groups, and all
    take the same optimizer step."""
    cpus: float = Field(1.0, ge=0)
    """Of each rank."""
    gpus: float = Field(0.0, ge=0)
    """Of each rank: one device, or a share of one."""
    sharded: bool | None = None
    """With ``model.trainable: experts`` and several ranks: each holds a share of weights, masters
    and moments, where they do not fit on one device. None: on ranks that have a GPU."""
    streamed: bool = True
    """Replay groups while others of their step are still drawn. The sums are the same either way,
    bit for bit."""
    groups_ahead: int = Field(4, ge=0)
    """Groups per rank that may be replayed before one of an earlier place, whose rewards are late:
    each keeps a gradient of its own until that one is summed."""
    recompute: RecomputeMode | float = "none"
    """Which layers compute their activations again in the backward pass (gradient checkpointing)
    instead of keeping them: ``none``; ``all``, for a third more arithmetic and one layer's
    activations at a time; ``auto``, as few as the device's memory asks for; or a number, as few as
    a process of so many GB asks for. Gradients are the same, bit for bit."""
    deadline_s: float = Field(1800.0, gt=0)
    """Seconds a rank may take to arrive where the others wait for it (a sum of gradients, a sharded
    layer); then the ranks are started again from the last checkpoint. One that does not answer is
    found sooner: see the section ``deadlines``."""
    check_every: int = Field(20, ge=1)
    """Steps between proofs, by checksum, that all ranks hold the same parameters."""

    @field_validator("recompute", mode="before")
    @classmethod
    def _named(cls, recompute: object) -> object:
        """True and false, which it was before it could be a budget, are ``all`` and ``none``."""
        if isinstance(recompute, bool):
            return "all" if recompute else "none"
        is_budget = isinstance(recompute, (int, float)) and 0 < recompute < math.inf
        if not is_budget and recompute not in get_args(RecomputeMode):
            raise ValueError(
                f"learner.recompute is one of {', '.join(get_args(RecomputeMode))}, or the GB that "
                f"a process of the learner may take, got {recompute!r}"
            )
        return recompute

    @field_validator("gpus")
    @classmethod
    def _one_device(cls, gpus: float) -> float:
        if gpus > 1:
            raise ValueError(
                f"a rank computes on one device, got learner.gpus {gpus:g}: set it to 1 and "
                "learner.ranks to the number of devices"
            )
        return gpus

    @property
    def on_runners(self) -> bool:
        """Whether the rollout runners are the ranks."""
        return self.placement == "runners"

    def check_on_runners(self, max_lag: int) -> None:
        """Raise ValueError for what cannot be where the runners learn."""
        if self.sharded:
            raise ValueError(
                "with learner.placement runners every card draws with whole weights, got "
                "learner.sharded true; set it to false, or learner.placement to own"
            )
        if self.ranks > 1:
            raise ValueError(
                "with learner.placement runners every runner is a rank, got learner.ranks "
                f"{self.ranks}; leave it at 1 and set rollout.num_runners"
            )
        if self.gpus:
            raise ValueError(
                "with learner.placement runners the learner has no device of its own, got "
                f"learner.gpus {self.gpus:g}; set it to 0"
            )
        if max_lag:
            raise ValueError(
                "with learner.placement runners a card has one copy of the weights, which cannot "
                f"be of two versions, got rollout.max_lag {max_lag}; set it to 0"
            )
