"""One step however it is taken: ranks, slices, streamed or not, against one plain backward."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from alphagrpo.algorithms.combine import loss_weights
from alphagrpo.algorithms.image import image_loss
from alphagrpo.algorithms.text import text_loss
from alphagrpo.config import RunConfig
from alphagrpo.errors import DeviceFull, ServiceUnavailable
from alphagrpo.learner.inprocess import LocalStore
from alphagrpo.learner.learner import GRPOLearner
from alphagrpo.learner.rank import LocalRank
from alphagrpo.learner.ranked import RankedLearner
from alphagrpo.loop import TrainingLoop
from alphagrpo.policy.recipe import Recipe
from alphagrpo.policy.replay import replay_group
from alphagrpo.policy.worker import RolloutWorker
from alphagrpo.rollout.inprocess import LocalPool
from alphagrpo.rollout.runner import GroupRunner
from alphagrpo.training import CallOrder, SampleWeights, TrainingBlock, TrainingGroup
from alphagrpo.types import Group
from tests.fakes import (
    FakeDecomposer,
    FakeTokenizer,
    FakeVerifier,
    make_config,
    make_model,
    make_prompts,
)
from tests.unit.rollout.test_refining import REFINEMENT

PROMPTS = 4


def judge(pixels: Any, question: Any) -> float:
    """An opinion of its own on every picture, and of some pictures none."""
    digest = hashlib.sha256(pixels.tobytes() + question.id.encode()).digest()
    if digest[1] < 60:
        raise ServiceUnavailable("this picture cannot be judged; wait")
    return digest[0] / 255


class Meeting:
    """Where ranks that are threads add up their gradients, in the order of their numbers."""

    def __init__(self, size: int) -> None:
        self._all = threading.Barrier(size)
        self._own: list[Any] = [None] * size

    def line(self, rank: int) -> Any:
        meeting = self

        class Line:
            def sum(self, gradients: Any, parameters: Sequence[Tensor]) -> list[Tensor | None]:
                meeting._own[rank] = gradients or [None] * len(parameters)
                meeting._all.wait(60)
                totals = [_sum(parts) for parts in zip(*meeting._own, strict=True)]
                meeting._all.wait(60)
                return totals

        return Line()


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0].clone()) if there else None


@dataclass
class Step:
    """What the optimizer was given, per rank, and what the learner was handed."""

    gradients: list[list[Tensor | None]]
    handed: list[TrainingGroup]
    denominator: float
    metrics: dict[str, float]


async def take_step(config: RunConfig) -> Step:
    store, meeting = LocalStore(), Meeting(config.num_ranks)
    given: list[Any] = [None] * config.num_ranks
    ranks = []
    for index in range(config.num_ranks):
        learner = GRPOLearner(make_model(), config, meeting.line(index))

        def keep(step: int, gradients: Any, index: int = index) -> float:
            given[index] = gradients
            return 1.0

        learner.optimizer.step = keep  # type: ignore[method-assign]
        ranks.append(LocalRank(learner, store))
    front = RankedLearner(ranks, config)
    handed, ended = [], []

    async def accumulate(block: TrainingBlock, original: Any = front.accumulate) -> None:
        handed.extend(block.groups)
        await original(block)

    async def finish(denominator: float, original: Any = front.finish) -> Any:
        ended.append(denominator)
        return await original(denominator)

    front.accumulate, front.finish = accumulate, finish  # type: ignore[method-assign]
    worker = RolloutWorker(make_model(), FakeTokenizer(), config)
    runner = GroupRunner(worker, FakeVerifier(judge), store, config)
    loop = TrainingLoop(
        config,
        make_prompts(7),
        decomposer=FakeDecomposer(),
        pool=LocalPool(runner),
        learner=front,
    )
    report = await loop.run_step()
    await loop.close()
    handed.sort(key=lambda group: group.place)
    return Step(given, handed, ended[0], dict(report.metrics))


def plain_gradients(step: Step, config: RunConfig) -> list[Tensor | None]:
    """All losses of the step in one graph, and one backward."""
    model = make_model()
    total = torch.zeros(())
    for training in step.handed:
        whole: Group = training.reference
        if training.drafts is not None:
            total = total + _loss(model, whole.draft_group, training.drafts, config, step)
        total = total + _loss(model, whole, training.samples, config, step)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(total, parameters, allow_unused=True))


def _loss(model: Any, group: Any, weights: SampleWeights, config: RunConfig, step: Step) -> Tensor:
    recipe, algorithm = Recipe.of(config, group.job.task), config.algorithm
    advantages, kept = torch.tensor(weights.advantages), torch.tensor(weights.weights)
    shared = {"sample_weight": kept, "denominator": step.denominator}
    total = torch.zeros(())
    for index in range(recipe.rounds):
        replay = replay_group(model, group, config, index)
        factors = loss_weights(replay.num_steps, recipe.text_weight, thinking=True)
        text = text_loss(
            replay.thoughts.log_probs, replay.old_text, replay.thoughts.mask, advantages, **shared
        )
        total = total + factors.text * text.loss / recipe.rounds
        for k in range(replay.num_steps):
            log_prob = replay.image_step(model, k).log_prob
            image = image_loss(
                log_prob, replay.old_image[:, k], advantages, clip=algorithm.image.clip, **shared
            )
            total = total + factors.image * image.loss / recipe.rounds
    return total


def config_of(ranks: int, slices: int, streamed: bool, trained_drafts: bool) -> RunConfig:
    drafts = {"num": 3, "num_points": 5, "trained": trained_drafts}
    std = {"advantage_std": "group"} if trained_drafts else {"advantage_prompts": 2}
    return make_config(
        model={"trainable": "experts"},
        task={"kind": "srr" if trained_drafts else "mixed", "max_think_tokens": 12},
        refinement={**REFINEMENT, "drafts": drafts, "rectification": "off", "rounds": 2},
        rollout={"prompts_per_step": PROMPTS, "slices": slices},
        learner={"ranks": ranks, "streamed": streamed},
        algorithm=std,
        reward={"max_invalid_share": 0.5},
    )


@pytest.mark.parametrize("trained_drafts", [False, True], ids=["mixed", "trained drafts"])
@pytest.mark.parametrize("slices", [1, 3])
async def test_every_way_of_taking_a_step_is_one_plain_backward(
    slices: int, trained_drafts: bool
) -> None:
    plain = None
    alone: list[Tensor | None] = []
    for ranks in (1, 2, 4):
        bits = []
        for streamed in (True, False) if ranks < 4 else (True,):
            config = config_of(ranks, slices, streamed, trained_drafts)
            step = await take_step(config)
            weights = [w for g in step.handed for w in (g.samples, g.drafts) if w is not None]
            assert step.denominator == sum(sum(w.weights) for w in weights)
            assert any(0.0 in w.weights for w in weights), "one sample has no reward"
            assert step.metrics["parity/image_max_abs_log_ratio"] == 0.0
            assert {group.rank for group in step.handed} <= set(range(ranks))
            for own in step.gradients:
                assert _distance(own, step.gradients[0]) == 0.0, "all ranks take the same step"
            bits.append(step.gradients[0])
            plain = plain or plain_gradients(step, config)
        assert _distance(bits[0], bits[-1]) == 0.0, "streamed or not, the same bits"
        alone = alone or bits[0]
        assert _distance(bits[0], alone) <= 1e-6
        assert _distance(bits[0], plain) <= 1e-5


def _distance(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Norm of the difference, relative to the norm of the second."""
    difference = norm = 0.0
    for left, right in zip(one, other, strict=True):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            difference += float((left - right).double().square().sum())
            norm += float(right.double().square().sum())
    assert norm > 0
    return (difference / norm) ** 0.5


