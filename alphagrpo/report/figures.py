"""The report's numbers and notes: what came of the run, and what did not go as it should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alphagrpo.record.summary import Metrics, RunSummary, dropped_groups, skipped_updates
from alphagrpo.report.cells import ratio_cell, share_cell

if TYPE_CHECKING:
    from alphagrpo.eval.figures import SortFigures
    from alphagrpo.eval.lines import Measure
    from alphagrpo.eval.paired import PairedDifference
    from alphagrpo.record.curve import HeldOutCurve
    from alphagrpo.types import Sort

SORT_NAMES: Mapping[Sort, str] = {
    "thought": "Prompts that need a thought",
    "plain": "Plain prompts",
}
"""In the order of the page."""
TASK_TITLES = {
    "rt2i": "reasoning text-to-image",
    "srr": "self-reflective refinement",
    "mixed": "reasoning text-to-image and refinement",
}
REFINEMENT_COLUMNS = (
    "prompts", "one pass", "refined, gated", "refined, last", "mended", "broken", "defect named",
)  # fmt: skip
MEASURE_NAMES: Mapping[Measure, str] = {
    "per_question": "questions right",
    "strict": "strict",
    "dvreward": "DVReward",
}
JUDGES: Mapping[Measure, str] = {
    "all_right": "all right, by the oracle",
    "dvreward": "DVReward, by the verifier",
}
NUM_REASONS = 5
"""Prompts set aside whose reasons are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A sort's main figure: before and after, or as far as the run has come."""

    title: str
    judge: str
    """Which figure it is, and by whom."""
    prompts: str
    """Of how many it is."""
    before: float | None
    after: float | None
    """At the newest probe while there is no evaluation after training."""
    step: int | None = None
    """Of that probe."""
    difference: PairedDifference | None = None
    others: tuple[tuple[str, float, float], ...] = ()
    """Name, before and after of the figures that are not the main one."""


def headlines(summary: RunSummary, curve: HeldOutCurve) -> list[Headline]:
    """One per sort that was evaluated: after training where that was done, else on the way."""
    evaluation = summary.evaluation
    lines = []
    for sort, title in SORT_NAMES.items():
        before, after = evaluation.before.get(sort), evaluation.after.get(sort)
        if before and after:
            changes = evaluation.difference.get(sort) or {}
            lines.append(_headline(title, before, after, changes))
        elif sort in curve.points:
            lines.append(_so_far(title, sort, curve))
    return lines


def _headline(
    title: str,
    before: SortFigures,
    after: SortFigures,
    changes: Mapping[Measure, PairedDifference],
) -> Headline:
    main: Measure = "dvreward" if before.all_right is None else "all_right"
    return Headline(
        title=title,
        judge=JUDGES[main],
        prompts=f"{before.n} held-out prompts",
        before=getattr(before, main),
        after=getattr(after, main),
        difference=changes.get(main),
        others=tuple(_other_figures(before, after, main)),
    )


def _so_far(title: str, sort: Sort, curve: HeldOutCurve) -> Headline:
    """The first and the newest point of the curve."""
    (first, before), (newest, now) = curve.points[sort][0], curve.points[sort][-1]
    number, of = curve.num_prompts[sort], curve.num_heldout[sort]
    return Headline(
        title=title,
        judge=JUDGES[curve.measure],
        prompts=f"{number} of {of} held-out prompts" if number < of else f"{of} held-out prompts",
        before=before if first == 0 else None,
        after=now if newest > 0 else None,
        step=int(newest),
    )


def _other_figures(
    before: SortFigures, after: SortFigures, main: Measure
) -> Iterator[tuple[str, float, float]]:
    for measure, name in MEASURE_NAMES.items():
        old, new = getattr(before, measure), getattr(after, measure)
        if measure != main and old is not None and new is not None:
            yield name, old, new


def refinement_rows(summary: RunSummary) -> list[tuple[str, ...]]:
    """One refinement of each held-out picture, before and after training; empty without any.

    Cells as :data:`REFINEMENT_COLUMNS`: shares all right after one pass, with the better of two by
    DVReward, with the second whatever it is; wrong pictures made right, right ones made wrong;
    reflections on wrong pictures that name a defect.
    """
    phases = {"before": summary.evaluation.before, "after": summary.evaluation.after}
    rows = []
    for sort in SORT_NAMES:
        for phase, by_sort in phases.items():
            figures = by_sort.get(sort)
            rounds = figures.refined if figures else None
            if figures and rounds and "round1" in rounds:
                gated, last = rounds["round1"]["gated"], rounds["round1"]["last"]
                right = (figures.all_right, gated.all_right, last.all_right)
                shares = (*right, last.mended, last.broken, last.named)
                rows.append((f"{sort}, {phase}", *map(share_cell, shares)))
    return rows


def facts(summary: RunSummary, metrics: Metrics) -> list[tuple[str, str]]:
    """Small figures under the headlines: name and value."""
    steps = len(metrics) if summary.steps is None else summary.steps
    rows = [("steps", str(steps))]
    if summary.training_s is not None:
        rows.append(("training", f"{summary.training_s / 60:.1f} min"))
    if summary.wall_s is not None:
        rows.append(("whole run", f"{summary.wall_s / 60:.1f} min"))
    if summary.samples.drawn:
        rows.append(("pictures drawn", f"{summary.samples.drawn:,.0f}"))
    if (ratio := summary.parity.max_abs_log_ratio_step0) is not None:
        rows.append(("|log ratio|, step 0", ratio_cell(ratio)))
    if summary.memory:
        rows.append(("memory of the mesh", f"{summary.memory['mesh_gib']:.1f} GiB"))
    return rows


def notes(summary: RunSummary, metrics: Metrics) -> list[str]:
    """What did not go as it should, and what the figures do not say."""
    lines = []
    samples = summary.samples
    if samples.invalid:
        lines.append(
            f"{samples.invalid:,.0f} of {samples.drawn:,.0f} samples could not be scored; "
            "they were left out of their groups' statistics and not trained on."
        )
    if dropped := dropped_groups(metrics):
        lines.append(f"{dropped:,.0f} groups had too few scored samples and were dropped.")
    if turns := summary.turns:
        lines.append(
            f"{turns.put_off:,.0f} turns of prompts were put off to the end of their pass; "
            f"{turns.skipped:,.0f} were given up without questions, {turns.dropped:,.0f} without "
            "scores. The ledger has each with its reason."
        )
    aside = summary.prompts_set_aside
    for prompt, reason in list(aside.items())[:NUM_REASONS]:
        lines.append(f"Prompt {prompt} was set aside: {reason}")
    if len(aside) > NUM_REASONS:
        lines.append(f"{len(aside) - NUM_REASONS} more prompts were set aside.")
    if skipped := skipped_updates(metrics):
        lines.append(f"{skipped} steps took no update: every advantage was zero.")
    if summary.stopped_by:
        lines.append(f"Training ended because of: {summary.stopped_by}.")
    if not summary.evaluation.after:
        lines.append("There is no evaluation after training (yet), so no before and after.")
    lines.append(
        "One seed. Intervals are over prompts (paired, 95 %); they say nothing of other seeds."
    )
    return lines
