"""What a task draws and trains with: text-to-image and refinement have settings of their own.

Free of torch until a window or a plan is asked for: a dry run looks at settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alphagrpo import seeds
from alphagrpo.config import RunConfig
from alphagrpo.config.sampling import FlowConfig, SamplingParams
from alphagrpo.tasks import refinement_of
from alphagrpo.types import RolloutJob, TaskName

if TYPE_CHECKING:
    from alphagrpo.flow import Window
    from alphagrpo.policy.denoising import FlowPlan


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of one task's trajectories; rollout and replay ask the same one."""

    task: TaskName
    flow: FlowConfig
    text: SamplingParams
    text_weight: float
    """lambda of the text loss."""
    rounds: int
    """(thought, picture) pairs of a trajectory."""
    guided: bool
    """Whether guidance acts in what is trained."""

    @classmethod
    def of(cls, config: RunConfig, task: TaskName) -> Recipe:
        """The recipe of ``task``; ConfigError where the config does not say how to refine."""
        guided = config.algorithm.image.guidance_in_training
        if task == "rt2i":
            rollout, weight = config.rollout, config.algorithm.text.weight
            return cls(task, rollout.flow, rollout.text, weight, 1, guided)
        how = refinement_of(config)
        return cls(task, how.flow, how.text, how.text_weight, how.rounds, guided)

    def window(self, shared_seed: int) -> Window:
        """The SDE window of a group whose members share ``shared_seed``."""
        from alphagrpo.flow import sample_window

        return sample_window(self.flow.window.length, self.flow.window.allowed, shared_seed)

    def plan(self, window: Window) -> FlowPlan:
        """The steps of the group's pictures."""
        from alphagrpo.policy.denoising import FlowPlan

        has_image = self.task == "srr"
        return FlowPlan.for_training(self.flow, window, guided=self.guided, has_image=has_image)


@dataclass(frozen=True, slots=True)
class GroupSeeds:
    """The seeds of one group's round."""

    shared: int
    """Of what all members have in common: the window and, if asked, the start noise."""
    own: tuple[int, ...]
    """Of each sample's thought."""

    @classmethod
    def of(cls, job: RolloutJob, round_index: int = 0) -> GroupSeeds:
        """A function of (run seed, prompt, visit, task, round) alone."""
        key = (job.seed, job.prompt.id, job.visit)
        shared = seeds.group_seed(*key)
        own = [seeds.sample_seed(*key, i) for i in range(job.group_size)]
        if job.task == "srr":
            shared = seeds.derive("refine", shared, round_index)
            own = [seeds.derive("refine", seed, round_index) for seed in own]
        return cls(shared, tuple(own))
