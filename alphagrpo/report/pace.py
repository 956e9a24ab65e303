"""Where the time of a run's steps went: medians over steps, who was busy, what would help.

Of runs whose steps measured it (:func:`alphagrpo.record.pace.timed_steps`); of others there is
nothing to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from alphagrpo.record.pace import median, step_pace, timed_steps
from alphagrpo.record.summary import Metrics
from alphagrpo.report.cells import seconds_cell

WAIT_COLUMNS = ("", "the step waited", "hidden behind other work")
WAITS = {
    "drawing": ("time/rollout_s", None),
    "verdicts": ("time/verify_wait_s", "hidden/verify_s"),
    "learning": ("time/learn_s", "hidden/learn_s"),
    "weights": ("time/sync_s", "hidden/sync_s"),
}
"""What a step waits for: the metric of the seconds it did, and of those it did not notice."""
STAGES = ("stage/draw_s", "stage/learn_s", "stage/shared_s")
GOOD_EFFICIENCY = 0.8
"""T* / T from which it is the longest stage that makes a step long, and not what surrounds it."""
ALIKE = 0.9
"""Shorter over longer stage from which both are about as long; shared cards' longest stage over
today's below which they are named."""


class Excess(NamedTuple):
    """Some of what a step takes beyond its longest stage."""

    seconds: float
    what: str
    remedy: str


def pace_facts(metrics: Metrics, max_lag: int) -> list[tuple[str, str]]:
    """T, T*, T* / T and the busy share of each role: name and value; empty where not measured."""
    lines, pace = timed_steps(metrics, max_lag), step_pace(metrics, max_lag)
    if pace is None:
        return []
    drawing, learning = role_names(metrics)
    rows = [
        ("T, a step", seconds_cell(pace.step_s)),
        ("T*, its longest stage", seconds_cell(pace.bound_s)),
        ("T* / T, efficiency", f"{pace.efficiency:.0%}"),
        (drawing, f"{median(lines, 'busy/draw') or 0.0:.0%}"),
        (learning, f"{median(lines, 'busy/learn') or 0.0:.0%}"),
    ]
    most, mean = (median(lines, f"learner/rank_groups_{name}") for name in ("max", "mean"))
    if most is not None and mean is not None:
        rows.append(("groups of a rank", f"{mean:.3g}, at most {most:.0f}"))
    return rows


def shares_cards(metrics: Metrics) -> bool:
    """Whether the processes that drew also learnt."""
    return any("stage/shared_s" in line for line in metrics)


def role_names(metrics: Metrics) -> tuple[str, str]:
    """What the shares ``busy/draw`` and ``busy/learn`` are of."""
    if shares_cards(metrics):
        return "cards busy drawing", "cards busy learning"
    return "runners busy", "ranks busy"


def wait_rows(metrics: Metrics, max_lag: int) -> list[tuple[str, ...]]:
    """Cells as :data:`WAIT_COLUMNS`, medians over the steps; empty where not measured."""
    lines = timed_steps(metrics, max_lag)
    if not lines:
        return []
    return [
        (
            name,
            seconds_cell(median(lines, waited)),
            seconds_cell(median(lines, hidden) if hidden else None),
        )
        for name, (waited, hidden) in WAITS.items()
    ]


def reading(metrics: Metrics, config: Mapping[str, Any]) -> str:
    """Which stage makes a step long, and what would shorten it; empty where not measured."""
    max_lag = config["rollout"]["max_lag"]
    lines, pace = timed_steps(metrics, max_lag), step_pace(metrics, max_lag)
    if pace is None:
        return ""
    seconds = {
        key: median(lines, key) or 0.0
        for key in (*STAGES, *(key for pair in WAITS.values() for key in pair if key))
    }
    stage, more = _longest_stage(seconds, config)
    if pace.efficiency >= GOOD_EFFICIENCY:
        return f"{stage}. {more}."
    excess = max(_excesses(seconds, config))
    rest = f"the largest part of the rest, {seconds_cell(excess.seconds)}, is {excess.what}"
    times = f"A step takes {1 / pace.efficiency:.1f} times its longest stage"
    return f"{stage}. {times}; {rest}, and {excess.remedy} would help most."


