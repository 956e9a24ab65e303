"""Where a step's wall time went: what it waited for, what was hidden behind that, who was busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from alphagrpo.ports import RankSeconds

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.step.drawing import Arrival


@dataclass(slots=True)
class StepClock:
    """``perf_counter`` at the turns of a step."""

    begun: float = field(default_factory=perf_counter)
    published: float = 0.0
    """There are weights to draw with."""
    learned: float = 0.0
    """The optimizer has stepped."""
    ended: float = 0.0
    """The new weights are published."""

    @property
    def wall_s(self) -> float:
        """Seconds of the whole step."""
        return self.ended - self.begun


def step_times(
    arrivals: Sequence[Arrival], clock: StepClock, learning: RankSeconds, config: RunConfig
) -> dict[str, float]:
    """``time/*``, ``hidden/*``, ``busy/*`` and ``stage/*`` of a step.

    The four times of waiting add up to the wall time: ``rollout_s`` until the last group is
    sampled, ``verify_wait_s`` until its last verdict, ``learn_s`` until the optimizer has stepped,
    ``sync_s`` publishing, and the pull of the busiest runner. What went on meanwhile is hidden.
    A stage is a role's work spread evenly over its processes; ``bound_s`` is the longest stage,
    T*, and ``efficiency`` T* / T (performance of a pipeline: no step can be shorter than T*).
    """
    wall_s = clock.wall_s
    last = max(clock.published, *(arrival.time for arrival in arrivals))
    sampled = max(arrival.time - arrival.report.timings.tail_s for arrival in arrivals)
    sampled = min(max(sampled, clock.published), last)
    drawing, pulling = _per_runner(arrivals)
    busiest = max(drawing, key=lambda name: drawing[name] + pulling[name])
    pulled = min(pulling[busiest], sampled - clock.published)
    waits = {
        "time/rollout_s": sampled - clock.published - pulled,
        "time/verify_wait_s": last - sampled,
        "time/learn_s": clock.learned - last,
        "time/sync_s": clock.published - clock.begun + clock.ended - clock.learned + pulled,
    }
    stages = _stages(sum(drawing.values()), learning, config)
    bound_s = max(stages.values())
    return {
        **waits,
        "time/step_s": wall_s,
        "time/bound_s": bound_s,
        "time/efficiency": _share(bound_s, wall_s),
        "hidden/verify_s": max(0.0, _verifying(arrivals) - waits["time/verify_wait_s"]),
        "hidden/learn_s": max(0.0, learning.longest - waits["time/learn_s"]),
        "hidden/sync_s": max(pulling.values()) - pulled,
        "busy/draw": _share(sum(drawing.values()), wall_s * config.rollout.num_runners),
        "busy/learn": _share(learning.total, wall_s * config.num_ranks),
        **stages,
    }


def _stages(drawing_s: float, learning: RankSeconds, config: RunConfig) -> dict[str, float]:
    runners = config.rollout.num_runners
    if config.learner.on_runners:
        return {"stage/shared_s": (drawing_s + learning.total) / runners}
    return {
        "stage/draw_s": drawing_s / runners,
        "stage/learn_s": learning.total / config.num_ranks,
    }


def _per_runner(arrivals: Sequence[Arrival]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds each runner spent sampling and pulling."""
    drawing: defaultdict[str, float] = defaultdict(float)
    pulling: defaultdict[str, float] = defaultdict(float)
    for arrival in arrivals:
        report = arrival.report
        for runner, timings in report.spent or ((report.runner, report.timings),):
            drawing[runner] += timings.sample_s
            pulling[runner] += timings.pull_s
    return drawing, pulling


def _verifying(arrivals: Sequence[Arrival]) -> float:
    """Seconds in which any verdict was waited for: from sampled to arrived, overlaps once."""
    spans = sorted((a.time - a.report.timings.tail_s, a.time) for a in arrivals)
    covered, end = 0.0, float("-inf")
    for begin, until in spans:
        covered += max(0.0, until - max(begin, end))
        end = max(end, until)
    return covered


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
