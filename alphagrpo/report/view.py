"""What the report shows, gathered from a run folder; the template only lays it out."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from alphagrpo.eval.figures import heldout_key
from alphagrpo.report.charts import Series, line_chart, stacked_chart
from alphagrpo.report.figures import (
    REFINEMENT_COLUMNS,
    SORT_NAMES,
    TASK_TITLES,
    facts,
    headlines,
    notes,
    refinement_rows,
)

if TYPE_CHECKING:
    from alphagrpo.eval.lines import HeldOutLine
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.summary import Metrics, RunSummary
    from alphagrpo.types import Sort

NUM_GROUPS = 3
"""Sample groups shown: an early, a middle and a late one."""
NUM_PAIRS = 12
"""Held-out prompts of each sort shown before and after: the first ones, not chosen ones."""
STAGES = {
    "time/rollout_s": "think and draw",
    "time/verify_wait_s": "wait for verdicts",
    "time/learn_s": "learn",
    "time/sync_s": "move weights",
}


def build_view(folder: RunFolder) -> dict[str, Any]:
    """Everything the template needs."""
    config, summary, metrics = folder.config(), folder.summary(), folder.metrics()
    return {
        "name": config.get("name", folder.path.name),
        "summary": folder.summary_document(),
        "task": TASK_TITLES[(config.get("task") or {}).get("kind", "rt2i")],
        "refinements": refinement_rows(summary),
        "refinement_columns": REFINEMENT_COLUMNS,
        "headlines": headlines(summary),
        "facts": facts(summary, metrics),
        "charts": charts(metrics, summary, config),
        "groups": [group_view(folder, step, rows) for step, rows in sample_groups(folder)],
        "pairs": {SORT_NAMES[sort]: pairs(folder, sort) for sort in SORT_NAMES},
        "notes": notes(summary, metrics),
        "versions": config.pop("versions", {}),
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def charts(
    metrics: Metrics, summary: RunSummary, config: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Titles, notes and SVG of the curves that have data."""
    curves = [
        {
            "title": "Reward",
            "note": "DVReward plus the bonus for a well-formed thought; mean of each step",
            "svg": line_chart(
                [
                    _series(metrics, "reward/mean", "reward", smooth=True),
                    _series(metrics, "reward/score", "DVReward alone", smooth=True),
                ]
            ),
        },
        {
            "title": "Held-out prompts all right",
            "note": "by the oracle, which never rewards; probes between the two full evaluations",
            "svg": line_chart(heldout_series(metrics, summary), percent=True),
        },
        {
            "title": "Refinements against their drafts",
            "note": "share of refined pictures that score higher, and lower, than their draft",
            "svg": line_chart(
                [
                    _series(metrics, "refine/improved_share", "better", smooth=True),
                    _series(metrics, "refine/harmed_share", "worse", smooth=True),
                ],
                percent=True,
            ),
        },
        {
            "title": "Largest |log ratio|, picture",
            "note": "between rollout and replay of the same policy; above the line it is clipped",
            "svg": line_chart(
                [_series(metrics, "image/max_abs_log_ratio", "|log ratio|")],
                from_zero=True,
                limit=(float(config["algorithm"]["image"]["clip"]), "clip range"),
            ),
        },
        {
            "title": "Samples per second",
            "note": "thought, drawn, verified and trained on",
            "svg": line_chart(
                [_series(metrics, "samples/per_second", "samples", smooth=True)], from_zero=True
            ),
        },
        {
            "title": "Where a step's seconds go",
            "note": "per step; waiting for verdicts is only what drawing did not hide",
            "svg": stage_chart(metrics),
        },
    ]
    return [curve for curve in curves if curve["svg"]]


def heldout_series(metrics: Metrics, summary: RunSummary) -> list[Series]:
    """All-right share over steps: full evaluation, probes, full evaluation."""
    lines = []
    for sort, name in SORT_NAMES.items():
        points = list(_series(metrics, heldout_key(sort, "all_right"), name).points)
        before, after = summary.evaluation.before.get(sort), summary.evaluation.after.get(sort)
        last = float(summary.steps or (points[-1][0] if points else 0))
        if before and before.all_right is not None:
            points.insert(0, (0.0, before.all_right))
        if after and after.all_right is not None:
            points = [*[p for p in points if p[0] < last], (last, after.all_right)]
        lines.append(Series(name=name, points=tuple(points), dots=True))
    return lines


