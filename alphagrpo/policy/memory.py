"""Memory arithmetic of a run: what each process will hold, from the model's config files alone.

Counts of weights are exact; spaces to work in are estimates (:mod:`alphagrpo.policy.working`). Free
of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from alphagrpo.config import RunConfig
from alphagrpo.options import WeightType
from alphagrpo.policy.family import FAMILY, PolicyShape
from alphagrpo.policy.loads import task_load
from alphagrpo.policy.working import (
    AS_IT_IS,
    DrawingSpace,
    Handling,
    LearningSpace,
    Working,
    tokens_per_image,
)
from alphagrpo.tasks import trained_tasks

BYTES: Mapping[WeightType, int] = {"float32": 4, "bfloat16": 2}
MASTER_BYTES = 4
STORE_MARGIN = 1.25
"""Ray begins to spill before its object store is full, and holds what nobody freed yet."""


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
    float32: int
    """Of all but adapters, those in float32 whatever the type of the rest: position tables,
    velocity head and autoencoder.
    """
    kv_bytes_per_token: int
    assumed: bool
    """True where the checkpoint's folder is absent and the released sizes were taken."""

    @property
    def total(self) -> int:
        """All weights without adapters."""
        parts = (self.understanding, self.generation, self.embeddings, self.vision)
        return sum(parts) + self.autoencoder + self.other

    def bytes_in(self, dtype: WeightType) -> int:
        """Of all weights without adapters."""
        return (self.total - self.float32) * BYTES[dtype] + self.float32 * BYTES["float32"]


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
    lowered: int
    """Adapters once more, in the type of the weights."""
    gradients: int
    """Of the group in work, of the step's sum, and of groups that were replayed ahead of a late
    one.
    """
    optimizer: int
    drawing: DrawingSpace
    """Estimate: of the largest batch that is drawn."""
    learning: LearningSpace
    """Estimate: of one window step of a whole group, or slice, all branches; or of its thoughts."""
    recomputed: int
    """Layers, from the first, that keep no activations of it."""
    trajectories_per_step: int
    """What a step's trajectories weigh in the object store."""

    @property
    def learner(self) -> int:
        """A rank while it replays one window step of one group, as it does."""
        return self.rank_weights + self.gathered + self.state + self.learning.peak

    @property
    def runner(self) -> int:
        """Runner: weights, its adapter or trained weights as pulled, and what drawing takes."""
        return self.weights + self.trainable * MASTER_BYTES + self.lowered + self.drawing.peak

    @property
    def shared(self) -> int:
        """Runner and rank in one, which learns what it drew: it has the weights whole, and once."""
        learning = self.learning.peak + self.drawing.buffers
        return self.weights + self.state + max(learning, self.drawing.peak)

    @property
    def state(self) -> int:
        """What a rank has of the trained weights beside the model's own."""
        return self.masters + self.lowered + self.gradients + self.optimizer


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
        float32=shape.float32_weights,
        kv_bytes_per_token=shape.kv_values_per_token * BYTES[config.model.dtype],
        assumed=assumed,
    )


def memory_estimate(
    config: RunConfig,
    shape: PolicyShape,
    size: ModelSize,
    *,
    recomputed: int | None = None,
    handling: Handling = AS_IT_IS,
) -> MemoryEstimate:
    """What a rank of the learner and a runner hold, in bytes (see :class:`MemoryEstimate`).

    Args:
        config: of the run.
        shape: of its model.
        size: of its model.
        recomputed: layers that keep no activations; None: all, unless the config says none.
        handling: how the code handles what it holds.
    """
    width, lora = BYTES[config.model.dtype], config.model.trainable == "lora"
    if recomputed is None:
        recomputed = 0 if config.learner.recompute == "none" else shape.num_layers
    experts = size.understanding + size.generation
    trainable = size.lora if lora else experts
    # Adapters are small, and every rank has them whole.
    parts = 1 if lora else config.num_ranks
    part = math.ceil(trainable / parts)
    layer = experts // shape.num_layers if parts > 1 else 0
    # In float32 the trained weights are their own masters.
    separate = lora or config.model.dtype != "float32"
    weights, working = size.bytes_in(config.model.dtype), Working(config, shape, width)
    return MemoryEstimate(
        tokens_per_image=tokens_per_image(config, shape),
        weights=weights,
        rank_weights=weights - (experts - part) * width if parts > 1 else weights,
        gathered=layer * (2 * width + MASTER_BYTES),
        trainable=trainable,
        masters=part * MASTER_BYTES if separate else 0,
        lowered=size.lora * width
        if lora and width < MASTER_BYTES and handling.lowered_adapters
        else 0,
        gradients=part * MASTER_BYTES * _gradients_at_once(config),
        optimizer=part * 2 * MASTER_BYTES,
        drawing=working.drawing(handling),
        learning=working.learning(recomputed, handling),
        recomputed=recomputed,
        trajectories_per_step=_trajectory_bytes(config, shape)
        * config.rollout.group_size
        * config.rollout.prompts_per_step,
    )


def _gradients_at_once(config: RunConfig) -> int:
    """Gradients that a rank may have: of the group in work, of those before it, and of groups that
    wait for an earlier place. Ranks with shares replay in order, as all do that do not stream.
    """
    rollout, learner = config.rollout, config.learner
    ahead = learner.groups_ahead if learner.streamed and not config.sharded else 0
    groups = math.ceil(rollout.prompts_per_step * rollout.slices / config.num_ranks)
    return min(groups, 2 + ahead)


def _trajectory_bytes(config: RunConfig, shape: PolicyShape) -> int:
    """Of the largest of the run's trajectories, by what it travels with."""
    thought = config.task.max_think_tokens if config.task.think else 0
    largest = max(task_load(config, shape, task) for task in trained_tasks(config))
    latents = (largest.window + 2) * tokens_per_image(config, shape) * shape.latent_channels * 4
    pixels = config.task.height * config.task.width * 3
    return largest.rounds * (latents + pixels + thought * 12)


def object_store_bytes(config: RunConfig, estimate: MemoryEstimate) -> int:
    """Most that a run has in the object store: the versions kept, the next one, and trajectories.

    A version is there whole before the oldest is let go; with lag several steps are under way.
    """
    weights = estimate.trainable * MASTER_BYTES * (config.rollout.kept_versions + 1)
    trajectories = estimate.trajectories_per_step * (1 + config.rollout.max_lag)
    return int(STORE_MARGIN * (weights + trajectories))
