"""``summary.json`` as a record: the figures of a whole run, and sums over its metrics.

JSON keys are the fields' names (:mod:`alphagrpo.json_records`). A run that has not written a
summary yet has :class:`RunSummary` without arguments; what older files lack is absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alphagrpo.eval.figures import SortFigures
from alphagrpo.eval.lines import Measure
from alphagrpo.eval.paired import PairedDifference
from alphagrpo.json_records import LEFT_OUT
from alphagrpo.types import Sort

Metrics = Sequence[Mapping[str, Any]]
"""The lines of ``metrics.jsonl``: numbers by key, null where a figure could not be had."""
LOG_RATIOS = ("parity/image_max_abs_log_ratio", "parity/text_max_abs_log_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """Held-out figures; a sort without prompts, or a phase not evaluated, has none."""

    before: Mapping[Sort, SortFigures] = field(default_factory=dict)
    after: Mapping[Sort, SortFigures] = field(default_factory=dict)
    difference: Mapping[Sort, Mapping[Measure, PairedDifference]] = field(default_factory=dict)
    """After - before, paired by prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCounts:
    """Samples over all steps."""

    drawn: int = 0
    scored: int = 0
    invalid: int = 0
    """Without a score."""
    trained: int = 0
    """In groups that were not dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCounts:
    """Turns of the prompt order that were not trained on when they came, over all steps."""

    put_off: int = 0
    """Their questions or scores could not be had; they came again, or will."""
    skipped: int = 0
    """Given up without questions, those of prompts set aside included."""
    dropped: int = 0
    """Given up without scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Seconds that all steps waited, by what for; they add up to the steps' wall time.

    What went on behind something else is in none of them.
    """

    rollout_s: float = 0.0
    """Until a step's last group was sampled."""
    verify_wait_s: float = 0.0
    """From there until its last verdict."""
    learn_s: float = 0.0
    """From there until the optimizer had stepped."""
    sync_s: float = 0.0
    """Publishing weights, and the busiest runner's pull."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPace:
    """Medians over the steps (:func:`alphagrpo.record.pace.timed_steps`)."""

    step_s: float
    """T: wall time of a step."""
    bound_s: float
    """T*: its longest stage, which no step can beat."""
    efficiency: float
    """T* / T of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Largest |log ratio| between rollout and replay at the first update; None without one."""

    max_abs_log_ratio_step0: float | None = None
    image_max_abs_log_ratio_step0: float | None = None
    text_max_abs_log_ratio_step0: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """The newest weights that were published."""

    version: int | None = None
    checksum: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The document that ``summary.json`` holds."""

    run: str = ""
    """The run's name."""
    steps: int | None = None
    """The last step taken."""
    wall_s: float | None = None
    """Seconds of all parts of the run, evaluations and starts included."""
    training_s: float | None = None
    """Wall seconds of the steps of all parts of the run."""
    evaluation: EvaluationSummary = field(default_factory=EvaluationSummary)
    samples: SampleCounts = field(default_factory=SampleCounts)
    time: StageSeconds = field(default_factory=StageSeconds)
    pace: StepPace | None = field(default=None, metadata=LEFT_OUT)
    """None of a run without a step, or whose steps did not measure it."""
    parity: Parity = field(default_factory=Parity)
    weights: PublishedWeights = field(default_factory=PublishedWeights)
    prompts_set_aside: Mapping[str, str] = field(default_factory=dict)
    """Prompt id to the reason."""
    turns: TurnCounts | None = field(default=None, metadata=LEFT_OUT)
    """None where every turn was trained on."""
    memory: Mapping[str, float] | None = None
    """GiB at the peak: ``mesh_gib`` of all processes together, and parts of it."""
    stopped_by: str | None = None
    """What ended training before its last step."""


def total(metrics: Metrics, key: str) -> float:
    """Sum of a figure over steps; steps that lack it count as 0."""
    return math.fsum(line.get(key) or 0.0 for line in metrics)


def values_of(metrics: Metrics, key: str) -> list[float]:
    """A figure of the steps that have it."""
    return [line[key] for line in metrics if line.get(key) is not None]


def trained_s(metrics: Metrics) -> float:
    """Wall seconds of all steps: as whoever drove them saw it, else as the steps themselves did."""
    return math.fsum(line.get("time/wall_s") or line.get("time/step_s") or 0.0 for line in metrics)


def sample_counts(metrics: Metrics) -> SampleCounts:
    """Sums of ``samples/*`` over steps."""
    return SampleCounts(
        drawn=int(total(metrics, "samples/drawn")),
        scored=int(total(metrics, "samples/scored")),
        invalid=int(total(metrics, "samples/invalid")),
        trained=int(total(metrics, "samples/trained")),
    )


def stage_seconds(metrics: Metrics) -> StageSeconds:
    """Sums of ``time/*`` over steps, to the millisecond."""
    return StageSeconds(
        rollout_s=round(total(metrics, "time/rollout_s"), 3),
        verify_wait_s=round(total(metrics, "time/verify_wait_s"), 3),
        learn_s=round(total(metrics, "time/learn_s"), 3),
        sync_s=round(total(metrics, "time/sync_s"), 3),
    )


def step0_parity(metrics: Metrics) -> Parity:
    """Largest |log ratio| of the first update: of the picture, of the thought, and of both.

    Steps before it that taught nothing (equal rewards in every group) have none.
    """
    first = next((line for line in metrics if any(key in line for key in LOG_RATIOS)), {})
    image, text = (first.get(key) for key in LOG_RATIOS)
    ratios = [value for value in (image, text) if value is not None]
    return Parity(
        max_abs_log_ratio_step0=max(ratios) if ratios else None,
        image_max_abs_log_ratio_step0=image,
        text_max_abs_log_ratio_step0=text,
    )


def turn_counts(metrics: Metrics) -> TurnCounts | None:
    """Over all steps; None where every turn was trained on."""
    counts = TurnCounts(
        put_off=int(total(metrics, "prompts/put_off")),
        skipped=int(total(metrics, "prompts/skipped")),
        dropped=int(total(metrics, "prompts/dropped")),
    )
    return None if counts == TurnCounts() else counts


def dropped_groups(metrics: Metrics) -> int:
    """Groups with too few scored samples to train on."""
    return int(total(metrics, "groups/dropped"))


def skipped_updates(metrics: Metrics) -> int:
    """Steps in which every advantage was zero, so that nothing was updated."""
    return sum(bool(line.get("learner/skipped")) for line in metrics)
