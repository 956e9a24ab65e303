"""What a run tells: a step's line, and at its end before against after, memory, time, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.cli.console import Narrator, duration, print_json, print_table
from alphagrpo.cli.evaluate import EVALUATION_COLUMNS, evaluation_cells
from alphagrpo.json_records import to_json
from alphagrpo.report.cells import interval_cell, points_cell, ratio_cell, seconds_cell
from alphagrpo.report.figures import REFINEMENT_COLUMNS, refinement_rows
from alphagrpo.types import SORTS

if TYPE_CHECKING:
    from alphagrpo.eval.figures import Differences
    from alphagrpo.loop import StepReport
    from alphagrpo.record.summary import RunSummary, StepPace


def step_figures(
    report: StepReport, num_steps: int, heldout: float | None, left_s: float
) -> dict[str, Any]:
    """What a step's line shows."""
    ratios = [report.metrics.get(f"{part}/max_abs_log_ratio") for part in ("image", "text")]
    known = [ratio for ratio in ratios if ratio is not None]
    return {
        "step": report.step,
        "of": num_steps,
        "reward": report.metrics.get("reward/mean"),
        "heldout": heldout,
        "samples_per_s": report.metrics.get("samples/per_second"),
        "log_ratio": max(known) if known else None,
        "left_s": left_s,
    }


def tell_outcome(narrator: Narrator, summary: RunSummary, report: Path) -> None:
    """Print the outcome, or one JSON event with the whole summary."""
    if narrator.as_json:
        print_json({"event": "outcome", "report": str(report), "summary": to_json(summary)})
        return
    console, evaluation = narrator.console, summary.evaluation
    phases = {"before": evaluation.before, "after": evaluation.after}
    rows = [
        (f"{sort} {phase}", *evaluation_cells(figures[sort]))
        for sort in SORTS
        for phase, figures in phases.items()
        if sort in figures
    ]
    console.print()
    if rows:
        print_table(console, "held-out prompts", rows, EVALUATION_COLUMNS)
    if refined := refinement_rows(summary):
        print_table(console, "one refinement, all right", refined, REFINEMENT_COLUMNS)
    changes = difference_rows(evaluation.difference)
    if changes:
        columns = ("prompts", "figure", "after - before", "95 % interval")
        print_table(console, "paired difference, in points", changes, columns)
    print_table(console, "the run", fact_rows(summary))
    console.print(f"report: {report}", markup=False)


def difference_rows(difference: Differences) -> list[tuple[str, ...]]:
    """Paired differences as table cells, in points of a hundred."""
    return [
        (
            sort,
            measure.replace("_", " "),
            points_cell(change.mean),
            interval_cell(change.low, change.high),
        )
        for sort, changes in difference.items()
        for measure, change in changes.items()
    ]


def pace_rows(pace: StepPace | None) -> list[tuple[str, str]]:
    """How long a step took and could have taken; no row where that was not measured."""
    if pace is None:
        return []
    step, bound = seconds_cell(pace.step_s), seconds_cell(pace.bound_s)
    figures = f"T {step}, T* (longest stage) {bound}, efficiency T* / T {pace.efficiency:.0%}"
    return [("a step, median", figures)]


def fact_rows(summary: RunSummary) -> list[tuple[str, str]]:
    """Time, samples, parity and memory as table cells."""
    samples, times = summary.samples, summary.time
    rows = [
        ("steps", str(summary.steps or 0)),
        ("training", duration(summary.training_s or 0.0)),
        ("whole run", duration(summary.wall_s or 0.0)),
        (
            "samples",
            f"{samples.drawn:,} drawn, {samples.invalid:,} without a score, "
            f"{samples.trained:,} trained on",
        ),
        (
            "seconds waited for",
            f"drawing {times.rollout_s:.0f}, verdicts {times.verify_wait_s:.0f}, "
            f"learning {times.learn_s:.0f}, weights {times.sync_s:.0f}",
        ),
        *pace_rows(summary.pace),
        ("largest |log ratio| at step 0", ratio_cell(summary.parity.max_abs_log_ratio_step0)),
    ]
    if summary.memory:
        sizes = dict(summary.memory)
        rows.append(("memory of the whole mesh", f"{sizes.pop('mesh_gib'):.2f} GiB"))
        parts = [f"{name.removesuffix('_gib')} {size:.2f}" for name, size in sizes.items()]
        rows.append(("", ", ".join(parts)))
    if summary.stopped_by:
        rows.append(("ended by", summary.stopped_by))
    return rows
