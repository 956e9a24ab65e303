"""What each sample weighs in a step, from the reports' rewards."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from alphagrpo.config import RunConfig
from alphagrpo.errors import PolicyDataError
from alphagrpo.ports import GroupReport, Sample
from alphagrpo.step.blocks import training_batch
from alphagrpo.training import SampleWeights
from tests.fakes import make_config, make_job, make_prompts, make_questions

Rewards = Sequence[float | None]


def config_of(**algorithm: Any) -> RunConfig:
    """Groups of four, at least two of them with a reward; no epsilon to speak of."""
    return make_config(algorithm={"advantage_epsilon": 1e-12, **algorithm})


def report(prompt: int, rewards: Rewards, drafts: Rewards = (), task: str = "rt2i") -> GroupReport:
    job = replace(make_job(make_prompts(9)[prompt], make_config()), task=task)
    return GroupReport(
        job=job,
        questions=make_questions("x"),
        samples=_samples(rewards),
        reference=f"group {prompt}",
        runner="r",
        drafts=_samples(drafts),
    )


def _samples(rewards: Rewards) -> tuple[Sample, ...]:
    return tuple(Sample(id="s", thought="", score=None, reward=reward) for reward in rewards)


def normalised(rewards: Rewards, spread: float) -> list[float]:
    known = [r for r in rewards if r is not None]
    mean = statistics.fmean(known)
    return pytest.approx([0.0 if r is None else (r - mean) / spread for r in rewards], rel=1e-6)


FIRST, SECOND, DRAFTS = (0.0, 1.0, 2.0, 1.0), (5.0, None, 9.0, 7.0), (0.1, 0.2, None, 0.6)


def test_groups_keep_their_order_reference_and_weights() -> None:
    batch = training_batch([report(3, FIRST), report(1, SECOND)], config_of(advantage_std="group"))
    assert [group.reference for group in batch.groups] == ["group 3", "group 1"]
    assert [group.samples.weights for group in batch.groups] == [(1, 1, 1, 1), (1, 0, 1, 1)]
    assert [group.drafts for group in batch.groups] == [None, None]
    assert batch.denominator == 7
    second = batch.groups[1].samples
    assert second.advantages == normalised(SECOND, statistics.pstdev([5.0, 9.0, 7.0]))
    assert second.trained_advantages()[1] is None
    assert second.trained_advantages()[3] == 0.0, "of a sample at the mean, which is trained on"


def test_trained_drafts_share_the_mean_of_the_step() -> None:
    reports = [report(0, FIRST, DRAFTS, "srr"), report(1, SECOND, task="srr")]
    batch = training_batch(reports, config_of(advantage_std="group"))
    drafts = batch.groups[0].drafts
    assert drafts is not None
    assert drafts.weights == (1, 1, 0, 1)
    assert drafts.advantages == normalised(DRAFTS, statistics.pstdev([0.1, 0.2, 0.6]))
    assert batch.groups[0].samples.advantages == normalised(FIRST, statistics.pstdev(FIRST))
    assert batch.groups[1].drafts is None
    assert batch.denominator == 3 + 4 + 3


@pytest.mark.parametrize(
    ("drafts", "trained"), [((0.1, 0.2, None, None), True), ((0.1, None, None, None), False)]
)
def test_drafts_are_trained_on_where_just_enough_of_them_have_a_reward(
    drafts: Rewards, trained: bool
) -> None:
    config = config_of()
    assert config.min_valid == 2
    batch = training_batch([report(0, FIRST, drafts, "srr")], config)
    assert (batch.groups[0].drafts is not None) == trained
    assert batch.denominator == (6 if trained else 4)


def test_a_spread_is_taken_over_groups_of_one_task() -> None:
    """Drafts are text-to-image, whatever their refinements are."""
    drawing, refining = report(0, FIRST), report(1, SECOND, DRAFTS, "srr")
    batch = training_batch([drawing, refining], config_of(advantage_std="batch"))
    of_drawing = statistics.pstdev([*FIRST, 0.1, 0.2, 0.6])
    of_refining = statistics.pstdev([5.0, 9.0, 7.0])
    assert batch.groups[0].samples.advantages == normalised(FIRST, of_drawing)
    assert batch.groups[1].drafts.advantages == normalised(DRAFTS, of_drawing)
    assert batch.groups[1].samples.advantages == normalised(SECOND, of_refining)


def test_a_spread_is_taken_over_as_many_prompts_as_the_config_says() -> None:
    third = (3.0, 3.0, 4.0, 5.0)
    config = config_of(advantage_std="batch", advantage_prompts=2)
    batch = training_batch([report(0, FIRST), report(1, SECOND), report(2, third)], config)
    together = statistics.pstdev([*FIRST, 5.0, 9.0, 7.0])
    assert batch.groups[0].samples.advantages == normalised(FIRST, together)
    assert batch.groups[1].samples.advantages == normalised(SECOND, together)
    assert batch.groups[2].samples.advantages == normalised(third, statistics.pstdev(third))


def test_rewards_that_are_no_numbers_are_refused_with_their_prompt() -> None:
    for odd in (math.nan, math.inf):
        with pytest.raises(PolicyDataError, match="prompt p4 has"):
            training_batch([report(4, (0.1, odd, None, 0.2))], config_of())
    with pytest.raises(PolicyDataError, match="fix the reward program"):
        training_batch([report(4, FIRST, (0.1, 0.2, math.nan, 0.3), "srr")], config_of())


def test_an_advantage_of_zero_is_no_missing_one() -> None:
    assert SampleWeights((0.0, 0.0), (1.0, 0.0)).trained_advantages() == (0.0, None)
