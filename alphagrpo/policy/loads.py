"""The batches of a run that decide its memory: what is drawn at once, and what is learnt at once.

Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from alphagrpo.config import RunConfig
from alphagrpo.config.sampling import GuidanceConfig
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.recipe import Recipe
from alphagrpo.tasks import refinement_of, trained_tasks
from alphagrpo.types import TaskName

PROMPT_TOKENS = 128
"""Tokens of a prompt, for the estimate: a long compositional prompt has about a hundred."""
CHARS_PER_TOKEN = 4
"""Of English text under a Qwen tokenizer, about."""


class TaskLoad(NamedTuple):
    """What decides one task's memory."""

    branches: int
    prefix: int
    """Tokens read before the thought: system prompt, pictures, prompt."""
    window: int
    rounds: int


class Load(NamedTuple):
    """One batch."""

    samples: int
    branches: int
    prefix: int
    thought: int
    """Most tokens of one; 0 without thinking."""
    own_pictures: bool = False
    """Whether each sample reads a picture of its own, so that none shares a prefix."""

    @property
    def length(self) -> int:
        """Tokens that a sample has read when it draws."""
        return self.prefix + self.thought


def largest_slice(config: RunConfig) -> int:
    """Most samples of a group that are drawn, and replayed, in one batch."""
    return math.ceil(config.rollout.group_size / config.rollout.slices)


def task_load(config: RunConfig, shape: PolicyShape, task: TaskName) -> TaskLoad:
    """What one task's groups ask of memory."""
    recipe = Recipe.of(config, task)
    flow, refined = recipe.flow, task == "srr"
    prefix = _prefix(config, shape, refined=refined)
    branches = _branches(flow.guidance, refined=refined) if recipe.guided else 1
    return TaskLoad(branches, prefix, flow.window.length, recipe.rounds)


def learnt_loads(config: RunConfig, shape: PolicyShape) -> list[Load]:
    """What a rank replays at once, of each task."""
    loads = []
    for task in trained_tasks(config):
        load = task_load(config, shape, task)
        loads.append(
            Load(
                largest_slice(config),
                load.branches,
                load.prefix,
                _thought(config, config.task.think),
                own_pictures=load.rounds > 1,
            )
        )
    return loads


def drawn_loads(config: RunConfig, shape: PolicyShape) -> list[Load]:
    """What a runner draws at once: slices of groups, drafts, and batches of an evaluation."""
    return [*learnt_loads(config, shape), *_drafts(config, shape), *_evaluated(config, shape)]


def _drafts(config: RunConfig, shape: PolicyShape) -> Iterator[Load]:
    if "srr" not in trained_tasks(config) or refinement_of(config).drafts.trained:
        return
    how = refinement_of(config).drafts
    branches, prefix = _branches(how.guidance), _prefix(config, shape)
    yield Load(how.num, branches, prefix, _thought(config, how.think))


def _evaluated(config: RunConfig, shape: PolicyShape) -> Iterator[Load]:
    settings = config.evaluation
    pictures = settings.num_plain + settings.num_thought
    samples, thought = min(settings.batch_size, pictures), _thought(config, config.task.think)
    if not samples:
        return
    yield Load(samples, _branches(settings.guidance), _prefix(config, shape), thought)
    if settings.rounds:
        guidance = settings.refinement_guidance or refinement_of(config).flow.guidance
        yield Load(
            samples,
            _branches(guidance, refined=True),
            _prefix(config, shape, refined=True),
            thought,
            own_pictures=True,
        )


def _branches(guidance: GuidanceConfig, *, refined: bool = False) -> int:
    guided = guidance.text_scale > 1
    return 1 + guided + (guided and refined and guidance.image_scale > 1)


def _prefix(config: RunConfig, shape: PolicyShape, *, refined: bool = False) -> int:
    tokens = len(config.task.system_prompt) // CHARS_PER_TOKEN + PROMPT_TOKENS
    if refined:
        tokens += len(refinement_of(config).prompt) // CHARS_PER_TOKEN
        tokens += shape.picture_tokens(config.task.height, config.task.width)
    return tokens


def _thought(config: RunConfig, think: bool) -> int:
    return config.task.max_think_tokens if think else 0
