"""Where the time went: medians of what steps measured, the bottleneck, and what would help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.lag import measured_lag
from alphagrpo.report.curves import pace_charts, wait_chart
from alphagrpo.report.pace import pace_facts, reading, wait_rows
from alphagrpo.report.render import render_report
from tests.fakes import make_config
from tests.synthetic_run import make_run

Line = dict[str, Any]


def line_of(
    step: int = 1,
    *,
    waits: tuple[float, float, float, float] = (8.0, 0.0, 1.0, 0.0),
    stages: Mapping[str, float] | None = None,
    hidden_learn_s: float = 3.0,
    **more: float,
) -> Line:
    """A step that waited for drawing, verdicts, learning and weights as ``waits`` says."""
    stages = stages or {"draw": 8.0, "learn": 4.0}
    names = ("rollout", "verify_wait", "learn", "sync")
    step_s, bound_s = sum(waits), max(stages.values())
    return {
        "step": step,
        **{f"time/{name}_s": seconds for name, seconds in zip(names, waits, strict=True)},
        **{f"stage/{name}_s": seconds for name, seconds in stages.items()},
        "time/step_s": step_s,
        "time/bound_s": bound_s,
        "time/efficiency": bound_s / step_s,
        "hidden/verify_s": 2.0,
        "hidden/learn_s": hidden_learn_s,
        "hidden/sync_s": 0.25,
        "busy/draw": stages.get("draw", 0.0) / step_s,
        "busy/learn": stages.get("learn", 0.0) / step_s,
        **more,
    }


def config_of(**sections: Any) -> Mapping[str, Any]:
    """As the run folder has it; 2 runners, one rank, 8 prompts a step, an advantage per group."""
    sections = {
        "rollout": {"num_runners": 2, "prompts_per_step": 8, **sections.pop("rollout", {})},
        "algorithm": {"advantage_std": "group", **sections.pop("algorithm", {})},
        **sections,
    }
    return make_config(**sections).model_dump(mode="json")


def test_facts_and_waits_are_medians_of_the_steps_that_measured_them() -> None:
    lines = [
        {"step": 1, "time/step_s": 900.0, "time/rollout_s": 900.0},
        line_of(2, waits=(8.0, 1.0, 1.0, 0.0)),
        line_of(3, waits=(9.0, 0.5, 2.5, 0.5)),
        line_of(4, waits=(90.0, 0.0, 90.0, 0.0)),
    ]
    assert pace_facts(lines, 0) == [
        ("T, a step", "12.5 s"),
        ("T*, its longest stage", "8.00 s"),
        ("T* / T, efficiency", "64%"),
        ("runners busy", "64%"),
        ("ranks busy", "32%"),
    ]
    assert wait_rows(lines, 0) == [
        ("drawing", "9.00 s", "-"),
        ("verdicts", "0.50 s", "2.00 s"),
        ("learning", "2.50 s", "3.00 s"),
        ("weights", "0.00 s", "0.25 s"),
    ]


def test_several_ranks_say_how_evenly_their_groups_are_dealt() -> None:
    ranks = {"learner/rank_groups_max": 3.0, "learner/rank_groups_mean": 8 / 3}
    assert pace_facts([line_of(**ranks)], 0)[-1] == ("groups of a rank", "2.67, at most 3")


def test_shared_cards_have_a_share_for_each_kind_of_work() -> None:
    line = line_of(stages={"shared": 8.5}) | {"busy/draw": 0.5, "busy/learn": 0.25}
    assert pace_facts([line], 0)[3:] == [
        ("cards busy drawing", "50%"),
        ("cards busy learning", "25%"),
    ]
    busy = pace_charts([line], config_of())[1]
    assert "both together are T* / T" in busy["note"]
    assert busy["svg"].count('class="line ') == 3


@pytest.mark.parametrize(
    ("stages", "bottleneck", "remedy"),
    [
        (
            {"draw": 8.0, "learn": 6.5},
            "Drawing is the bottleneck: drawing takes 8.00 s of each runner in a step, learning "
            "6.50 s of each rank",
            "Another runner (rollout.num_runners) would help",
        ),
        (
            {"draw": 6.0, "learn": 8.0},
            "Learning is the bottleneck: drawing takes 6.00 s of each runner in a step, learning "
            "8.00 s of each rank",
            "Another rank (learner.ranks) would help; as shared cards (learner.placement: runners) "
            "the same 3 would have 6.67 s of work each",
        ),
        (
            {"draw": 7.5, "learn": 8.0},
            "Both stages are about as long: drawing takes 7.50 s of each runner, learning 8.00 s "
            "of each rank",
            "A runner and a rank more (rollout.num_runners, learner.ranks) would help",
        ),
        (
            {"shared": 8.0},
            "All cards draw and learn, 8.00 s of work in a step for each",
            "Another card (rollout.num_runners) would help most",
        ),
    ],
)
def test_a_step_as_long_as_its_longest_stage_needs_more_of_that_role(
    stages: Mapping[str, float], bottleneck: str, remedy: str
) -> None:
    assert reading([line_of(stages=stages)], config_of()) == f"{bottleneck}. {remedy}."


def test_shared_cards_are_named_where_all_of_them_have_work_and_with_lag_say_its_end() -> None:
    line = line_of(stages={"draw": 2.0, "learn": 8.0})
    few = config_of(rollout={"prompts_per_step": 2})
    assert "shared cards" not in reading([line], few), "two groups do not give three cards work"
    sliced = config_of(rollout={"prompts_per_step": 2, "slices": 2})
    assert "as shared cards (learner.placement: runners) the same 3" in reading([line], sliced)
    lagging = config_of(rollout={"max_lag": 1})
    assert "(learner.placement: runners, rollout.max_lag: 0)" in reading([line], lagging)


DRAW, LEARN, SHARED = {"draw": 4.0, "learn": 2.0}, {"draw": 2.0, "learn": 4.0}, {"shared": 4.0}


@pytest.mark.parametrize(
    ("stages", "waits", "rest"),
    [
        (DRAW, (4.0, 5.0, 1.0, 0.0), "5.00 s, is waiting for verdicts, and another verifier"),
        (DRAW, (4.0, 0.5, 2.0, 3.5), "3.50 s, is moving weights, and shared cards"),
        (DRAW, (4.0, 1.0, 3.5, 1.5), "3.50 s, is learning after the last group was drawn, and a"),
        (DRAW, (8.0, 1.0, 1.0, 0.0), "4.00 s, is groups that do not divide evenly among"),
        (LEARN, (7.5, 1.0, 1.5, 0.0), "4.50 s, is drawing before there was something to learn"),
        (LEARN, (3.0, 1.0, 6.0, 0.0), "5.00 s, is groups that do not divide evenly among"),
        (SHARED, (6.0, 1.0, 3.0, 0.0), "5.00 s, is groups that do not divide evenly among"),
        (SHARED, (3.0, 1.0, 2.0, 4.0), "4.00 s, is moving weights, and fewer trained weights"),
    ],
)
def test_a_step_much_longer_than_its_longest_stage_says_what_the_rest_is(
    stages: Mapping[str, float], waits: tuple[float, float, float, float], rest: str
) -> None:
    text = reading([line_of(stages=stages, waits=waits)], config_of())
    assert f"A step takes 2.5 times its longest stage; the largest part of the rest, {rest}" in text
    assert text.endswith(" would help most.")


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({"learner": {"streamed": False}}, "streaming (learner.streamed)"),
        (
            {"algorithm": {"advantage_std": "batch", "advantage_prompts": 8}},
            "smaller blocks (algorithm.advantage_prompts)",
        ),
        (
            {"algorithm": {"advantage_std": "batch", "advantage_prompts": None}},
            "smaller blocks (algorithm.advantage_prompts)",
        ),
        ({"algorithm": {"advantage_std": "batch", "advantage_prompts": 4}}, "another "),
        ({}, "another "),
    ],
)
def test_stages_in_turn_are_made_to_overlap_first(config: Line, remedy: str) -> None:
    late = reading([line_of(stages=DRAW, waits=(4.0, 1.0, 5.0, 0.0))], config_of(**config))
    assert f"is learning after the last group was drawn, and {remedy}" in late
    early = reading([line_of(stages=LEARN, waits=(8.0, 1.0, 1.0, 0.0))], config_of(**config))
    assert f"is drawing before there was something to learn, and {remedy}" in early


def test_waits_are_stacked_for_steps_that_have_all_of_them() -> None:
    svg = wait_chart([line_of(1), {"step": 2}, line_of(3)])
    assert svg.count('class="area') == 4
    assert "waiting for verdicts" in svg
    assert wait_chart([{"step": 1, "time/learn_s": 1.0}]) == ""


def titles(lines: list[Line], **rollout: int) -> list[str]:
    return [chart["title"] for chart in pace_charts(lines, config_of(rollout=rollout))]


def test_runs_of_earlier_versions_have_what_they_measured() -> None:
    waits = {k: v for k, v in line_of().items() if k.startswith("time/")}
    old = [waits | {"step": 1, "image/clip_share": 0.0}]
    del old[0]["time/bound_s"], old[0]["time/efficiency"]
    assert pace_facts(old, 0) == wait_rows(old, 0) == []
    assert reading(old, config_of()) == ""
    assert titles(old) == ["What a step waited for"]
    assert titles(old, max_lag=1) == ["Terms that the clip removed"], "its times were no waits"
    assert titles([line_of()]) == ["What a step waited for", "Busy shares"]


def test_lag_is_drawn_as_what_it_took_or_as_the_weights_that_it_capped() -> None:
    clipped = line_of(**{"image/clip_share": 0.5, "text/clip_share": 0.0})
    capped = clipped | {"image/capped_share": 0.25, "image/clip_share": 0.0}
    assert titles([clipped], max_lag=1)[2:] == ["Terms that the clip removed"]
    assert titles([capped], max_lag=1)[2:] == ["Importance weights at their cap"]
    assert len(titles([clipped])) == len(titles([capped])) == 2


def test_the_busy_shares_of_a_run_with_lag_are_of_several_steps() -> None:
    lines = [line_of(k) | {"busy/draw": 2.0 if k == 5 else 0.5} for k in range(1, 12)]
    ticks = [
        re.findall(r">(\d+)%<", pace_charts(lines, config_of(rollout={"max_lag": lag}))[1]["svg"])
        for lag in (0, 1)
    ]
    assert ticks == [["0", "100", "200"], ["0", "50", "100"]]


def test_the_page_has_a_section_on_time_where_there_is_something_to_tell(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=4, heldout=4, **{"rollout.max_lag": "1"})
    text = render_report(run)
    section = re.search(r'<section class="pace">.*?</section>', text, re.DOTALL).group()
    assert "<h2>Where the time went</h2>" in section
    for name, value in pace_facts(run.metrics(), 1):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in section
    for row in wait_rows(run.metrics(), 1):
        assert "".join(f"<td>{cell}</td>" for cell in row) in section
    assert "Learning is the bottleneck" in section
    assert measured_lag(run.metrics()) in section
    assert "averaged with its neighbours" in section
    assert section.count("<svg") == 3
    run.rewind(0)
    assert "Where the time went" not in render_report(run)
