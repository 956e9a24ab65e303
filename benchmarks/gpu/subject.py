"""What is measured: a policy of true size with random weights, its worker and its learner."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from alphagrpo.config import RunConfig, load_config
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.models.bagel import Bagel
from alphagrpo.models.bagel.checkpoint import FLOAT32_MODULES
from alphagrpo.models.bagel.sizes import BagelShape
from alphagrpo.policy.family import FAMILY
from alphagrpo.policy.loading import Tokenizer, load_policy
from alphagrpo.policy.memory import ModelSize, model_size
from alphagrpo.policy.trainable import add_adapters
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.step.blocks import training_batch
from alphagrpo.training import TrainingBatch
from alphagrpo.types import Group, Prompt, QuestionSet, RolloutJob

PROMPTS = (
    "a red bicycle leaning on a blue wall beside three yellow flower pots",
    "an old lighthouse behind two sailing boats at dawn, seen from a wet wooden pier",
)
VOCABULARY = 150_000
"""Ids that the stand-in tokenizer gives; the special ones lie above."""
SMALL = "deploy/configs/smoke.yaml"


class WordTokenizer:
    """A stand-in: an id per word. Random weights know no other language either."""

    def encode(self, text: str) -> list[int]:
        """An id for each word."""
        return [zlib.crc32(word.encode()) % VOCABULARY for word in text.split()]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The ids themselves."""
        return " ".join(map(str, token_ids))


@dataclass(frozen=True, slots=True)
class Subject:
    """A worker and a learner over one model, as on a shared card."""

    config: RunConfig
    shape: BagelShape
    size: ModelSize
    model: Bagel
    worker: RolloutWorker
    learner: GRPOLearner

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.model.device

    def job(self, prompt: int) -> RolloutJob:
        """An order for one group with the newest weights."""
        text = PROMPTS[prompt % len(PROMPTS)]
        return RolloutJob(
            run=self.config.name,
            prompt=Prompt(id=f"gpu:{prompt}", text=text),
            visit=0,
            group_size=self.config.rollout.group_size,
            policy_version=self.learner.version,
            seed=self.config.seed,
        )

    def publish(self) -> None:
        """Hand the learner's weights to the worker, as a run does."""
        manifest, chunks = self.learner.export()
        self.worker.apply_weights(manifest, chunks)


def subject(recipe: str, *, thought_tokens: int, device: torch.device) -> Subject:
    """The released shape on a GPU; on a CPU the miniature, through the same code."""
    small = device.type == "cpu"
    os.environ.setdefault("ALPHAGRPO_STORAGE", "/nowhere")
    changes = [
        f"task.max_think_tokens={thought_tokens}",
        f"model.device={device.type}",
        # Adapters of a first step are to be visibly other than zero.
        "optimizer.lr=1.0e-3",
        "optimizer.warmup_steps=0",
    ]
    config = load_config(SMALL if small else f"deploy/configs/{recipe}.yaml", changes)
    tokenizer: Tokenizer = WordTokenizer()
    if small:
        policy = load_policy(config)
        model, tokenizer = cast(Bagel, policy.model), policy.tokenizer
    else:
        model = _random_model(config, device)
    shape, size = model_size(config)
    learner, worker = GRPOLearner(model, config), RolloutWorker(model, tokenizer, config)
    made = Subject(config, cast(BagelShape, shape), size, model, worker, learner)
    made.publish()
    return made


def scored(group: Group, config: RunConfig) -> TrainingBatch:
    """A step of one group, with rewards that a seed draws: what they are changes no time."""
    generator = torch.Generator().manual_seed(7)
    rewards = torch.rand(len(group.trajectories), generator=generator).tolist()
    whole = replace(group, rewards=tuple(rewards))
    samples = tuple(
        Sample(id=t.id, thought="", score=None, reward=reward)
        for t, reward in zip(group.trajectories, rewards, strict=True)
    )
    report = GroupReport(
        job=group.job,
        questions=QuestionSet(prompt=group.job.prompt.text, questions=(), revision="none"),
        samples=samples,
        reference=whole,
        runner="gpu",
    )
    return training_batch([report], config)


def _random_model(config: RunConfig, device: torch.device) -> Bagel:
    """Weights of the released shape, made where they are used: nothing passes the host."""
    shape = cast(BagelShape, FAMILY.released_shape())
    with torch.device("meta"):
        model = Bagel(shape.config)
    dtype = getattr(torch, config.model.dtype)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        wide = name.startswith(FLOAT32_MODULES)
        tensor.data = tensor.data.to(torch.float32 if wide else dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(config.seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            _fill(name, tensor, generator)
    with device:
        model.set_autoencoder(type(model.autoencoder)(shape.config.autoencoder))
    model.eval().requires_grad_(False)
    add_adapters(cast(nn.Module, model), config.model.lora, config.seed)
    model.set_attention(config.model.attention)
    return model


def _fill(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Norms at one, biases at zero, products that keep the variance."""
    if "norm" in name and name.endswith("weight"):
        tensor.fill_(1.0)
    elif tensor.dim() < 2:
        tensor.zero_()
    else:
        tensor.normal_(std=1.0 / math.sqrt(tensor.shape[-1]), generator=generator)