def _longest_stage(seconds: Mapping[str, float], config: Mapping[str, Any]) -> tuple[str, str]:
    """Which it is, and what would shorten it."""
    if shared_s := seconds["stage/shared_s"]:
        stage = f"All cards draw and learn, {seconds_cell(shared_s)} of work in a step for each"
        return stage, "Another card (rollout.num_runners) would help most"
    draw_s, learn_s = seconds["stage/draw_s"], seconds["stage/learn_s"]
    drawing = f"drawing takes {seconds_cell(draw_s)} of each runner"
    learning = f"learning {seconds_cell(learn_s)} of each rank"
    if min(draw_s, learn_s) >= ALIKE * max(draw_s, learn_s):
        stage = f"Both stages are about as long: {drawing}, {learning}"
        return stage, "A runner and a rank more (rollout.num_runners, learner.ranks) would help"
    if draw_s > learn_s:
        stage, more = "Drawing", "Another runner (rollout.num_runners)"
    else:
        stage, more = "Learning", "Another rank (learner.ranks)"
    return (
        f"{stage} is the bottleneck: {drawing} in a step, {learning}",
        f"{more} would help{_sharing(draw_s, learn_s, config)}",
    )


def _sharing(draw_s: float, learn_s: float, config: Mapping[str, Any]) -> str:
    """What shared cards would come to, where that is worth a word."""
    rollout = config["rollout"]
    runners, ranks = rollout["num_runners"], config["learner"].get("ranks", 1)
    cards = runners + ranks
    shared_s = (draw_s * runners + learn_s * ranks) / cards
    too_few = rollout["prompts_per_step"] * rollout.get("slices", 1) < cards
    if too_few or shared_s > ALIKE * max(draw_s, learn_s):
        return ""
    settings = "learner.placement: runners"
    if rollout["max_lag"]:
        settings += ", rollout.max_lag: 0"
    work = f"{seconds_cell(shared_s)} of work"
    return f"; as shared cards ({settings}) the same {cards} would have {work} each"


def _excesses(seconds: Mapping[str, float], config: Mapping[str, Any]) -> list[Excess]:
    """What lies between T and T*; the parts add up to it where each median is a step's own."""
    excesses = [
        Excess(
            seconds["time/verify_wait_s"],
            "waiting for verdicts",
            "another verifier or more groups in flight (rollout.groups_in_flight)",
        ),
    ]
    draw_s, learn_s = seconds["stage/draw_s"], seconds["stage/learn_s"]
    drawing_s, learning_s = seconds["time/rollout_s"], seconds["time/learn_s"]
    moved = "shared cards (learner.placement: runners), which pull none,"
    if shared_s := seconds["stage/shared_s"]:
        uneven_s, moved = drawing_s + learning_s - shared_s, "fewer trained weights"
    elif draw_s >= learn_s:
        uneven_s = drawing_s - draw_s
        late = "learning after the last group was drawn"
        excesses.append(Excess(learning_s, late, _overlap("another rank (learner.ranks)", config)))
    else:
        hidden_s = seconds["hidden/learn_s"]
        uneven_s = learning_s + hidden_s - learn_s
        early = "drawing before there was something to learn"
        runner = _overlap("another runner (rollout.num_runners)", config)
        excesses.append(Excess(drawing_s - hidden_s, early, runner))
    uneven = "groups that do not divide evenly among the processes"
    return [
        *excesses,
        Excess(seconds["time/sync_s"], "moving weights", moved),
        Excess(uneven_s, uneven, "slices (rollout.slices)"),
    ]


def _overlap(process: str, config: Mapping[str, Any]) -> str:
    """What would let drawing and learning overlap more: a setting, else another ``process``."""
    if not config["learner"].get("streamed", True):
        return "streaming (learner.streamed)"
    algorithm, prompts = config["algorithm"], config["rollout"]["prompts_per_step"]
    whole_step = (algorithm["advantage_prompts"] or prompts) >= prompts
    if algorithm["advantage_std"] == "batch" and whole_step:
        return "smaller blocks (algorithm.advantage_prompts)"
    return process
