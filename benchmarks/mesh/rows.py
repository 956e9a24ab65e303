"""Which rows answer which question about the mesh, and what each of them is to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.mesh.measuring import ALL, Measured, Row
from benchmarks.mesh.stages import Stages

LATE_S = 0.8
"""Of verdicts that are late: as long as the whole step's drawing."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is to be."""

    limit: float
    at_least: bool
    """Otherwise at most."""

    def cell(self, value: float) -> str:
        """The goal, and whether the value reaches it."""
        met = value >= self.limit if self.at_least else value <= self.limit
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}: {'met' if met else 'not met'}"


WALL = Goal(1.15, at_least=False)
"""Wall over T* of a step of 16 groups or more, streamed and at lag 0."""
SLICED = Goal(1.8, at_least=True)
"""Speed of 64 runners with slices over 32 without."""
LINEAR = Goal(0.9, at_least=True)
"""Speed-up of ranks over their number."""
DRIVER = Goal(1.5, at_least=False)
"""CPU milliseconds of the driver per group."""

Figure = Callable[[Sequence[Measured], Measured], float]
"""A figure of a row beside the other rows of its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows that answer one question."""

    title: str
    note: str
    rows: tuple[Row, ...]
    figure: tuple[str, Figure] | None = None
    """One more column, and how it is computed."""
    goal: Callable[[Row], Goal | None] = lambda row: None
    """Of that column; without one, of the driver's CPU."""

    def small(self) -> Table:
        """The rows of 16 runners at most, with two counted steps each."""
        rows = (row for row in self.rows if row.runners <= 16)
        return replace(self, rows=tuple(replace(row, steps=min(row.steps, 3)) for row in rows))


def wall_goal(row: Row) -> Goal | None:
    """What the wall over T* of a row is to be; None where no goal was set."""
    applies = row.streamed_without_lag and row.prompts >= 16 and not row.late_s
    return WALL if applies and row.stages.draw_s else None


def weak_scaling() -> Table:
    """As many groups more as runners."""
    rows: list[Row] = []
    for runners in (4, 16, 64):
        rows += _weak_rows(runners, 0.0) + _weak_rows(runners, 0.3)
    return Table(
        title="Weak scaling",
        note="""Four groups a runner and step. Learning all of a step takes its one rank as long as
drawing takes the runners: neither can be hidden behind the other without overlap. 64 runners draw
four times as long as 4 and 16, since their processes share two cores.""",
        rows=tuple(rows),
    )


def _weak_rows(runners: int, spread: float) -> list[Row]:
    draw_s = 1.2 if runners == 64 else 0.3
    stages = Stages(draw_s=draw_s, learn_s=draw_s / runners, verify_s=draw_s / 10, spread=spread)
    drawn = "draws ± 30 %" if spread else "equal draws"
    plain = Row(
        label=f"lag 0, {drawn}", runners=runners, prompts=4 * runners, stages=stages, steps=3
    )
    if spread and runners == 64:
        return [plain]
    whole = replace(plain, label=f"lag 0, not streamed, {drawn}", learner={"streamed": False})
    lagging = replace(plain, label=f"lag 1, {drawn}", rollout={"max_lag": 1})
    slices = 2 if runners == 64 else 4
    sliced = replace(plain, label=f"lag 0, slices {slices}, {drawn}", rollout={"slices": slices})
    return [plain, whole, lagging, *([] if spread else [sliced])]


def strong_scaling() -> Table:
    """The released recipe's step on more and more runners."""
    stages = Stages(draw_s=1.0, learn_s=0.01, verify_s=0.02)
    rows = [
        Row(
            label=f"lag 0, slices {slices}",
            runners=runners,
            prompts=32,
            ranks=8,
            stages=stages,
            rollout={"slices": slices},
            steps=3,
        )
        for runners in (16, 32, 64)
        for slices in (1, 2)
    ]
    lagging = replace(rows[-2], label="lag 1, slices 1", rollout={"max_lag": 1}, steps=5)
    return Table(
        title="Strong scaling",
        note="""32 prompts a step, whatever the runners. Learning is short here (8 ranks), so that
drawing decides; a slice takes half of its group's time.""",
        rows=(*rows, lagging),
        figure=("speed over 32 runners, slices 1", over_unsliced),
        goal=lambda row: SLICED if row.runners == 64 and row.config.rollout.slices == 2 else None,
    )


