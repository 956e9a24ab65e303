"""The report's numbers and notes: what came of the run, and what did not go as it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SORT_NAMES = {"thought": "Prompts that need a thought", "plain": "Plain prompts"}
TASK_TITLES = {
    "rt2i": "reasoning text-to-image",
    "srr": "self-reflective refinement",
    "mixed": "reasoning text-to-image and refinement",
}
REFINEMENT_COLUMNS = (
    "prompts", "one pass", "refined, gated", "refined, last", "mended", "broken", "defect named",
)  # fmt: skip
Metrics = Sequence[Mapping[str, Any]]


def headlines(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Before, after and the paired difference of each sort's main figure."""
    evaluation = summary.get("evaluation") or {}
    found = []
    for sort, title in SORT_NAMES.items():
        before = (evaluation.get("before") or {}).get(sort)
        after = (evaluation.get("after") or {}).get(sort)
        if not before or not after:
            continue
        key = "all_right" if before.get("all_right") is not None else "dvreward"
        change = ((evaluation.get("difference") or {}).get(sort) or {}).get(key)
        judge = "all right, by the oracle" if key == "all_right" else "DVReward, by the verifier"
        found.append(
            {
                "title": title,
                "judge": judge,
                "n": before["n"],
                "before": before[key],
                "after": after[key],
                "difference": change,
                "others": _other_figures(before, after, key),
            }
        )
    return found


def refinement_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One refinement of each held-out picture, before and after training; empty without any.

    Cells as :data:`REFINEMENT_COLUMNS`: shares all right after one pass, with the better of two by
    DVReward, with the second whatever it is; wrong pictures made right, right ones made wrong;
    reflections on wrong pictures that name a defect.
    """
    evaluation, rows = summary.get("evaluation") or {}, []
    for sort in SORT_NAMES:
        for phase in ("before", "after"):
            found = (evaluation.get(phase) or {}).get(sort) or {}
            rounds = (found.get("refined") or {}).get("round1")
            if rounds:
                gated, last = rounds["gated"], rounds["last"]
                values = [found["all_right"], gated["all_right"], last["all_right"]]
                values += [last[key] for key in ("mended", "broken", "named")]
                cells = ["-" if value is None else f"{value:.1%}" for value in values]
                rows.append((f"{sort}, {phase}", *cells))
    return rows


def _other_figures(
    before: Mapping[str, Any], after: Mapping[str, Any], main: str
) -> list[tuple[str, float, float]]:
    names = {
        "per_question": "questions right",
        "strict": "all right and nothing else",
        "dvreward": "DVReward",
    }
    return [
        (name, before[key], after[key])
        for key, name in names.items()
        if key != main and before.get(key) is not None and after.get(key) is not None
    ]


def facts(summary: Mapping[str, Any], metrics: Metrics) -> list[tuple[str, str]]:
    """Small figures under the headlines: name and value."""
    samples, parity = summary.get("samples") or {}, summary.get("parity") or {}
    found = [("steps", str(summary.get("steps", len(metrics))))]
    if summary.get("training_s") is not None:
        found.append(("training", f"{summary['training_s'] / 60:.1f} min"))
    if summary.get("wall_s") is not None:
        found.append(("whole run", f"{summary['wall_s'] / 60:.1f} min"))
    if samples.get("drawn"):
        found.append(("pictures drawn", f"{samples['drawn']:,.0f}"))
    if parity.get("max_abs_log_ratio_step0") is not None:
        found.append(("|log ratio|, step 0", f"{parity['max_abs_log_ratio_step0']:.1e}"))
    if summary.get("memory"):
        found.append(("memory of the mesh", f"{summary['memory']['mesh_gib']:.1f} GiB"))
    return found


def notes(summary: Mapping[str, Any], metrics: Metrics) -> list[str]:
    """What did not go as it should, and what the figures do not say."""
    found = []
    samples = summary.get("samples") or {}
    if samples.get("invalid"):
        found.append(
            f"{samples['invalid']:,.0f} of {samples['drawn']:,.0f} samples could not be scored; "
            "they were left out of their groups' statistics and not trained on."
        )
    dropped = sum(line.get("groups/dropped", 0) for line in metrics)
    if dropped:
        found.append(f"{dropped:,.0f} groups had too few scored samples and were dropped.")
    aside = summary.get("prompts_set_aside") or {}
    for prompt, reason in list(aside.items())[:5]:
        found.append(f"Prompt {prompt} was set aside: {reason}")
    if len(aside) > 5:
        found.append(f"{len(aside) - 5} more prompts were set aside.")
    skipped = sum(bool(line.get("learner/skipped")) for line in metrics)
    if skipped:
        found.append(f"{skipped} steps took no update: every advantage was zero.")
    if summary.get("stopped_by"):
        found.append(f"Training ended because of: {summary['stopped_by']}.")
    if not (summary.get("evaluation") or {}).get("after"):
        found.append("There is no evaluation after training (yet), so no before and after.")
    found.append(
        "One seed. Intervals are over prompts (paired, 95 %); they say nothing of other seeds."
    )
    return found
