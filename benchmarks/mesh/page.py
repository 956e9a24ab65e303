"""The page of results: a table per question, each goal beside its figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alphagrpo.report.cells import ABSENT, share_cell
from benchmarks.mesh.measuring import Measured
from benchmarks.mesh.rows import Table, wall_goal
from benchmarks.tables import markdown

COLUMNS = (
    "runners", "ranks", "groups", "what", "step, s", "T*, s", "wall / T*", "rules alone", "goal",
    "above rules, ms", "draw busy", "learn busy", "driver CPU, ms", "learner CPU, ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a table's rows came to."""

    table: Table
    measured: tuple[Measured, ...]
    ideal: tuple[Measured, ...]
    """The same rows by the virtual clock: what the rules of the mesh cost without its work."""

    def markdown(self) -> str:
        """Heading, note and table."""
        extra = [self.table.figure[0], "goal"] if self.table.figure else []
        rows = [
            cells(measured, ideal) + self._extra(measured)
            for measured, ideal in zip(self.measured, self.ideal, strict=True)
        ]
        header = [*COLUMNS, *extra]
        return f"## {self.table.title}\n\n{self.table.note}\n\n{markdown(header, rows)}\n"

    def _extra(self, measured: Measured) -> list[str]:
        if self.table.figure is None:
            return []
        value, goal = self.table.figure[1](self.measured, measured), self.table.goal(measured.row)
        return [number_cell(value), ABSENT if goal is None else goal.cell(value)]

    def records(self) -> list[dict[str, Any]]:
        """One JSON object per row."""
        return [
            record(self.table.title, measured) | {"ideal_s": round(ideal.wall_s, 4)}
            for measured, ideal in zip(self.measured, self.ideal, strict=True)
        ]


def cells(measured: Measured, ideal: Measured) -> list[str]:
    """The columns that all tables share."""
    row, goal = measured.row, wall_goal(measured.row)
    sleeps = measured.work.bound_s > 0
    return [
        str(row.runners),
        str(row.config.num_ranks),
        str(row.prompts),
        row.label,
        f"{measured.wall_s:.3f}",
        f"{measured.work.bound_s:.3f}" if sleeps else ABSENT,
        number_cell(measured.ratio) if sleeps else ABSENT,
        number_cell(ideal.ratio) if sleeps else ABSENT,
        ABSENT if goal is None else goal.cell(measured.ratio),
        f"{1000 * (measured.wall_s - ideal.wall_s) / row.prompts:.1f}",
        share_cell(measured.draw_busy if sleeps else None),
        share_cell(measured.learn_busy if sleeps else None),
        f"{measured.driver_ms:.2f}",
        f"{measured.central_ms:.2f}" if measured.central_ms else ABSENT,
    ]


def record(title: str, measured: Measured) -> dict[str, Any]:
    """A row as JSON."""
    row = measured.row
    return {
        "table": title,
        "row": row.label,
        "runners": row.runners,
        "ranks": row.config.num_ranks,
        "groups": row.prompts,
        "wall_s": round(measured.wall_s, 4),
        "bound_s": round(measured.work.bound_s, 4),
        "draw_s": round(measured.work.draw_s, 4),
        "learn_s": round(measured.work.learn_s, 4),
        "driver_ms": round(measured.driver_ms, 3),
        "central_ms": round(measured.central_ms, 3),
    }


def number_cell(value: float) -> str:
    """Two digits; a dash for what is not known."""
    return ABSENT if math.isnan(value) else f"{value:.2f}"


def page(answers: Sequence[Answer], preface: str) -> str:
    """The whole page."""
    parts = ["# The mesh over stages that sleep", preface]
    parts += [answer.markdown().rstrip() for answer in answers]
    return "\n\n".join(parts) + "\n"
