"""A step's figures: what was counted, and what became of refinements' drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from alphagrpo.ports import GroupReport, Sample, Timings
from alphagrpo.step.drawing import Arrival
from alphagrpo.step.metrics import invalid_reasons, refinement_metrics, step_metrics
from alphagrpo.step.times import StepClock
from alphagrpo.training import UpdateReport
from alphagrpo.types import Score
from tests.fakes import make_config, make_job, make_prompts, make_questions


def sample(value: float | None, *, bonus: float = 0.0, quality: float | None = 0.5) -> Sample:
    if value is None:
        return Sample(id="", thought="", score=None, reward=None, invalid_reason="late")
    score = Score(semantic=value / 2, quality=quality, value=value, verdicts=())
    return Sample(id="", thought="", score=score, reward=value + bonus)


def group(
    samples: Sequence[Sample], *, runner: str = "r0", times: Timings | None = None, **changes: Any
) -> GroupReport:
    job = replace(make_job(make_prompts(1)[0], make_config()), group_size=len(samples))
    return GroupReport(
        job=replace(job, task=changes.pop("task", "rt2i")),
        questions=make_questions("a"),
        samples=tuple(samples),
        reference=None,
        runner=runner,
        timings=times or Timings(),
        **changes,
    )


def metrics_of(
    groups: Sequence[GroupReport], usable: Sequence[GroupReport] | None = None
) -> dict[str, float]:
    """Of a step of 14 seconds, of which the first ten are drawing."""
    arrivals = [Arrival(place, group, 10.0) for place, group in enumerate(groups)]
    clock = StepClock(begun=0.0, published=0.0, learned=13.0, ended=14.0)
    usable = groups if usable is None else usable
    return step_metrics(arrivals, usable, UpdateReport(step=1), clock, make_config())


def test_samples_per_second_are_those_of_the_wall_clock() -> None:
    metrics = metrics_of([group([sample(0.5)]), group([sample(0.5), sample(None)])])
    assert metrics["time/step_s"] == 14.0
    assert metrics["samples/per_second"] == pytest.approx(3 / 14)


def test_the_largest_effect_of_the_weights_is_told_where_a_runner_has_one() -> None:
    none = group([sample(0.5)])
    assert "weights/effect" not in metrics_of([none])
    groups = [none, group([sample(0.5)], effect=0.25), group([sample(0.5)], effect=0.5)]
    assert metrics_of(groups)["weights/effect"] == 0.5


def test_samples_are_counted_over_all_groups_and_trained_ones_over_usable_groups() -> None:
    whole = group([sample(0.25), sample(0.75), sample(None)])
    dropped = group([sample(None), sample(None), sample(0.5)])
    metrics = metrics_of([whole, dropped], [whole])
    assert metrics["samples/drawn"] == 6
    assert metrics["samples/scored"] == 3
    assert metrics["samples/invalid"] == 3
    assert metrics["samples/trained"] == 2
    assert metrics["samples/valid_share"] == 0.5
    assert (metrics["groups/drawn"], metrics["groups/dropped"]) == (2, 1)


def test_rewards_are_told_apart_from_scores_and_bonus() -> None:
    samples = [sample(0.25, bonus=0.5), sample(0.75, bonus=0.0, quality=None), sample(None)]
    metrics = metrics_of([group(samples)])
    assert metrics["reward/mean"] == 0.75
    assert metrics["reward/std"] == 0.0
    assert metrics["reward/score"] == 0.5
    assert metrics["reward/semantic"] == 0.25
    assert metrics["reward/quality"] == 0.5, "over the samples whose program asks about quality"
    assert metrics["reward/bonus"] == 0.25


def test_a_step_without_scores_has_no_rewards() -> None:
    metrics = metrics_of([group([sample(None), sample(None)])], [])
    assert not [key for key in metrics if key.startswith("reward/")]
    assert metrics["samples/valid_share"] == 0.0


def refinement(start: float | None, values: Sequence[float | None]) -> GroupReport:
    """Samples with ``values`` that began from the second of two drafts, of score ``start``."""
    drafts = (sample(0.125), sample(start))
    return group([sample(value) for value in values], task="srr", drafts=drafts, draft=1)


def test_refinements_are_compared_with_the_draft_they_began_from() -> None:
    groups = [
        refinement(0.5, [0.75, 0.25, 0.5, None]),
        refinement(0.25, [0.5]),
        group([sample(1.0)]),
    ]
    assert refinement_metrics(groups) == {
        "refine/groups": 2.0,
        "refine/drafts": 4.0,
        "refine/drafts_unscored": 0.0,
        "refine/draft_score": 0.375,
        "refine/gain": (0.25 - 0.25 + 0.0 + 0.25) / 4,
        "refine/improved_share": 0.5,
        "refine/harmed_share": 0.25,
    }
    assert metrics_of(groups)["refine/gain"] == 0.0625


def test_refinements_of_drafts_without_a_score_have_no_gain() -> None:
    metrics = refinement_metrics([refinement(None, [0.5, 0.75])])
    assert metrics == {"refine/groups": 1.0, "refine/drafts": 2.0, "refine/drafts_unscored": 1.0}
    assert refinement_metrics([group([sample(0.5)])]) == {}


def test_the_commonest_reasons_come_first_and_few_are_listed() -> None:
    reasons = ["late", "down", "late", "", "late", "down", "a", "b"]
    invalid = [replace(sample(None), invalid_reason=reason) for reason in reasons]
    listed = invalid_reasons([group(invalid[:4]), group([*invalid[4:], sample(0.5)])])
    assert listed[:2] == ["3 x late", "2 x down"]
    assert listed[2] == "1 x unknown"
    assert len(listed) == 3
