"""T, T* and T* / T of a run: medians at lag 0; with lag of steps averaged with their neighbours."""

from __future__ import annotations

from typing import Any

import pytest

from alphagrpo.record.pace import LAG_REACH, median, step_pace, timed_steps
from alphagrpo.record.summary import StepPace


def line_of(step: int, step_s: float, draw_s: float, learn_s: float) -> dict[str, Any]:
    """A step of one runner and one rank."""
    bound_s = max(draw_s, learn_s)
    return {
        "step": step,
        "time/step_s": step_s,
        "time/bound_s": bound_s,
        "time/efficiency": bound_s / step_s,
        "stage/draw_s": draw_s,
        "stage/learn_s": learn_s,
        "busy/draw": draw_s / step_s,
        "busy/learn": learn_s / step_s,
    }


def test_a_median_is_of_the_steps_that_have_the_figure() -> None:
    assert median([{"a": 4.0}, {"a": None}, {}, {"a": 1.0}], "a") == 2.5
    assert median([{"b": 1.0}], "a") is None


def test_without_lag_the_pace_is_the_medians_of_the_steps_that_measured_it() -> None:
    seconds = [(10.0, 4.0, 1.0), (12.0, 3.0, 9.0), (40.0, 10.0, 8.0), (11.0, 5.5, 5.0)]
    lines = [line_of(step, *each) for step, each in enumerate(seconds)]
    assert timed_steps([{"time/step_s": 900.0}, *lines], 0) == lines
    assert step_pace([{"time/step_s": 900.0}, *lines], 0) == StepPace(
        step_s=11.5, bound_s=7.25, efficiency=0.45
    )
    assert step_pace([{"time/step_s": 900.0}], 0) is step_pace([], 1) is None


def test_with_lag_no_step_is_busy_more_than_all_of_the_time() -> None:
    """Every other step finds its groups drawn, and is over as soon as it has learnt them."""
    lines = [line_of(k, *((6.0, 2.0, 3.0) if k % 2 else (2.0, 4.0, 2.0))) for k in range(40)]
    assert max(line["busy/draw"] for line in lines) == 2.0
    steps = timed_steps(lines, 1)
    assert [line["step"] for line in steps] == list(range(40))
    assert max(line["busy/draw"] for line in steps) < 1
    for line in steps[LAG_REACH:-LAG_REACH]:
        assert line["time/step_s"] == pytest.approx(4.0, rel=0.06)
        assert line["busy/draw"] == pytest.approx(line["stage/draw_s"] / line["time/step_s"])
        assert line["busy/learn"] == pytest.approx(line["stage/learn_s"] / line["time/step_s"])
        assert line["time/efficiency"] == pytest.approx(line["busy/draw"]), (
            "drawing is the longer stage"
        )
    pace = step_pace(lines, 1)
    assert pace is not None
    assert pace.bound_s / pace.step_s == pytest.approx(pace.efficiency, rel=0.02)


def test_a_step_with_lag_is_averaged_with_its_neighbours_and_no_further() -> None:
    lines = [line_of(k, 1.0, 0.5, 0.5) for k in range(30)]
    lines[15] = line_of(15, 12.0, 0.5, 0.5)
    seconds = [line["time/step_s"] for line in timed_steps(lines, 1)]
    assert seconds[9] == seconds[21] == 1.0
    assert seconds[10] == seconds[20] == 2.0
