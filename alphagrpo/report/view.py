"""What the report shows, gathered from a run folder; the template only lays it out."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml

from alphagrpo.eval.alarms import alarms
from alphagrpo.lag import measured_lag
from alphagrpo.record.curve import heldout_curve, probed_ids
from alphagrpo.report.curves import charts, pace_charts
from alphagrpo.report.figures import (
    REFINEMENT_COLUMNS,
    SORT_NAMES,
    TASK_TITLES,
    facts,
    headlines,
    notes,
    refinement_rows,
)
from alphagrpo.report.pace import WAIT_COLUMNS, pace_facts, reading, wait_rows

if TYPE_CHECKING:
    from alphagrpo.eval.lines import HeldOutLine
    from alphagrpo.record.folder import RunFolder
    from alphagrpo.record.summary import Metrics, RunSummary
    from alphagrpo.types import Sort

NUM_GROUPS = 3
"""Sample groups shown: an early, a middle and a late one."""
NUM_PAIRS = 12
"""Held-out prompts of each sort shown before and after: the first ones, not chosen ones."""
REFRESH_S = 30
"""Seconds after which the page of a run that is under way loads itself again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is that is still under way."""

    step: int
    of: int
    left_s: float | None
    """Seconds of training that are left, as far as one can tell; None before the first step."""


def build_view(folder: RunFolder, progress: Progress | None = None) -> dict[str, Any]:
    """Everything the template needs; ``progress`` is that of a run that is under way."""
    config, summary, metrics = folder.config(), folder.summary(), folder.metrics()
    before, after = folder.evaluation("before"), folder.evaluation("after")
    heldout = heldout_curve(metrics, before, after, probed_ids(folder, before or after))
    return {
        "name": config.get("name", folder.path.name),
        "summary": folder.summary_document(),
        "state": state(progress, summary, datetime.now(UTC)),
        "refresh_s": REFRESH_S if progress else None,
        "alarms": alarms(metrics),
        "by_oracle": heldout.measure == "all_right",
        "task": TASK_TITLES[(config.get("task") or {}).get("kind", "rt2i")],
        "refinements": refinement_rows(summary),
        "refinement_columns": REFINEMENT_COLUMNS,
        "headlines": headlines(summary, heldout),
        "facts": facts(summary, metrics),
        "charts": charts(metrics, heldout, config),
        "pace": pace_view(metrics, config),
        "groups": [group_view(folder, step, rows) for step, rows in sample_groups(folder)],
        "pairs": {name: pairs(folder, sort, before, after) for sort, name in SORT_NAMES.items()},
        "notes": notes(summary, metrics),
        "versions": config.pop("versions", {}),
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def pace_view(metrics: Metrics, config: Mapping[str, Any]) -> dict[str, Any]:
    """Where the time went; a part that the run did not measure is empty."""
    max_lag = config["rollout"]["max_lag"]
    return {
        "facts": pace_facts(metrics, max_lag),
        "averaged": max_lag > 0,
        "readings": [told for told in (reading(metrics, config), measured_lag(metrics)) if told],
        "wait_columns": WAIT_COLUMNS,
        "waits": wait_rows(metrics, max_lag),
        "charts": pace_charts(metrics, config),
    }


def state(progress: Progress | None, summary: RunSummary, now: datetime) -> str:
    """Where the run stood when the page was written, and when that was."""
    written = f"written {now:%Y-%m-%d %H:%M:%S} UTC"
    if progress is None:
        ended = f", ended by {summary.stopped_by.split(':')[0]}" if summary.stopped_by else ""
        return f"{summary.steps or 0} steps{ended}; {written}"
    if progress.left_s is None:
        return f"Under way, before the first of {progress.of} steps; {written}"
    left = f"about {math.ceil(progress.left_s / 60)} min left"
    return f"Under way, step {progress.step} of {progress.of}, {left}; {written}"


def sample_groups(folder: RunFolder) -> list[tuple[int, list[dict[str, Any]]]]:
    """An early, a middle and a late group of which the pictures were kept: (step, ledger rows)."""
    steps = folder.ledger_steps()
    groups: dict[int, list[dict[str, Any]]] = {}
    chosen: set[int] = set()
    for k in range(NUM_GROUPS):
        aim = round(k * (len(steps) - 1) / (NUM_GROUPS - 1))
        # Pictures are kept at some steps only: the nearest to the aim that has them is taken.
        for _, step in sorted((abs(place - aim), step) for place, step in enumerate(steps)):
            if step not in groups:
                groups[step] = _pictured_group(folder, step)
            if groups[step] and step not in chosen:
                chosen.add(step)
                break
    return [(step, groups[step]) for step in sorted(chosen)]


def _pictured_group(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    """Of the groups of a step with all their pictures the one that teaches most; or no rows."""
    pictures = folder.ledger_pictures(step)
    whole = {
        group
        for group, names in pictures.items()
        if all(folder.has_picture(name) for name in names)
    }
    if not whole:
        return []
    groups: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in folder.ledger(step):
        if row["group"] in whole:
            groups[row["group"]].append(row)
    return max(groups.values(), key=_spread)


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


def pairs(
    folder: RunFolder, sort: Sort, before: Sequence[HeldOutLine], after: Sequence[HeldOutLine]
) -> list[dict[str, Any]]:
    """The first held-out prompts of a sort, before and after, those without a picture left out."""
    others = {line.id: line for line in after}
    rows: list[dict[str, Any]] = []
    for line in before:
        other = others.get(line.id)
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


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
