"""Which rank of the learner replays which group: decided by the config and the prompt order alone.

Groups are dealt as they are dispatched, before anybody knows how long their thoughts will be, so
that a step's sums do not depend on who was quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.recipe import Recipe
from alphagrpo.tasks import refinement_of

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.types import TaskName


class Dealer:
    """Deals one step's groups, in prompt order: each slice to the rank with least to do so far."""

    def __init__(self, config: RunConfig) -> None:
        self._loads = [0.0] * config.num_ranks
        self._slices = config.rollout.slices
        self._costs: dict[TaskName, float] = {}
        self._config = config

    def deal(self, task: TaskName) -> tuple[int, ...]:
        """The ranks of the next group's slices."""
        if task not in self._costs:
            self._costs[task] = replay_tokens(self._config, task)
        ranks = []
        for _ in range(self._slices):
            rank = min(range(len(self._loads)), key=lambda index: (self._loads[index], index))
            self._loads[rank] += self._costs[task] / self._slices
            ranks.append(rank)
        return tuple(ranks)


def replay_tokens(config: RunConfig, task: TaskName) -> float:
    """Tokens of a sample that are read with gradient: what replaying its group costs, relatively.

    Every window step reads the picture once per guidance branch. A thought's length is not known
    yet, and is taken to be half of what is allowed: it is a small part (method: section 1.2).
    """
    recipe = Recipe.of(config, task)
    side = FAMILY.released_shape().pixels_per_token
    picture = (config.task.height // side) * (config.task.width // side)
    guidance, refined = recipe.flow.guidance, task == "srr"
    guided = recipe.guided and guidance.text_scale > 1
    branches = 1 + guided + (guided and refined and guidance.image_scale > 1)
    thought = config.task.max_think_tokens / 2 if config.task.think else 0.0
    steps = recipe.flow.window.length if config.algorithm.image.enabled else 0
    own = recipe.rounds * (thought + steps * branches * picture)
    trains_drafts = refined and refinement_of(config).drafts.trained
    return own + (replay_tokens(config, "rt2i") if trains_drafts else 0.0)
