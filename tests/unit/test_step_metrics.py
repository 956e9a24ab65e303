"""The figures of a step, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from alphagrpo.ports import GroupReport, Sample, Timings
from alphagrpo.step_metrics import invalid_reasons, refinement_metrics, step_metrics
from alphagrpo.types import Score
from tests.fakes import make_config, make_job, make_prompts, make_questions


def sample(value: float | None, bonus: float = 0.0, reason: str = "") -> Sample:
    if value is None:
        return Sample(id="s", thought="", score=None, reward=None, invalid_reason=reason)
    score = Score(semantic=value / 2, quality=None, value=value, verdicts=())
    return Sample(id="s", thought="", score=score, reward=value + bonus)


def group(
    samples: Sequence[Sample],
    *,
    runner: str = "a",
    sample_s: float = 0.0,
    pull_s: float = 0.0,
    drafts: Sequence[Sample] = (),
    draft: int | None = None,
) -> GroupReport:
    job = make_job(make_prompts(1)[0], make_config())
    return GroupReport(
        job=replace(job, task="srr" if drafts else "rt2i"),
        questions=make_questions("x"),
        samples=tuple(samples),
        reference=None,
        runner=runner,
        timings=Timings(sample_s=sample_s, pull_s=pull_s),
        drafts=tuple(drafts),
        draft=draft,
    )


def figures(groups: Sequence[GroupReport], **seconds: float) -> dict[str, float]:
    usable = [one for one in groups if one.num_valid > 1]
    return step_metrics(groups, usable, **{"collect_s": 10.0, "learn_s": 2, "sync_s": 1, **seconds})


def test_samples_groups_and_rewards_are_counted() -> None:
    whole = group([sample(0.2, 1.0), sample(0.6), sample(None, reason="late")])
    lost = group([sample(0.9), sample(None), sample(None)])
    metrics = figures([whole, lost])
    assert metrics["samples/drawn"] == 6
    assert metrics["samples/scored"] == 3
    assert metrics["samples/invalid"] == 3
    assert metrics["samples/trained"] == 2, "none of the group that was dropped"
    assert metrics["samples/valid_share"] == 0.5
    assert (metrics["groups/drawn"], metrics["groups/dropped"]) == (2, 1)
    assert metrics["reward/mean"] == pytest.approx(0.9)
    assert metrics["reward/std"] == pytest.approx((0.09 * 2 / 3) ** 0.5)
    assert metrics["reward/score"] == pytest.approx(1.7 / 3)
    assert metrics["reward/semantic"] == pytest.approx(1.7 / 6)
    assert "reward/quality" not in metrics, "where no quality question is asked"
    assert metrics["reward/bonus"] == pytest.approx(1 / 3)
    assert metrics["samples/per_second"] == pytest.approx(6 / 13)


def test_no_score_no_reward() -> None:
    assert "reward/mean" not in figures([group([sample(None)])])


def test_the_busiest_runner_is_the_one_that_drew_and_pulled_longest() -> None:
    groups = [
        group([sample(0.1)], runner="a", sample_s=3.0),
        group([sample(0.1)], runner="b", sample_s=2.0, pull_s=1.5),
        group([sample(0.1)], runner="b", sample_s=0.5),
    ]
    metrics = figures(groups)
    assert metrics["time/rollout_s"] == pytest.approx(2.5)
    assert metrics["time/sync_s"] == pytest.approx(1 + 1.5)
    assert metrics["time/verify_wait_s"] == pytest.approx(10 - 2.5 - 1.5)
    assert metrics["time/step_s"] == 13


def test_what_was_drawn_ahead_of_the_step_is_no_longer_than_the_step() -> None:
    metrics = figures([group([sample(0.1)], sample_s=8.0, pull_s=4.0)], collect_s=5.0)
    assert metrics["time/rollout_s"] == pytest.approx(1.0)
    assert metrics["time/verify_wait_s"] == 0.0
    assert metrics["time/sync_s"] == pytest.approx(1 + 4.0)


def test_refinements_are_compared_with_the_draft_they_began_from() -> None:
    drafts = [sample(0.9), sample(0.4), sample(None)]
    refined = [sample(0.4), sample(0.7), sample(0.1), sample(0.5), sample(None)]
    groups = [group(refined, drafts=drafts, draft=1), group([sample(0.0)])]
    metrics = refinement_metrics(groups)
    assert metrics["refine/groups"] == 1
    assert metrics["refine/drafts"] == 3
    assert metrics["refine/drafts_unscored"] == 1
    assert metrics["refine/draft_score"] == 0.4
    assert metrics["refine/gain"] == pytest.approx((0.0 + 0.3 - 0.3 + 0.1) / 4)
    assert metrics["refine/improved_share"] == 0.5, "a tie improves nothing"
    assert metrics["refine/harmed_share"] == 0.25
    assert refinement_metrics(groups[1:]) == {}


def test_without_a_scored_draft_there_is_no_gain_to_tell() -> None:
    metrics = refinement_metrics([group([sample(None)], drafts=[sample(None)])])
    assert metrics.keys() == {"refine/groups", "refine/drafts", "refine/drafts_unscored"}


def test_the_commonest_reasons_come_first_and_scored_samples_have_none() -> None:
    samples = [sample(None, reason=reason) for reason in ("late", "down", "late", "", "odd")]
    reasons = invalid_reasons([group([*samples, sample(0.3), sample(0.4), sample(0.5)])])
    assert reasons == ["2 x late", "1 x down", "1 x unknown"]
