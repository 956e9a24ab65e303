"""The figures of one step, from the reports of its groups."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alphagrpo.ports import GroupReport, Sample
from alphagrpo.step.times import StepClock, step_times
from alphagrpo.training import UpdateReport

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.step.drawing import Arrival
    from alphagrpo.turns import SkippedTurn, Visit

MAX_REASONS = 3
"""Different reasons for a missing score that a message names."""


def step_metrics(
    arrivals: Sequence[Arrival],
    usable: Sequence[GroupReport],
    update: UpdateReport,
    clock: StepClock,
    config: RunConfig,
) -> dict[str, float]:
    """``samples/*``, ``reward/*``, ``refine/*`` and :func:`~alphagrpo.step.times.step_times`.

    ``arrivals`` are all groups of the step, ``usable`` those that were trained on.
    """
    groups = [arrival.report for arrival in arrivals]
    samples = [sample for group in groups for sample in group.samples]
    scored = sum(group.num_valid for group in groups)
    times = step_times(arrivals, clock, update.seconds, config)
    metrics = {
        "samples/drawn": float(len(samples)),
        "samples/scored": float(scored),
        "samples/invalid": float(len(samples) - scored),
        "samples/trained": float(sum(group.num_valid for group in usable)),
        "samples/valid_share": scored / len(samples),
        "groups/drawn": float(len(groups)),
        "groups/dropped": float(len(groups) - len(usable)),
    }
    step_s = times["time/step_s"]
    metrics["samples/per_second"] = len(samples) / step_s if step_s else 0.0
    if effects := [group.effect for group in groups if group.effect is not None]:
        metrics["weights/effect"] = max(effects)
    return metrics | times | reward_metrics(samples) | refinement_metrics(groups)


def turn_metrics(skipped: Sequence[SkippedTurn], dropped: Sequence[Visit]) -> dict[str, float]:
    """``prompts/*`` of the step's turns that were not trained on: ``put_off`` come again, the
    others are given up, ``skipped`` without questions and ``dropped`` without scores.
    """
    again = [turn.put_off for turn in skipped] + [not turn.again for turn in dropped]
    return {
        "prompts/put_off": float(sum(again)),
        "prompts/skipped": float(sum(not turn.put_off for turn in skipped)),
        "prompts/dropped": float(sum(turn.again for turn in dropped)),
    }


def reward_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """``reward/*`` over the samples that have a reward; empty without any.

    ``score`` is the reward program's value, ``bonus`` what the task adds to it.
    """
    scored = [(s.reward, s.score) for s in samples if s.reward is not None and s.score is not None]
    if not scored:
        return {}
    rewards, scores = zip(*scored, strict=True)
    metrics = {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.pstdev(rewards),
        "reward/score": statistics.fmean(score.value for score in scores),
        "reward/semantic": statistics.fmean(score.semantic for score in scores),
    }
    if qualities := [score.quality for score in scores if score.quality is not None]:
        metrics["reward/quality"] = statistics.fmean(qualities)
    metrics["reward/bonus"] = metrics["reward/mean"] - metrics["reward/score"]
    return metrics


def refinement_metrics(groups: Sequence[GroupReport]) -> dict[str, float]:
    """``refine/*`` of the step's refinements: what became of their drafts; empty without any.

    Shares are of refined pictures with a score, against the draft they began from.
    """
    refined = [group for group in groups if group.job.task == "srr"]
    if not refined:
        return {}
    drafts = [sample for group in refined for sample in group.drafts]
    metrics = {
        "refine/groups": float(len(refined)),
        "refine/drafts": float(len(drafts)),
        "refine/drafts_unscored": float(sum(sample.score is None for sample in drafts)),
    }
    gains, starts = [], []
    for group in refined:
        start = None if group.draft is None else group.drafts[group.draft].score
        if start is not None:
            starts.append(start.value)
            gains += [s.score.value - start.value for s in group.samples if s.score is not None]
    if gains:
        metrics["refine/draft_score"] = statistics.fmean(starts)
        metrics["refine/gain"] = statistics.fmean(gains)
        metrics["refine/improved_share"] = sum(gain > 0 for gain in gains) / len(gains)
        metrics["refine/harmed_share"] = sum(gain < 0 for gain in gains) / len(gains)
    return metrics


def invalid_reasons(groups: Sequence[GroupReport]) -> list[str]:
    """The commonest reasons for missing scores, with their counts."""
    reasons = Counter(
        sample.invalid_reason or "unknown"
        for group in groups
        for sample in group.samples
        if sample.reward is None
    )
    return [f"{count} x {reason}" for reason, count in reasons.most_common(MAX_REASONS)]
