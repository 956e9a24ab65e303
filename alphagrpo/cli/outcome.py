"""What a finished run tells: before against after, memory, time, where the report is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphagrpo.cli.console import Narrator, duration, print_json, print_table
from alphagrpo.cli.evaluate import EVALUATION_COLUMNS, evaluation_cells
from alphagrpo.report.figures import REFINEMENT_COLUMNS, refinement_rows


def tell_outcome(narrator: Narrator, summary: Mapping[str, Any], report: Path) -> None:
    """Print the outcome, or one JSON event with the whole summary."""
    if narrator.as_json:
        print_json({"event": "outcome", "report": str(report), "summary": summary})
        return
    console, evaluation = narrator.console, summary["evaluation"]
    rows = [
        (f"{sort} {phase}", *evaluation_cells(evaluation[phase][sort]))
        for sort in ("plain", "thought")
        for phase in ("before", "after")
        if sort in evaluation[phase]
    ]
    console.print()
    if rows:
        print_table(console, "held-out prompts", rows, EVALUATION_COLUMNS)
    if refined := refinement_rows(summary):
        print_table(console, "one refinement, all right", refined, REFINEMENT_COLUMNS)
    changes = difference_rows(evaluation["difference"])
    if changes:
        columns = ("prompts", "figure", "after - before", "95 % interval")
        print_table(console, "paired difference, in points", changes, columns)
    print_table(console, "the run", fact_rows(summary))
    console.print(f"report: {report}", markup=False)


def difference_rows(difference: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Paired differences as table cells, in points of a hundred."""
    return [
        (
            sort,
            key.replace("_", " "),
            f"{100 * d['mean']:+.1f}",
            f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
        )
        for sort, measures in difference.items()
        for key, d in measures.items()
    ]


def fact_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Time, samples, parity and memory as table cells."""
    samples, memory, times = summary["samples"], summary.get("memory") or {}, summary["time"]
    parity = summary["parity"]["max_abs_log_ratio_step0"]
    rows = [
        ("steps", str(summary["steps"])),
        ("training", duration(summary["training_s"])),
        ("whole run", duration(summary["wall_s"])),
        (
            "samples",
            f"{samples['drawn']:,} drawn, {samples['invalid']:,} without a score, "
            f"{samples['trained']:,} trained on",
        ),
        (
            "seconds in",
            f"drawing {times['rollout_s']:.0f}, waiting for verdicts {times['verify_wait_s']:.0f}, "
            f"learning {times['learn_s']:.0f}, moving weights {times['sync_s']:.0f}",
        ),
        ("largest |log ratio| at step 0", "-" if parity is None else f"{parity:.1e}"),
    ]
    if memory:
        parts = [f"{k.removesuffix('_gib')} {v:.2f}" for k, v in memory.items() if k != "mesh_gib"]
        rows.append(("memory of the whole mesh", f"{memory['mesh_gib']:.2f} GiB"))
        rows.append(("", ", ".join(parts)))
    if summary.get("stopped_by"):
        rows.append(("ended by", summary["stopped_by"]))
    return rows
