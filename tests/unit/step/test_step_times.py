"""Where a step's time went: waits that add up to the wall, what was hidden, stages, busy shares."""

from __future__ import annotations

from typing import Any

import pytest

from alphagrpo.ports import GroupReport, RankSeconds, Timings
from alphagrpo.step.drawing import Arrival
from alphagrpo.step.times import StepClock, step_times
from tests.fakes import make_config, make_job, make_prompts, make_questions

NONE = RankSeconds()
WAITS = ("time/rollout_s", "time/verify_wait_s", "time/learn_s", "time/sync_s")


def arrival(time: float, runner: str = "r0", **timings: float) -> Arrival:
    report = GroupReport(
        job=make_job(make_prompts(1)[0], make_config()),
        questions=make_questions("a"),
        samples=(),
        reference=None,
        runner=runner,
        timings=Timings(**timings),
    )
    return Arrival(0, report, time)


def times_of(*arrivals: Arrival, learning: RankSeconds = NONE, **config: Any) -> dict[str, float]:
    """Of a step that begins at 100, has weights at 101, has learnt at 116 and ends at 118."""
    clock = StepClock(begun=100.0, published=101.0, learned=116.0, ended=118.0)
    return step_times(arrivals, clock, learning, make_config(**config))


def test_waits_add_up_to_the_wall_time() -> None:
    times = times_of(
        arrival(106.0, sample_s=3.0, tail_s=1.0, pull_s=0.5),
        arrival(112.0, sample_s=4.0, tail_s=2.0),
    )
    assert [times[key] for key in WAITS] == [8.5, 2.0, 4.0, 3.5]
    assert sum(times[key] for key in WAITS) == times["time/step_s"] == 18.0


def test_a_step_drawn_ahead_waits_for_nothing_that_came_before_it_began() -> None:
    times = times_of(arrival(90.0, sample_s=9.0, tail_s=2.0, pull_s=4.0), arrival(95.0))
    assert [times[key] for key in WAITS] == [0.0, 0.0, 15.0, 3.0]
    late = times_of(arrival(90.0), arrival(103.0, tail_s=8.0))
    assert [late[key] for key in WAITS] == [0.0, 2.0, 13.0, 3.0]


def test_the_busiest_runner_is_the_one_that_drew_and_pulled_longest() -> None:
    times = times_of(
        arrival(110.0, "r0", sample_s=3.0, pull_s=0.25),
        arrival(111.0, "r1", sample_s=2.5, pull_s=1.5),
    )
    assert times["time/sync_s"] == 3.0 + 1.5
    assert times["hidden/sync_s"] == 0.0


def test_what_went_on_behind_something_else_is_hidden() -> None:
    times = times_of(
        arrival(106.0, sample_s=4.0, tail_s=3.0),
        arrival(107.0, sample_s=4.0, tail_s=3.0),
        arrival(112.0, sample_s=4.0, tail_s=1.0),
        learning=RankSeconds(total=9.0, longest=9.0),
    )
    assert times["hidden/verify_s"] == pytest.approx(4.0), "103 to 107, while others were drawn"
    assert times["time/learn_s"] == 4.0
    assert times["hidden/learn_s"] == 5.0


def test_the_longest_stage_bounds_the_step() -> None:
    drawn = [arrival(110.0, f"r{i}", sample_s=8.0) for i in range(2)]
    own = times_of(
        *drawn,
        learning=RankSeconds(total=18.0, longest=6.5),
        rollout={"num_runners": 2},
        learner={"ranks": 3},
    )
    assert (own["stage/draw_s"], own["stage/learn_s"]) == (8.0, 6.0)
    assert own["time/bound_s"] == 8.0
    assert own["time/efficiency"] == pytest.approx(8 / 18)
    assert own["busy/draw"] == pytest.approx(16 / 36)
    assert own["busy/learn"] == pytest.approx(18 / 54)
    shared = times_of(
        *drawn,
        learning=RankSeconds(total=18.0, longest=9.5),
        rollout={"num_runners": 2},
        learner={"placement": "runners"},
    )
    assert shared["stage/shared_s"] == shared["time/bound_s"] == 17.0
    assert shared["busy/learn"] == pytest.approx(0.5)
