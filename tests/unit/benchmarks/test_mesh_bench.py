"""The benchmark of the mesh: its clock, its arithmetic, its goals, and the small rows on it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from alphagrpo.types import RolloutJob
from benchmarks.mesh import __main__ as command
from benchmarks.mesh.measuring import Measured, Row, measure
from benchmarks.mesh.page import Answer, page
from benchmarks.mesh.processes import LocalProcesses
from benchmarks.mesh.rows import (
    DRIVER,
    SLICED,
    Table,
    of_linear,
    over_unsliced,
    tables,
    wall_goal,
)
from benchmarks.mesh.stages import Stages, Work
from benchmarks.mesh.virtual import run_virtually
from tests.fakes import make_job, make_prompts

STAGES = Stages(draw_s=0.4, learn_s=0.1, verify_s=0.05)
ROW = Row(label="row", runners=4, prompts=16, stages=STAGES)


def virtually(row: Row) -> Measured:
    return run_virtually(measure(row, LocalProcesses()))


def jobs(count: int) -> list[RolloutJob]:
    config = ROW.config
    return [make_job(prompt, config) for prompt in make_prompts(count)]


def measured(row: Row, wall_s: float, driver_ms: float = 1.0) -> Measured:
    work = Work.of([jobs(row.prompts)], row.stages, row.config)
    return Measured(row=row, wall_s=wall_s, work=work, driver_ms=driver_ms, central_ms=1.0)


def test_the_clock_moves_by_what_is_slept_and_by_nothing_else() -> None:
    async def work() -> float:
        clock = asyncio.get_running_loop().time
        await asyncio.gather(asyncio.sleep(3.0), asyncio.sleep(2000.0))
        return clock()

    assert run_virtually(work()) == pytest.approx(2000.0)


def test_tasks_that_wait_for_each_other_are_told() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run_virtually(work())


def test_a_stage_is_a_roles_work_spread_over_its_processes() -> None:
    work = Work.of([jobs(16), jobs(16)], STAGES, replace(ROW, ranks=2).config)
    assert (work.draw_s, work.learn_s) == pytest.approx((1.6, 0.8))
    assert work.bound_s == pytest.approx(1.6)
    shared = Work.of([jobs(16)], STAGES, replace(ROW, learner={"placement": "runners"}).config)
    assert shared.bound_s == pytest.approx(1.6 + 0.4), "the same cards do both"


def test_draws_are_spread_by_the_prompt_alone_and_slices_take_their_share() -> None:
    stages = replace(STAGES, spread=0.3)
    seconds = [stages.drawing(job) for job in jobs(200)]
    assert seconds == [stages.drawing(job) for job in jobs(200)]
    assert 0.7 * 0.4 <= min(seconds) < 0.3
    assert 0.5 < max(seconds) <= 1.3 * 0.4
    (job,) = jobs(1)
    half = replace(job, slice=(0, job.group_size // 2))
    assert stages.drawing(half) == pytest.approx(stages.drawing(job) / 2)
    assert stages.learning(half) == pytest.approx(0.05)


def test_a_streamed_step_waits_for_its_first_group_alone() -> None:
    """Four waves of draws; learning takes as long and begins when the first wave is judged."""
    streamed = virtually(ROW)
    assert streamed.wall_s == pytest.approx(0.4 + 0.05 + 16 * 0.1)
    assert streamed == replace(virtually(ROW), driver_ms=streamed.driver_ms,
                               central_ms=streamed.central_ms)  # fmt: skip
    whole = virtually(replace(ROW, learner={"streamed": False}))
    assert whole.wall_s == pytest.approx(4 * 0.4 + 0.05 + 16 * 0.1)
    assert virtually(replace(ROW, rollout={"max_lag": 1})).ratio == pytest.approx(1.0)
    assert streamed.learn_busy == pytest.approx(1.6 / 2.05)


def test_runners_that_learn_take_turns_on_one_device() -> None:
    """Each draws and learns four groups: nothing is idle but for the last verdict."""
    shared = virtually(replace(ROW, learner={"placement": "runners"}))
    assert shared.work.bound_s == pytest.approx(2.0)
    assert 2.0 <= shared.wall_s <= 2.05 + 1e-6
    assert shared.central_ms == 0.0, "their front is in the driver"


def test_ranks_share_a_step_out() -> None:
    two, four = (virtually(replace(ROW, ranks=ranks, runners=16)) for ranks in (2, 4))
    assert two.wall_s == pytest.approx(0.45 + 0.8)
    assert four.wall_s == pytest.approx(0.45 + 0.4)
    assert of_linear((replace(two, row=ROW, wall_s=2.05), two), two) == pytest.approx(0.82)


def test_the_first_group_of_each_step_is_the_late_one() -> None:
    late = virtually(replace(ROW, late_s=100.0))
    assert 100.4 < late.wall_s < 105.0


def test_goals_stand_beside_the_figures_met_or_not() -> None:
    assert SLICED.cell(1.8) == "≥ 1.8: met"
    assert SLICED.cell(1.79) == "≥ 1.8: not met"
    assert DRIVER.cell(1.5) == "≤ 1.5: met"
    assert DRIVER.cell(1.51) == "≤ 1.5: not met"
    rows = (ROW, replace(ROW, label="better"), replace(ROW, label="lag", rollout={"max_lag": 1}))
    table = Table(title="One", note="Note.", rows=rows)
    walls = tuple(measured(row, wall_s) for row, wall_s in zip(rows, (1.9, 1.8, 1.6), strict=True))
    lines = page([Answer(table, walls, walls)], "preface").splitlines()
    found = {line.split(" | ")[3]: line for line in lines if line.startswith("| 4 ")}
    assert "| 1.19 | 1.19 | ≤ 1.15: not met |" in found["row"]
    assert "| 1.12 | 1.12 | ≤ 1.15: met |" in found["better"]
    assert "| 1.00 | 1.00 | - |" in found["lag"]


def test_no_row_that_a_goal_was_set_for_is_without_it() -> None:
    everything = {table.title: table for table in tables()}
    streamed = [row for row in everything["Weak scaling"].rows if row.streamed_without_lag]
    assert {row.runners for row in streamed} == {4, 16, 64}
    assert all(wall_goal(row) for row in streamed)
    assert wall_goal(replace(ROW, prompts=15)) is None
    strong, ranks, driver = (everything[name] for name in ("Strong scaling", "Ranks", "The driver"))
    assert [row.label for row in strong.rows if strong.goal(row)] == ["lag 0, slices 2"]
    assert [row.ranks for row in ranks.rows if ranks.goal(row)] == [2, 4, 8]
    assert all(driver.goal(row) is DRIVER for row in driver.rows)


def test_speed_is_told_against_32_runners_without_slices() -> None:
    rows = [
        measured(replace(ROW, runners=runners, rollout={"slices": slices}), wall_s)
        for runners, slices, wall_s in ((32, 1, 2.0), (32, 2, 9.0), (64, 2, 1.0))
    ]
    assert over_unsliced(rows, rows[2]) == pytest.approx(2.0)
    assert over_unsliced(rows[1:], rows[2]) != over_unsliced(rows[1:], rows[2]), "nan"


def test_the_small_rows_run_without_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ray_session", None)
    monkeypatch.setattr(command.sys, "argv", ["mesh", "--quick"])
    command.main()
    printed = capsys.readouterr().out
    assert [line[3:] for line in printed.splitlines() if line.startswith("## ")] == [
        table.title for table in tables()
    ]
    lines = [line for line in printed.splitlines() if line.startswith("| ") and "---" not in line]
    assert {line.split(" | ")[0] for line in lines} >= {"| 4", "| 16"}
    assert not any(line.startswith("| 64 ") for line in lines)
