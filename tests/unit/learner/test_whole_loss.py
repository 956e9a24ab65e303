"""The loss of a whole step, written out, has the gradients that an update leaves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alphagrpo.config import RunConfig
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.policy.replay import GroupReplay, replay_group
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.types import GivenImage, Group
from tests.fakes import (
    FakeTokenizer,
    batch_of,
    image_log_probs,
    make_config,
    make_job,
    make_model,
    make_prompts,
)

ROUNDS = 2
TEXT_WEIGHT, REFINEMENT_TEXT_WEIGHT = 0.7, 0.3
CLIP_LOW, CLIP_HIGH, IMAGE_CLIP, CLAMP, EPSILON = 0.005, 0.02, 0.001, 0.9, 1e-4

Rewards = Sequence[float | None]
DRAFT_REWARDS: tuple[Rewards, ...] = ((0.2, 0.9, 0.4, 0.5), (1.0, 0.1, 0.8, 0.3))
REFINED_REWARDS: tuple[Rewards, ...] = ((0.7, None, 0.1, 0.3), (0.5, 0.6, 0.0, 0.9))
SCORED_SAMPLES = 15


def step_config(std: str, prompts: int | None) -> RunConfig:
    """Refinements of two rounds from trained drafts; clips and clamp that are often reached."""
    guidance = {"text_scale": 2.0, "image_scale": 1.5, "interval": (0.0, 1.0)}
    window = {"length": 2, "allowed": (0, 4)}
    return make_config(
        model={"trainable": "experts"},
        task={"kind": "srr", "max_think_tokens": 10},
        refinement={
            "prompt": "it should be {prompt}",
            "rounds": ROUNDS,
            "text_weight": REFINEMENT_TEXT_WEIGHT,
            "drafts": {"trained": True},
            "text": {"top_p": 1.0},
            "flow": {"num_points": 6, "window": window, "guidance": guidance},
        },
        algorithm={
            "advantage_std": std,
            "advantage_prompts": prompts,
            "advantage_epsilon": EPSILON,
            "text": {"weight": TEXT_WEIGHT, "clip_low": CLIP_LOW, "clip_high": CLIP_HIGH},
            "image": {"clip": IMAGE_CLIP, "advantage_clamp": CLAMP},
        },
        # The weights have moved since the rollout, which is what the clips are for.
        training={"parity_limit_share": 1e9},
    )


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """Two refinements by the policy as it was, each with the drafts it began from, all scored."""
    config = step_config("group", None)
    worker = RolloutWorker(make_model(), FakeTokenizer(), config)
    worker.apply_weights(*GRPOLearner(make_model(), config).export())
    recorded = []
    for prompt, drafts, refined in zip(
        make_prompts(2), DRAFT_REWARDS, REFINED_REWARDS, strict=True
    ):
        job = make_job(prompt, config)
        draft_group = replace(worker.sample_group(job), rewards=tuple(drafts))
        image = draft_group.trajectories[1].image
        start = GivenImage(latents=image.final_latents, pixels=image.pixels)
        group = worker.sample_refinements(replace(job, task="srr"), start)
        recorded.append(replace(group, rewards=tuple(refined), draft_group=draft_group))
    return recorded


def moved_model() -> Any:
    """The policy a little later."""
    model, generator = make_model(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * parameter.std(correction=0) * noise)
    return model


def advantages_of(rewards: Sequence[Rewards], over_all: bool) -> list[list[float | None]]:
    """(R - mean of the group) / (std + epsilon), std of all the groups or of the group itself."""
    everything = [r for group in rewards for r in group if r is not None]
    advantages = []
    for group in rewards:
        known = [r for r in group if r is not None]
        spread = statistics.pstdev(everything if over_all else known) + EPSILON
        mean = statistics.fmean(known)
        advantages.append([None if r is None else (r - mean) / spread for r in group])
    return advantages


def clipped(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def sample_loss(
    replay: GroupReplay, steps: Tensor, index: int, advantage: float, text_weight: float
) -> Tensor:
    """[|W| lambda L_text + sum_k L_image,k] / (|W| + 1) of one sample's round."""
    sampled = replay.thoughts.mask[index]
    change = (replay.thoughts.log_probs - replay.old_text)[index][sampled]
    text = clipped(change.mean().exp(), advantage, CLIP_LOW, CLIP_HIGH)
    bounded = max(-CLAMP, min(CLAMP, advantage))
    ratios = (steps[index] - replay.old_image[index]).exp()
    images = [clipped(ratio, bounded, IMAGE_CLIP, IMAGE_CLIP) for ratio in ratios]
    window = len(images)
    return (window * text_weight * text + sum(images)) / (window + 1)


def stated_loss(model: Any, groups: Sequence[Group], config: RunConfig, over_all: bool) -> Tensor:
    """The mean over all scored samples of the step, drafts included, and over their rounds."""
    drafts = zip(groups, advantages_of(DRAFT_REWARDS, over_all), strict=True)
    refined = zip(groups, advantages_of(REFINED_REWARDS, over_all), strict=True)
    parts = [(group.draft_group, values, 1, TEXT_WEIGHT) for group, values in drafts]
    parts += [(group, values, ROUNDS, REFINEMENT_TEXT_WEIGHT) for group, values in refined]
    total = torch.zeros(())
    for group, advantages, rounds, weight in parts:
        for index in range(rounds):
            replay = replay_group(model, group, config, index)
            steps = image_log_probs(replay, model)
            for sample, advantage in enumerate(advantages):
                if advantage is not None:
                    loss = sample_loss(replay, steps, sample, advantage, weight)
                    total = total + loss / rounds
    return total / SCORED_SAMPLES


@pytest.mark.parametrize(
    ("std", "prompts", "over_all"),
    [("group", None, False), ("batch", None, True), ("batch", 1, False)],
    ids=["group", "batch", "batch of one prompt"],
)
def test_an_update_leaves_the_gradients_of_the_loss_as_it_is_stated(
    groups: list[Group], std: str, prompts: int | None, over_all: bool
) -> None:
    config = step_config(std, prompts)
    learner = GRPOLearner(moved_model(), config)
    learner.export()
    left: dict[str, Tensor | None] = {}

    def keep_gradients(step: int, gradients: Sequence[Tensor | None]) -> float:
        left.update(zip(learner.parameters, gradients, strict=True))
        return 1.0

    learner.optimizer.step = keep_gradients  # type: ignore[method-assign]
    metrics = learner.update(batch_of(groups, config)).metrics
    for part in ("text", "image"):
        assert 0.09 < metrics[f"{part}/clip_share"] < 0.9, "some terms are clipped and some are not"

    model = moved_model()
    parameters = dict(zip(learner.parameters, _trained(model), strict=True))
    loss = stated_loss(model, groups, config, over_all)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in gradients if g is not None)
    assert largest > 1e-3
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            assert left[name] is None, name
            continue
        torch.testing.assert_close(left[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


def _trained(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
