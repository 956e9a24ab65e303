"""Memory arithmetic of a run: what each process will hold, from the model's config files alone.

Counts of weights are exact (the model is built without storage and its tensors are counted);
activations and working space are estimates and are labelled so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alphagrpo.config import RunConfig
from alphagrpo.models.bagel.config import BagelConfig, LlmConfig, SpecialIds, VitConfig
from alphagrpo.models.bagel.resize import ResizeRule
from alphagrpo.options import WeightType
from alphagrpo.policy.recipe import Recipe
from alphagrpo.tasks import refinement_of, trained_tasks
from alphagrpo.types import TaskName

BYTES: Mapping[WeightType, int] = {"float32": 4, "bfloat16": 2}
MASTER_BYTES = 4
PROMPT_TOKENS = 128
"""Tokens of a prompt, for the estimate: a long compositional prompt has about a hundred."""
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
    """Bytes in one learner and one runner; names say what is exact and what is estimated."""

    tokens_per_image: int
    weights: int
    trainable: int
    """Number of weights that train."""
    masters: int
    gradients: int
    optimizer: int
    context_per_group: int
    """Keys and values of one group: what each sample has read, once and once more per guidance
    branch of the packed forward.
    """
    activations: int
    """Kept for the backward pass of one window step of a whole group, all guidance branches."""
    trajectories_per_step: int
    """What a step's trajectories weigh in the object store."""

    @property
    def learner(self) -> int:
        """Learner while it replays one window step of one group, as it does."""
        return (
            self.weights
            + self.masters
            + self.gradients
            + self.optimizer
            + self.context_per_group
            + self.activations
        )

    @property
    def runner(self) -> int:
        """Runner: weights, its adapter or trained weights as pulled, one group's context."""
        return self.weights + self.trainable * MASTER_BYTES + self.context_per_group


def released_config() -> BagelConfig:
    """Shape of the released BAGEL-7B-MoT."""
    return BagelConfig(
        llm=LlmConfig(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
        ),
        vit=VitConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            patch_size=14,
            image_size=980,
        ),
        special=SpecialIds(
            bos_token_id=151644, eos_token_id=151645, start_of_image=151652, end_of_image=151653
        ),
    )


def model_size(config: RunConfig) -> tuple[BagelConfig, ModelSize]:
    """Shape and size of the config's model; the released one where its folder does not exist.

    Raises CheckpointError where the folder exists and its config files do not say what they must.
    """
    path = Path(config.model.path)
    assumed = not path.exists()
    shape = released_config() if assumed else BagelConfig.from_folder(path)
    parts = _count(shape)
    return shape, ModelSize(
        **{name: parts[name] for name in _PARTS},
        lora=lora_weights(shape.llm, config.model.lora.rank),
        kv_bytes_per_token=kv_bytes(shape.llm, BYTES[config.model.dtype]),
        assumed=assumed,
    )