async def test_calls_that_overtake_one_another_change_no_bit() -> None:
    """Groups of three calls, in every order that they can come in."""
    config = config_of(1, 1, streamed=True, trained_drafts=True)
    groups = (await take_step(config)).handed[:3]
    assert len(groups) == 3
    found = []
    for numbers in itertools.permutations(range(3)):
        learner = GRPOLearner(make_model(), config)
        learner.export()
        rank = LocalRank(learner, LocalStore())
        await rank.begin(0)
        for number in numbers:
            settled = groups[number].place + 1
            await rank.accumulate([groups[number]], CallOrder(0, number, settled))
        found.append(learner._sum.take())
    assert all(_distance(other, found[0]) == 0.0 for other in found[1:])


async def test_what_an_abandoned_step_still_replays_is_not_in_the_next() -> None:
    """Its groups are being fetched when the next step begins."""
    config = config_of(1, 1, streamed=True, trained_drafts=False)
    step = await take_step(config)
    gate = asyncio.Event()

    async def fetch(group: Any) -> Any:
        await gate.wait()
        return group

    learner = GRPOLearner(make_model(), config)
    learner.export()
    rank = LocalRank(learner, LocalStore(), fetch=fetch)
    await rank.begin(0)
    stale = asyncio.create_task(rank.accumulate(step.handed[:1], CallOrder(0, 0, 0)))
    await asyncio.sleep(0)
    begun = asyncio.create_task(rank.begin(1))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(stale, begun)
    assert learner._sum.take() is None


async def test_a_full_device_is_told_with_the_rank_and_no_step_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(1, 1, streamed=True, trained_drafts=False)
    step = await take_step(config)
    learner = GRPOLearner(make_model(), config)
    learner.export()

    def full(groups: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ...")

    rank = LocalRank(learner, LocalStore(), role="learner-3")
    await rank.begin(0)
    monkeypatch.setattr(learner, "accumulate", full)
    with pytest.raises(DeviceFull, match=r"learner-3 asked its GPU for 2.00 GiB more.*--resume"):
        await rank.accumulate(step.handed[:1], CallOrder(0, 0, 0))
    assert (learner.step, learner._sum.take()) == (0, None)
