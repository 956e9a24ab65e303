"""What the ledger says was lost: samples without a score, groups and prompts not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alphagrpo.record.scan import SKIPPED, StepRows, samples_by_group

NO_REASON = "no reason given"
NUM_REASONS = 3
"""Different reasons that are named of one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostGroup:
    """A group that was not trained on, or a prompt of which none was drawn."""

    step: int
    group: int | None
    """None of a prompt that was skipped."""
    prompt_id: str
    prompt: str
    scored: int
    drawn: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFigures:
    """What was dropped or had no score, and why."""

    drawn: int
    scored: int
    reasons: Mapping[str, int]
    """Reason to the number of samples and drafts that had no score because of it."""
    dropped: Sequence[LostGroup]
    """Groups of which no sample was trained on."""
    skipped: Sequence[LostGroup]
    """Prompts of which nothing was drawn."""


class Losses:
    """Samples without a score, groups that were dropped, prompts that were skipped."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._drawn = self._scored = 0
        self._dropped: list[LostGroup] = []
        self._skipped: list[LostGroup] = []

    def add(self, rows: StepRows) -> None:
        """Count the step's losses."""
        for row in rows.samples:
            if row["stage"] == SKIPPED:
                self._skipped.append(_lost(rows.step, [row], drawn=0))
            elif row["score"] is None:
                self._reasons[row["invalid_reason"] or NO_REASON] += 1
        for samples in samples_by_group(rows.samples).values():
            self._drawn += len(samples)
            self._scored += sum(row["score"] is not None for row in samples)
            if all(row["advantage"] is None for row in samples):
                self._dropped.append(_lost(rows.step, samples, drawn=len(samples)))

    def figures(self) -> LossFigures:
        """The commonest reason first, groups and prompts in the order of steps."""
        return LossFigures(
            drawn=self._drawn,
            scored=self._scored,
            reasons=dict(self._reasons.most_common()),
            dropped=tuple(self._dropped),
            skipped=tuple(self._skipped),
        )


def _lost(step: int, samples: Sequence[Mapping[str, Any]], drawn: int) -> LostGroup:
    first, reasons = samples[0], Counter(row["invalid_reason"] or NO_REASON for row in samples)
    named = [f"{count} x {text}" for text, count in reasons.most_common(NUM_REASONS)]
    return LostGroup(
        step=step,
        group=first["group"] if drawn else None,
        prompt_id=first["prompt_id"] or "",
        prompt=first["prompt"] or "",
        scored=sum(row["score"] is not None for row in samples),
        drawn=drawn,
        reason="; ".join(named) if drawn else next(iter(reasons)),
    )