def memory_estimate(config: RunConfig, shape: BagelConfig, size: ModelSize) -> MemoryEstimate:
    """What learner and runner hold, in bytes (see :class:`MemoryEstimate`)."""
    width = BYTES[config.model.dtype]
    side = shape.pixels_per_token
    tokens = (config.task.height // side) * (config.task.width // side)
    experts = size.understanding + size.generation
    trainable = size.lora if config.model.trainable == "lora" else experts
    # In float32 the trained weights are their own masters.
    separate = config.model.trainable == "lora" or config.model.dtype != "float32"
    thought = config.task.max_think_tokens if config.task.think else 0
    samples = config.rollout.group_size
    largest = max(task_load(config, shape, task) for task in trained_tasks(config))
    pixels = config.task.height * config.task.width * 3
    latents = (largest.window + 2) * tokens * shape.latent_channels * 4
    per_trajectory = largest.rounds * (latents + pixels + thought * 12)
    context = samples * (largest.prefix + thought) * size.kv_bytes_per_token
    return MemoryEstimate(
        tokens_per_image=tokens,
        weights=size.total * width,
        trainable=trainable,
        masters=trainable * MASTER_BYTES if separate else 0,
        gradients=trainable * MASTER_BYTES,
        optimizer=trainable * 2 * MASTER_BYTES,
        context_per_group=context * (1 + (largest.branches if largest.branches > 1 else 0)),
        activations=samples
        * largest.branches
        * (tokens + 2)
        * activation_bytes(shape.llm, width, recompute=config.learner.recompute),
        trajectories_per_step=per_trajectory * samples * config.rollout.prompts_per_step,
    )


class TaskLoad(NamedTuple):
    """What decides one task's memory; the largest by branches and prefix is planned for."""

    branches: int
    prefix: int
    """Tokens read before the thought: system prompt, pictures, prompt."""
    window: int
    rounds: int


def task_load(config: RunConfig, shape: BagelConfig, task: TaskName) -> TaskLoad:
    """What one task's groups ask of memory."""
    recipe = Recipe.of(config, task)
    flow, refined = recipe.flow, task == "srr"
    prefix = len(config.task.system_prompt) // CHARS_PER_TOKEN + PROMPT_TOKENS
    if refined:
        prefix += len(refinement_of(config).prompt) // CHARS_PER_TOKEN
        prefix += picture_tokens(shape, config.task.height, config.task.width)
    guided = flow.guidance.text_scale > 1 and recipe.guided
    branches = 1 + guided + (guided and refined and flow.guidance.image_scale > 1)
    return TaskLoad(branches, prefix, flow.window.length, recipe.rounds)


def picture_tokens(shape: BagelConfig, height: int, width: int) -> int:
    """Tokens of a picture that is read: its latents and its patches, each with two markers."""
    side, patch = shape.pixels_per_token, shape.vit.patch_size
    rule = ResizeRule(max_size=shape.vit_max_num_patch_per_side * patch, min_size=1, stride=patch)
    seen = rule.size(width, height)
    patches = (seen[0] // patch) * (seen[1] // patch)
    return (height // side) * (width // side) + 2 + patches + 2


def lora_weights(llm: LlmConfig, rank: int) -> int:
    """Adapter weights on q, k, v, o, gate, up, down of both experts in every layer.

    A layer from n to m values takes rank * (n + m).
    """
    hidden, inner = llm.hidden_size, llm.intermediate_size
    queries, keys = llm.num_attention_heads * llm.head_dim, llm.num_key_value_heads * llm.head_dim
    sides = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return rank * sides * llm.num_hidden_layers * 2


def kv_bytes(llm: LlmConfig, width: int) -> int:
    """Bytes of one cached token: keys and values of every layer."""
    return llm.num_hidden_layers * 2 * llm.num_key_value_heads * llm.head_dim * width


def activation_bytes(llm: LlmConfig, width: int, *, recompute: bool = False) -> int:
    """Estimate of what one token keeps for the backward pass through all layers.

    Per layer: two normalised inputs, queries, attention output, its projection, two residual sums
    (7 hidden), keys and values, and gate, up, their activation and product (4 intermediate). With
    ``recompute`` a layer keeps its input, keys and values, and one layer at a time has the rest.
    """
    hidden, inner = llm.hidden_size, llm.intermediate_size
    keys = 2 * llm.num_key_value_heads * llm.head_dim
    whole = 7 * hidden + keys + 4 * inner
    if not recompute:
        return llm.num_hidden_layers * width * whole
    return width * (llm.num_hidden_layers * (hidden + keys) + whole)


_PARTS = ("understanding", "generation", "embeddings", "vision", "autoencoder", "other")


def _count(shape: BagelConfig) -> Counter[str]:
    import torch  # only the arithmetic needs it, and only here

    from alphagrpo.models.bagel import Bagel

    with torch.device("meta"):
        model = Bagel(shape)
    counts: Counter[str] = Counter()
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        counts[_part_of(name)] += parameter.numel()
    autoencoder = getattr(model, "autoencoder", None)
    if counts["autoencoder"] == 0 and autoencoder is not None:
        counts["autoencoder"] = sum(p.numel() for p in autoencoder.kl.parameters())
    return counts


def _part_of(name: str) -> str:
    if name.startswith("autoencoder"):
        return "autoencoder"
    if name.startswith(("vit_", "connector")):
        return "vision"
    if "embed_tokens" in name or "lm_head" in name:
        return "embeddings"
    if name.startswith("language_model"):
        return "generation" if "_moe_gen" in name else "understanding"
    return "other"
