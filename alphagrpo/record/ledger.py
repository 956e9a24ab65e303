"""The score ledger: a row per question asked; every reward can be traced to its verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from alphagrpo.files import replacing

if TYPE_CHECKING:
    from alphagrpo.ports import GroupReport, Sample
    from alphagrpo.training import GroupWeights, SampleWeights
    from alphagrpo.turns import SkippedTurn
    from alphagrpo.types import Question

SKIPPED = "skipped"
"""Stage of a turn that gave no group."""
_NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("run", _NAMES),
        ("step", pa.int32()),
        ("group", pa.int32()),
        ("task", _NAMES),
        ("stage", _NAMES),
        ("sample", pa.int32()),
        ("prompt_id", _NAMES),
        ("visit", pa.int32()),
        ("prompt", _NAMES),
        ("thought", _NAMES),
        ("question_id", _NAMES),
        ("question", _NAMES),
        ("kind", _NAMES),
        ("tag", _NAMES),
        ("form", _NAMES),
        ("p_yes", pa.float64()),
        ("grade", pa.int8()),
        ("judge", _NAMES),
        ("program", _NAMES),
        ("aggregate", _NAMES),
        ("questions_revision", _NAMES),
        ("semantic", pa.float32()),
        ("quality", pa.float32()),
        ("score", pa.float32()),
        ("reward", pa.float32()),
        ("advantage", pa.float32()),
        ("valid", pa.bool_()),
        ("invalid_reason", _NAMES),
        ("picture", _NAMES),
        ("draft", _NAMES),
        ("draft_score", pa.float32()),
        ("policy_version", pa.int32()),
    ]
)
"""``score`` is the program's own value, ``reward`` what the advantage was computed from. Nulls
mean "could not be had"; they are never zeros. ``quality`` is null too where the program asks no
quality question, ``grade`` where the question's form is ``yes_no``.

``stage`` is ``draft`` for the first stage of a refinement, ``sample`` for all other pictures, and
``skipped`` for a turn that gave no group: one row without group, sample and question, with the
reason. ``draft`` and ``draft_score`` name the picture a refinement began from. A turn is known by
``prompt_id`` and ``visit``, which counts the passes before; where ``advantage`` is null in all of a
turn's rows it was not trained on. One that was put off has rows of a later step too.

``p_yes`` has all its bits: a step that is taken again is given these verdicts again.

Provenance: ``judge`` is ``<model>@<model revision>.<template revision>``, ``questions_revision``
the decomposer's or the program's own, see :class:`alphagrpo.types.Score`.
"""


def rows_of_group(
    step: int,
    index: int,
    report: GroupReport,
    training: GroupWeights | None,
) -> list[dict[str, Any]]:
    """Rows of one group: drafts, then samples in order, each with its questions in order.

    Advantages are those the learner was given; null where a sample was not trained on.
    """
    of_drafts = _advantages(training.drafts if training else None, report.drafts)
    of_samples = _advantages(training.samples if training else None, report.samples)
    drafts = zip(report.drafts, of_drafts, strict=True)
    staged = [("draft", n, *pair) for n, pair in enumerate(drafts)]
    samples = zip(report.samples, of_samples, strict=True)
    staged += [("sample", n, *pair) for n, pair in enumerate(samples)]
    rows = []
    questions, revision = _questions(report)
    for stage, number, sample, advantage in staged:
        verdicts = {v.question_id: v for v in sample.score.verdicts} if sample.score else {}
        shared = _of_sample(step, index, number, report, sample, advantage)
        shared |= {"stage": stage, "task": _task(report, stage), **_draft(report, stage)}
        for question in questions:
            verdict = verdicts.get(question.id)
            rows.append(
                shared
                | {
                    "question_id": question.id,
                    "question": question.text,
                    "kind": question.kind,
                    "tag": question.tag,
                    "form": question.form,
                    "p_yes": verdict.p_yes if verdict else None,
                    "grade": verdict.grade if verdict else None,
                    "judge": verdict.judge if verdict else None,
                    "questions_revision": revision,
                }
            )
    return rows


def row_of_skipped(step: int, run: str, turn: SkippedTurn) -> dict[str, Any]:
    """The row of a turn that gave no group; what it does not name is null."""
    return {
        "run": run,
        "step": step,
        "stage": SKIPPED,
        "prompt_id": turn.prompt.id,
        "visit": turn.visit,
        "prompt": turn.prompt.text,
        "valid": False,
        "invalid_reason": turn.reason,
    }


def _advantages(weights: SampleWeights | None, samples: Sequence[Sample]) -> Sequence[float | None]:
    return [None] * len(samples) if weights is None else weights.trained_advantages()


def _task(report: GroupReport, stage: str) -> str:
    """Drafts that are trained on are text-to-image samples; others are trained for nothing."""
    return "rt2i" if stage == "draft" else report.job.task


def _draft(report: GroupReport, stage: str) -> dict[str, Any]:
    if stage == "draft" or report.draft is None:
        return {"draft": None, "draft_score": None}
    draft = report.drafts[report.draft]
    score = None if draft.score is None else draft.score.value
    return {"draft": draft.picture_hash, "draft_score": score}


def _questions(report: GroupReport) -> tuple[tuple[Question, ...], str]:
    """What was asked about every picture of the group, and where those questions are from.

    A program may ask others than the set's, and says so in its scores; where no sample of the group
    has a score, or the program does not say, the set's own are taken.
    """
    for sample in report.samples:
        if sample.score is not None and sample.score.questions:
            return sample.score.questions, sample.score.revision or report.questions.revision
    return report.questions.questions, report.questions.revision


def _of_sample(
    step: int,
    index: int,
    number: int,
    report: GroupReport,
    sample: Sample,
    advantage: float | None,
) -> dict[str, Any]:
    score = sample.score
    return {
        "run": report.job.run,
        "step": step,
        "group": index,
        "sample": number,
        "prompt_id": report.job.prompt.id,
        "visit": report.job.visit,
        "prompt": report.job.prompt.text,
        "thought": sample.thought,
        "program": score.program if score else None,
        "aggregate": (score.aggregate or None) if score else None,
        "semantic": score.semantic if score else None,
        "quality": score.quality if score else None,
        "score": score.value if score else None,
        "reward": sample.reward,
        "advantage": advantage,
        "valid": sample.reward is not None,
        "invalid_reason": sample.invalid_reason,
        "picture": sample.picture_hash,
        "policy_version": report.job.policy_version,
    }


def write_ledger(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of :data:`SCHEMA` as one parquet file, complete or not at all."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_ledger(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one ledger file; with ``columns`` only those of their values."""
    return pq.read_table(path, columns=columns and list(columns)).to_pylist()