def rank_scaling() -> Table:
    """Learning decides."""
    stages = Stages(draw_s=0.05, learn_s=0.3, verify_s=0.005)
    return Table(
        title="Ranks",
        note="""32 groups a step, drawn by 16 runners in a fraction of the time that one rank
takes to learn them. Summing the ranks' gradients takes no time here.""",
        rows=tuple(
            Row(
                label=f"lag 0, ranks {ranks}",
                runners=16,
                prompts=32,
                ranks=ranks,
                stages=stages,
                steps=steps,
            )
            for ranks, steps in ((1, 2), (2, 2), (4, 3), (8, 4))
        ),
        figure=("share of linear speed-up", of_linear),
        goal=lambda row: LINEAR if row.ranks > 1 else None,
    )


def placements() -> Table:
    """Eight cards, put to use in different ways."""
    stages = Stages(draw_s=0.14, learn_s=0.12, verify_s=0.01)
    shared = {"placement": "runners"}
    rows = (
        Row(label="own: 7 draw, 1 learns", runners=7, prompts=32, stages=stages, steps=3),
        Row(label="own: 4 draw, 4 learn", runners=4, prompts=32, ranks=4, stages=stages),
        Row(label="runners: 8 do both", runners=8, prompts=32, stages=stages, learner=shared),
    )
    return Table(
        title="Placement of eight cards",
        note="""32 groups a step; drawing one takes 7/6 of learning it, as measured at 7B. With
`runners` T* is the sum of both stages.""",
        rows=rows,
        figure=("speed over 7 + 1", over_first),
    )


def late_verdict() -> Table:
    """The first group of each step."""
    runners, draw_s = 16, 0.2
    stages = Stages(draw_s=draw_s, learn_s=draw_s / runners, verify_s=0.02)

    def row(label: str, *, std: str = "group", late: bool = True, **learner: Any) -> Row:
        return Row(
            label=label,
            runners=runners,
            prompts=4 * runners,
            stages=stages,
            std=std,
            learner=learner,
            late_s=LATE_S if late else 0.0,
            steps=3,
        )

    return Table(
        title="A late verdict",
        note=f"""Lag 0. The verdicts of each step's first group take {LATE_S:g} s instead of
{stages.verify_s:g}: no group after it can be summed before. With `batch` eight groups share a
standard deviation, and the blocks are completed in prompt order.""",
        rows=(
            row("group, nobody late", late=False),
            row("group, first late"),
            row("group, first late, groups_ahead 64", groups_ahead=4 * runners),
            row("batch, nobody late", std="batch", late=False),
            row("batch, first late", std="batch"),
            row("not streamed, first late", streamed=False),
        ),
        figure=("wall over the first row's", lambda rows, one: one.wall_s / rows[0].wall_s),
    )


def driver_cost() -> Table:
    """No stage takes time."""
    stages = Stages(draw_s=0.0, learn_s=0.0, verify_s=0.0)
    rows = tuple(
        Row(
            label=f"{questions} questions a picture",
            runners=16,
            prompts=64,
            ranks=ranks,
            stages=stages,
            questions=questions,
            steps=9,
        )
        for questions in (6, ALL)
        for ranks in (1, 4)
    )
    return Table(
        title="The driver",
        note=f"""64 groups of 14 samples a step, and no stage takes any time. The miniature asks 6
questions a picture, the released recipe {ALL}.""",
        rows=rows,
        figure=("driver CPU, ms a group", lambda _, one: one.driver_ms),
        goal=lambda row: DRIVER,
    )


def tables() -> tuple[Table, ...]:
    """All of them, in the page's order."""
    return (
        weak_scaling(),
        strong_scaling(),
        rank_scaling(),
        placements(),
        late_verdict(),
        driver_cost(),
    )


def over_unsliced(rows: Sequence[Measured], one: Measured) -> float:
    """Speed against the row of 32 runners that is not sliced; nan where that was not run."""
    for other in rows:
        rollout = other.row.config.rollout
        if (rollout.num_runners, rollout.slices, rollout.max_lag) == (32, 1, 0):
            return other.wall_s / one.wall_s
    return float("nan")


def of_linear(rows: Sequence[Measured], one: Measured) -> float:
    """Speed-up over one rank, divided by the number of ranks."""
    return rows[0].wall_s / one.wall_s / one.row.ranks


def over_first(rows: Sequence[Measured], one: Measured) -> float:
    """Speed against the first row."""
    return rows[0].wall_s / one.wall_s
