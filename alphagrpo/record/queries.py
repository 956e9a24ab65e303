"""What a run's ledger answers: its worst questions, contested prompts, and tags over time.

Each query is given all steps (:func:`alphagrpo.record.scan.ask`) and holds a line per question or
prompt, and a few numbers per step.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from alphagrpo.record.scan import StepRows, samples_by_group

# -- questions


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFigures:
    """How one question was answered."""

    question: str
    tag: str
    asked: int
    """Pictures it was asked about."""
    answered: int
    no: int
    """Of the answered: P(yes) of at most one half."""
    p_yes: float | None
    """Mean over the answered."""

    @property
    def no_share(self) -> float | None:
        """Share of the answers that were no."""
        return self.no / self.answered if self.answered else None


class WorstQuestions:
    """Questions by their answers, the most often refused first."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])

    def add(self, rows: StepRows) -> None:
        """Count the step's answers."""
        for row in answer_sums(rows.questions, ("question", "tag")):
            sums = self._sums[row["question"] or "", row["tag"] or ""]
            for index, key in enumerate(("asked", "answered", "no", "p_yes")):
                sums[index] += row[key] or 0

    def figures(self, at_least: int = 1) -> list[QuestionFigures]:
        """Those with ``at_least`` answers: by share of no, then by mean P(yes)."""
        lines = [
            QuestionFigures(
                question=question,
                tag=tag,
                asked=int(asked),
                answered=int(answered),
                no=int(no),
                p_yes=total / answered if answered else None,
            )
            for (question, tag), (asked, answered, no, total) in self._sums.items()
            if answered >= at_least
        ]
        return sorted(lines, key=lambda line: (-(line.no_share or 0.0), line.p_yes or 0.0))


def answer_sums(questions: pa.Table, keys: Sequence[str]) -> list[dict[str, Any]]:
    """``asked``, ``answered``, ``no`` and the sum ``p_yes`` of a step's questions, by ``keys``."""
    p_yes = questions.column("p_yes")
    table = questions.append_column("no", pc.less_equal(p_yes, 0.5).cast(pa.int64()))
    sums = table.group_by(list(keys), use_threads=False).aggregate(
        [("p_yes", "count", pc.CountOptions("all")), ("p_yes", "count"), ("no", "sum"),
         ("p_yes", "sum")]
    )  # fmt: skip
    renamed = sums.rename_columns([*keys, "asked", "answered", "no", "p_yes"])
    rows: list[dict[str, Any]] = renamed.to_pylist()
    return rows


# -- prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFigures:
    """How far the rewards of one prompt's groups lay apart."""

    prompt_id: str
    prompt: str
    groups: int
    spread: float
    """Standard deviation of the rewards inside a group, mean over its groups."""
    reward: float
    """Mean over its samples with a reward."""
    low: float
    high: float
    widest: str
    """``STEP/GROUP`` of its group with the largest spread."""


@dataclass(slots=True)
class _PromptSums:
    prompt: str
    spreads: list[float] = field(default_factory=list)
    total: float = 0.0
    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    widest: tuple[float, str] = (-1.0, "")


class ContestedPrompts:
    """Prompts by how far the rewards inside their groups lie apart, the widest first."""

    def __init__(self) -> None:
        self._prompts: dict[str, _PromptSums] = {}

    def add(self, rows: StepRows) -> None:
        """Take in the step's groups with at least two rewards."""
        for group, samples in samples_by_group(rows.samples).items():
            rewards = [row["reward"] for row in samples if row["reward"] is not None]
            if len(rewards) < 2:
                continue
            first = samples[0]
            sums = self._prompts.setdefault(first["prompt_id"], _PromptSums(first["prompt"]))
            spread = statistics.pstdev(rewards)
            sums.spreads.append(spread)
            sums.total, sums.count = sums.total + sum(rewards), sums.count + len(rewards)
            sums.low, sums.high = min(sums.low, *rewards), max(sums.high, *rewards)
            sums.widest = max(sums.widest, (spread, f"{rows.step}/{group}"))

    def figures(self) -> list[PromptFigures]:
        """By falling spread."""
        lines = [
            PromptFigures(
                prompt_id=prompt_id,
                prompt=sums.prompt,
                groups=len(sums.spreads),
                spread=statistics.fmean(sums.spreads),
                reward=sums.total / sums.count,
                low=sums.low,
                high=sums.high,
                widest=sums.widest[1],
            )
            for prompt_id, sums in self._prompts.items()
        ]
        return sorted(lines, key=lambda line: -line.spread)


# -- tags over time


@dataclass(frozen=True, slots=True, kw_only=True)
class TagBin:
    """Means over some steps."""

    first: int
    last: int
    reward: float | None
    score: float | None
    p_yes: Mapping[str, float]
    """Mean P(yes) by tag of the question."""


class TagHistory:
    """Reward, and mean P(yes) by tag, over the steps of a run."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, tuple[float, int]]]] = []

    def add(self, rows: StepRows) -> None:
        """Keep the step's sums: a pair of numbers per tag."""
        sums = {
            f"tag {row['tag']}": (row["p_yes"], row["answered"])
            for row in answer_sums(rows.questions, ("tag",))
            if row["answered"]
        }
        drawn = [row for row in rows.samples if row["stage"] == "sample"]
        for key in ("reward", "score"):
            values = [row[key] for row in drawn if row[key] is not None]
            if values:
                sums[key] = (sum(values), len(values))
        self._steps.append((rows.step, sums))

    def figures(self, bins: int = 8) -> list[TagBin]:
        """``bins`` stretches of as many steps each, as far as that goes."""
        count = len(self._steps)
        bins = min(bins, count)
        edges = [count * index // bins for index in range(bins + 1)] if bins else []
        return [_tag_bin(self._steps[start:end]) for start, end in pairwise(edges)]


def _tag_bin(steps: Sequence[tuple[int, Mapping[str, tuple[float, int]]]]) -> TagBin:
    totals: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for _, sums in steps:
        for key, (total, count) in sums.items():
            totals[key][0] += total
            totals[key][1] += count
    means = {key: total / count for key, (total, count) in totals.items()}
    return TagBin(
        first=steps[0][0],
        last=steps[-1][0],
        reward=means.pop("reward", None),
        score=means.pop("score", None),
        p_yes={key.removeprefix("tag "): means[key] for key in sorted(means)},
    )