def stage_chart(metrics: Metrics) -> str:
    """Stacked seconds per stage and step."""
    lines = [line for line in metrics if all(key in line for key in STAGES)]
    columns = [[float(line[key]) for line in lines] for key in STAGES]
    return stacked_chart(list(STAGES.values()), [float(line["step"]) for line in lines], columns)


def sample_groups(folder: RunFolder) -> list[tuple[int, list[dict[str, Any]]]]:
    """An early, a middle and a late group of which the pictures were kept: (step, ledger rows)."""
    with_pictures = []
    for step in folder.ledger_steps():
        groups: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in folder.ledger(step):
            groups[row["group"]].append(row)
        whole = [
            rows
            for rows in groups.values()
            if all(folder.has_picture(row["picture"]) for row in rows)
        ]
        if whole:
            with_pictures.append((step, max(whole, key=_spread)))
    if len(with_pictures) <= NUM_GROUPS:
        return with_pictures
    last = len(with_pictures) - 1
    return [with_pictures[round(k * last / (NUM_GROUPS - 1))] for k in range(NUM_GROUPS)]


def _spread(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far a group's rewards lie apart: such groups teach, and show, the most."""
    rewards = [
        row["reward"] for row in rows if row.get("stage") != "draft" and row["reward"] is not None
    ]
    return max(rewards) - min(rewards) if rewards else -1.0


def group_view(folder: RunFolder, step: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One group: its samples by falling reward, and each question's P(yes) for each of them."""
    by_sample: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    rows = [row for row in rows if row.get("stage") != "draft"]
    for row in rows:
        by_sample[row["sample"]].append(row)
    samples = sorted(by_sample.values(), key=lambda answers: -_or(answers[0]["reward"], -math.inf))
    heads = [answers[0] for answers in samples]
    largest = max((abs(_or(head["advantage"], 0.0)) for head in heads), default=0.0) or 1.0
    questions = [
        {
            "text": row["question"],
            "kind": row["kind"],
            "tag": row["tag"],
            "p_yes": [answers[index]["p_yes"] for answers in samples],
        }
        for index, row in enumerate(samples[0])
    ]
    return {
        "step": step,
        "prompt": rows[0]["prompt"],
        "draft": data_uri(folder.picture(rows[0].get("draft") or "")),
        "draft_score": rows[0].get("draft_score"),
        "judge": next((row["judge"] for row in rows if row["judge"]), ""),
        "questions": questions,
        "samples": [
            {
                "picture": data_uri(folder.picture(head["picture"])),
                "thought": plain_thought(head["thought"] or ""),
                "reward": head["reward"],
                "advantage": head["advantage"],
                "lean": _or(head["advantage"], 0.0) / largest,
                "invalid_reason": head["invalid_reason"],
            }
            for head in heads
        ],
    }


def pairs(folder: RunFolder, sort: Sort) -> list[dict[str, Any]]:
    """The first held-out prompts of a sort, before and after, those without a picture left out."""
    after = {line.id: line for line in folder.evaluation("after")}
    rows: list[dict[str, Any]] = []
    for line in folder.evaluation("before"):
        other = after.get(line.id)
        if line.sort != sort or other is None or len(rows) == NUM_PAIRS:
            continue
        sides = [_side(folder, line), _side(folder, other)]
        if all(side["picture"] for side in sides):
            rows.append({"prompt": line.prompt, "sides": sides})
    return rows


def _side(folder: RunFolder, line: HeldOutLine) -> dict[str, Any]:
    opinion = line.opinion
    return {
        "picture": data_uri(folder.picture(opinion.picture)),
        "thought": plain_thought(opinion.thought),
        "all_right": opinion.all_right,
        "wrong": [answer.question for answer in opinion.oracle if not answer.yes],
    }


def plain_thought(text: str) -> str:
    """A thought without its tags."""
    return text.replace("<think>", "").replace("</think>", "").strip()


def data_uri(png: bytes | None) -> str:
    """A PNG as an inline image address; empty where there is none."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def _series(
    metrics: Iterable[Mapping[str, Any]], key: str, name: str, *, smooth: bool = False
) -> Series:
    points = tuple(
        (float(line["step"]), float(line[key])) for line in metrics if line.get(key) is not None
    )
    return Series(name=name, points=points, smooth=smooth)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
