"""How long the stages of a group take, and the least that a step of them can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from alphagrpo import seeds
from alphagrpo.config import RunConfig
from alphagrpo.types import RolloutJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Seconds of a whole group; a slice takes its share of the samples."""

    draw_s: float
    learn_s: float
    verify_s: float
    """Between the last stroke of a group and its last verdict; the runner draws on meanwhile."""
    spread: float = 0.0
    """Drawing takes between ``1 - spread`` and ``1 + spread`` times ``draw_s``, evenly."""
    late: frozenset[str] = frozenset()
    """Prompts whose verdicts take ``late_s`` instead."""
    late_s: float = 0.0

    def drawing(self, job: RolloutJob) -> float:
        """Seconds of drawing what the job asks for: a function of prompt and visit."""
        shared = seeds.derive("sleep", job.prompt.id, job.visit) / 2**seeds.SEED_BITS
        factor = 1.0 + self.spread * (2.0 * shared - 1.0)
        return self.draw_s * factor * _share(job)

    def verifying(self, job: RolloutJob) -> float:
        """Seconds until the last verdict."""
        return self.late_s if job.prompt.id in self.late else self.verify_s

    def learning(self, job: RolloutJob) -> float:
        """Seconds of replaying it."""
        return self.learn_s * _share(job)


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one step's stages, each spread evenly over its processes."""

    draw_s: float
    learn_s: float
    shared: bool = False
    """The same processes do both."""

    @classmethod
    def of(cls, steps: Sequence[Sequence[RolloutJob]], stages: Stages, config: RunConfig) -> Work:
        """The mean over some steps, each of whole groups."""
        jobs = list(chain.from_iterable(steps))
        return cls(
            draw_s=sum(map(stages.drawing, jobs)) / config.rollout.num_runners / len(steps),
            learn_s=sum(map(stages.learning, jobs)) / config.num_ranks / len(steps),
            shared=config.learner.placement == "runners",
        )

    @property
    def bound_s(self) -> float:
        """T*: the longest stage, below which no step can stay for long."""
        return self.draw_s + self.learn_s if self.shared else max(self.draw_s, self.learn_s)


def _share(job: RolloutJob) -> float:
    return job.size / job.group_size
