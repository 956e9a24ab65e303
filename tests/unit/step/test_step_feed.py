"""When a step's groups are handed to the learner, and what is said to be settled then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.step.feed import StepFeed
from alphagrpo.training import TrainingBlock
from tests.fakes import FakeLearner, make_config, make_job, make_prompts, make_questions


def report(place: int) -> GroupReport:
    rewards = (0.0, 1.0, 2.0, 1.0 + place)
    return GroupReport(
        job=make_job(make_prompts(30)[place], make_config()),
        questions=make_questions("x"),
        samples=tuple(Sample(id="s", thought="", score=None, reward=r) for r in rewards),
        reference=place,
        runner="r",
    )


def feed_of(fake: FakeLearner, /, **sections: Any) -> StepFeed:
    algorithm = {"advantage_std": "group", **sections.pop("algorithm", {})}
    return StepFeed(make_config(algorithm=algorithm, **sections), fake, 7)


def handed(learner: FakeLearner) -> list[tuple[list[int], int]]:
    assert [b.order.number for b in learner.blocks] == list(range(len(learner.blocks)))
    assert {b.order.attempt for b in learner.blocks} <= {7}
    return [([group.place for group in b.groups], b.order.settled) for b in learner.blocks]


async def test_a_group_goes_as_soon_as_it_is_there_whichever_came_first() -> None:
    learner = FakeLearner()
    feed = feed_of(learner)
    for place in (2, 0, 1):
        feed.add(place, report(place))
        await asyncio.sleep(0)
        assert handed(learner)[-1][0] == [place]
    assert handed(learner) == [([2], 0), ([0], 1), ([1], 3)]
    await feed.finish()
    assert learner.updates[0].denominator == 12


async def test_a_dropped_group_settles_its_place() -> None:
    learner = FakeLearner()
    feed = feed_of(learner)
    feed.add(1, report(1))
    feed.add(0, None)
    feed.add(2, report(2))
    await feed.finish()
    assert handed(learner) == [([1], 0), ([2], 3)]


async def test_few_groups_are_replayed_ahead_of_one_that_is_late() -> None:
    learner = FakeLearner()
    feed = feed_of(learner, learner={"groups_ahead": 4})
    for place in range(1, 7):
        feed.add(place, report(place))
    await asyncio.sleep(0)
    assert [places for places, _ in handed(learner)] == [[p] for p in range(1, 5)]
    feed.add(0, report(0))
    await asyncio.sleep(0)
    late = handed(learner)[4:]
    assert late == [([0], 5), ([5], 6), ([6], 7)]
    await feed.finish()


async def test_with_batch_a_block_waits_for_all_groups_before_it() -> None:
    learner = FakeLearner()
    feed = feed_of(learner, algorithm={"advantage_std": "batch", "advantage_prompts": 2})
    for place in (1, 2, 3):
        feed.add(place, report(place))
    await asyncio.sleep(0)
    assert learner.blocks == []
    feed.add(0, None)
    await asyncio.sleep(0)
    assert handed(learner) == [([1], 2), ([2], 3)], "1 and 2 are a block, 3 begins the next"
    await feed.finish()
    assert handed(learner)[2:] == [([3], 4)], "which the end of the step completes"


async def test_not_streamed_everything_goes_at_the_end_in_order() -> None:
    learner = FakeLearner()
    feed = feed_of(learner, learner={"streamed": False})
    for place in (2, 0, 1):
        feed.add(place, report(place))
    await asyncio.sleep(0)
    assert learner.blocks == []
    await feed.finish()
    assert [places for places, _ in handed(learner)] == [[0], [1], [2]]


async def test_slices_of_a_group_have_places_and_ranks_of_their_own() -> None:
    learner = FakeLearner()
    feed = feed_of(learner, rollout={"slices": 2})
    whole = report(1)
    slices = tuple(
        replace(
            whole,
            job=replace(whole.job, slice=bounds, ranks=(rank,)),
            samples=whole.samples[bounds[0] : bounds[1]],
            reference=f"slice {rank}",
        )
        for rank, bounds in enumerate([(0, 2), (2, 4)])
    )
    feed.add(0, report(0))
    feed.add(1, replace(whole, slices=slices, draft_slices=slices, drafts=whole.samples))
    await asyncio.sleep(0)
    (block,) = [b for b in learner.blocks if len(b.groups) > 1]
    assert [(g.place, g.rank, g.reference) for g in block.groups] == [
        (4, 0, "slice 0"),
        (5, 1, "slice 1"),
        (6, 0, "slice 0"),
        (7, 1, "slice 1"),
    ]
    assert block.order.settled == 8
    weights = feed.blocks.weights[1]
    assert sum((g.samples.advantages for g in block.groups[2:]), ()) == weights.samples.advantages
    await feed.finish()


class Refusing(FakeLearner):
    async def accumulate(self, block: TrainingBlock) -> None:
        raise PolicyDataError("not this one; draw it again")


async def test_what_the_learner_refuses_is_raised_before_the_step_is_drawn() -> None:
    feed = feed_of(Refusing())
    feed.add(0, report(0))
    await asyncio.sleep(0)
    with pytest.raises(PolicyDataError, match="not this one"):
        feed.add(1, report(1))
    await feed.abandon()
