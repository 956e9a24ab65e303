"""Memory arithmetic of a run: what each process will hold, from the model's config files alone.

Counts of weights are exact; activations and working space are estimates and are labelled so. Free
of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from alphagrpo.config import RunConfig
from alphagrpo.options import WeightType
from alphagrpo.policy.family import FAMILY, PolicyShape
from alphagrpo.policy.recipe import Recipe
from alphagrpo.tasks import refinement_of, trained_tasks
from alphagrpo.types import TaskName

BYTES: Mapping[WeightType, int] = {"float32": 4, "bfloat16": 2}
MASTER_BYTES = 4
PROMPT_TOKENS = 128
"""Tokens of a prompt, for the estimate: a long compositional prompt has about a hundred."""
STORE_MARGIN = 1.25
"""Ray begins to spill before its object store is full, and holds what nobody freed yet."""
CHARS_PER_TOKEN = 4
"""Of English text under a Qwen tokenizer, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Numbers of weights by part, and what one token costs."""

    understanding: int
    generation: int
    embeddings: int
    """Token embeddings and text head."""
    vision: int
    """Vision transformer, connector and its position table."""
    autoencoder: int
    other: int
    """Time embedder, velocity head, latent input and positions."""
    lora: int
    """Adapter weights at the config's rank."""
    kv_bytes_per_token: int
    assumed: bool
    """True where the checkpoint's folder is absent and the released sizes were taken."""

    @property
    def total(self) -> int:
        """All weights without adapters."""
        parts = (self.understanding, self.generation, self.embeddings, self.vision)
        return sum(parts) + self.autoencoder + self.other


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes in one rank of the learner and one runner; names say what is exact and what is not.

    Ranks that train the experts share out what belongs to the trained weights: masters, gradients
    and moments are those of one rank.
    """

    tokens_per_image: int
    weights: int
    """Of the whole model, as a runner holds it."""
    rank_weights: int
    """Of the model, in one rank."""
    gathered: int
    """What a rank has whole of trained weights that are shared out: those of the layer in work and
    of the next, and the gradients of one layer.
    """
    trainable: int
    """Number of weights that train."""
    masters: int
    gradients: int
    optimizer: int
    context_per_group: int
    """Keys and values of one group, or slice of one: what each sample has read, once and once more
    per guidance branch of the packed forward.
    """
    activations: int
    """Kept for the backward pass of one window step of a whole group, or slice, all branches."""
    trajectories_per_step: int
    """What a step's trajectories weigh in the object store."""

    @property
    def learner(self) -> int:
        """A rank while it replays one window step of one group, as it does."""
        return self.rank_weights + self.gathered + self._replay

    @property
    def runner(self) -> int:
        """Runner: weights, its adapter or trained weights as pulled, one group's context."""
        return self.weights + self.trainable * MASTER_BYTES + self.context_per_group

    @property
    def shared(self) -> int:
        """Runner and rank in one, which learns what it drew: it has the weights whole, and once."""
        return self.weights + self._replay

    @property
    def _replay(self) -> int:
        """What learning takes beside the weights."""
        state = self.masters + self.gradients + self.optimizer
        return state + self.context_per_group + self.activations


def model_size(config: RunConfig) -> tuple[PolicyShape, ModelSize]:
    """Shape and size of the config's model; the released one where its folder does not exist.

    Raises CheckpointError where the folder exists and its config files do not say what they must.
    """
    path = config.model.folder
    assumed = not path.exists()
    shape = FAMILY.released_shape() if assumed else FAMILY.shape(path)
    return shape, ModelSize(
        **shape.weights(),
        lora=shape.adapter_weights(config.model.lora.rank),
        kv_bytes_per_token=shape.kv_values_per_token * BYTES[config.model.dtype],
        assumed=assumed,
    )


def memory_estimate(config: RunConfig, shape: PolicyShape, size: ModelSize) -> MemoryEstimate:
    """What a rank of the learner and a runner hold, in bytes (see :class:`MemoryEstimate`)."""
    width, lora = BYTES[config.model.dtype], config.model.trainable == "lora"
    side = shape.pixels_per_token
    tokens = (config.task.height // side) * (config.task.width // side)
    experts = size.understanding + size.generation
    trainable = size.lora if lora else experts
    # Adapters are small, and every rank has them whole.
    parts = 1 if lora else config.num_ranks
    part = math.ceil(trainable / parts)
    layer = experts // shape.num_layers if parts > 1 else 0
    # In float32 the trained weights are their own masters.
    separate = lora or config.model.dtype != "float32"
    thought = config.task.max_think_tokens if config.task.think else 0
    samples = largest_slice(config)
    largest = max(task_load(config, shape, task) for task in trained_tasks(config))
    pixels = config.task.height * config.task.width * 3
    latents = (largest.window + 2) * tokens * shape.latent_channels * 4
    per_trajectory = largest.rounds * (latents + pixels + thought * 12)
    context = samples * (largest.prefix + thought) * size.kv_bytes_per_token
    return MemoryEstimate(
        tokens_per_image=tokens,
        weights=size.total * width,
        rank_weights=(size.total - experts + (experts if parts == 1 else part)) * width,
        gathered=layer * (2 * width + MASTER_BYTES),
        trainable=trainable,
        masters=part * MASTER_BYTES if separate else 0,
        gradients=part * MASTER_BYTES,
        optimizer=part * 2 * MASTER_BYTES,
        context_per_group=context * (1 + (largest.branches if largest.branches > 1 else 0)),
        activations=samples
        * largest.branches
        * (tokens + 2)
        * shape.activation_values(recompute=config.learner.recompute)
        * width,
        trajectories_per_step=per_trajectory
        * config.rollout.group_size
        * config.rollout.prompts_per_step,
    )


def largest_slice(config: RunConfig) -> int:
    """Most samples that are drawn, and replayed, in one batch."""
    return math.ceil(config.rollout.group_size / config.rollout.slices)


def object_store_bytes(config: RunConfig, estimate: MemoryEstimate) -> int:
    """Most that a run has in the object store: the versions kept, the next one, and trajectories.

    A version is there whole before the oldest is let go; with lag several steps are under way.
    """
    weights = estimate.trainable * MASTER_BYTES * (config.rollout.kept_versions + 1)
    trajectories = estimate.trajectories_per_step * (1 + config.rollout.max_lag)
    return int(STORE_MARGIN * (weights + trajectories))


class TaskLoad(NamedTuple):
    """What decides one task's memory; the largest by branches and prefix is planned for."""

    branches: int
    prefix: int
    """Tokens read before the thought: system prompt, pictures, prompt."""
    window: int
    rounds: int


def task_load(config: RunConfig, shape: PolicyShape, task: TaskName) -> TaskLoad:
    """What one task's groups ask of memory."""
    recipe = Recipe.of(config, task)
    flow, refined = recipe.flow, task == "srr"
    prefix = len(config.task.system_prompt) // CHARS_PER_TOKEN + PROMPT_TOKENS
    if refined:
        prefix += len(refinement_of(config).prompt) // CHARS_PER_TOKEN
        prefix += shape.picture_tokens(config.task.height, config.task.width)
    guided = flow.guidance.text_scale > 1 and recipe.guided
    branches = 1 + guided + (guided and refined and flow.guidance.image_scale > 1)
    return TaskLoad(branches, prefix, flow.window.length, recipe.rounds)
