"""DVReward: from a picture's verdicts to one number, never from their absence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from alphagrpo.errors import NoQuestions, ServiceError
from alphagrpo.options import Aggregate, Kinds
from alphagrpo.types import Question, QuestionKind, Score, Verdict

BEST_GRADE = 10


def asked_questions(questions: Sequence[Question], kinds: Kinds = "all") -> tuple[Question, ...]:
    """Those of ``questions`` that count.

    The mean over no question is not 0 and not 1: a prompt without one of the kinds has no DVReward
    and must be set aside when its questions are made.

    Raises:
        NoQuestions: where there is none of a kind that counts.
        ValueError: for unknown ``kinds``.
    """
    if kinds not in get_args(Kinds):
        raise ValueError(f"kinds must be one of {', '.join(get_args(Kinds))}, got {kinds!r}")
    counted: tuple[str, ...] = get_args(QuestionKind) if kinds == "all" else ("semantic",)
    for kind in counted:
        if not any(question.kind == kind for question in questions):
            raise NoQuestions(
                f"DVReward needs at least one {kind} question, the prompt has none among "
                f"{len(questions)}; decompose it again or set the prompt aside"
            )
    return tuple(question for question in questions if question.kind in counted)


def score_verdicts(
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    aggregate: Aggregate = "geometric",
    *,
    kinds: Kinds = "all",
    binary: bool = False,
    program: str = "dvreward",
    revision: str = "",
) -> Score | None:
    """The DVReward of one picture (AlphaGRPO, DVReward; method: section 3.2).

    With S and Q the means of P(yes) over the semantic and the quality questions::

        geometric:  sqrt(S Q)        mean:  (S + Q) / 2        sum_mean:  mean over all questions

    All questions weigh the same; tags and dependencies do not enter. With ``kinds`` semantic the
    reward is S whatever the aggregate, and there is no Q. ``binary`` first makes each P(yes) 1 if
    it is above one half and else 0.

    Args:
        questions: the prompt's questions.
        verdicts: the answers to those that count, in any order.
        aggregate: how both means become one number.
        kinds: which of ``questions`` were asked.
        binary: count hard answers in place of confidences.
        program: the name the score carries.
        revision: of the question set; the score carries it.

    Returns:
        The score, or None where a verdict is missing. A missing verdict never counts as 0.

    Raises:
        NoQuestions: unless there is a question of each kind that counts.
        ServiceError: for verdicts that cannot be trusted: to questions nobody asked, two for one,
            a P(yes) outside [0, 1], a grade that is none.
        ValueError: for an unknown aggregate or kinds.
    """
    if aggregate not in get_args(Aggregate):
        raise ValueError(
            f"aggregate must be one of {', '.join(get_args(Aggregate))}, got {aggregate!r}"
        )
    counted = asked_questions(questions, kinds)
    answers = index_verdicts(counted, verdicts)
    if len(answers) < len(counted):
        return None
    values = {key: float(p > 0.5) if binary else p for key, p in answers.items()}
    semantic = _mean([values[q.id] for q in counted if q.kind == "semantic"])
    quality = None
    if kinds == "all":
        quality = _mean([values[q.id] for q in counted if q.kind == "quality"])
    return Score(
        semantic=semantic,
        quality=quality,
        value=_aggregated(semantic, quality, list(values.values()), aggregate),
        verdicts=tuple(verdicts),
        program=program,
        aggregate="semantic" if quality is None else aggregate,
        questions=counted,
        revision=revision,
    )


def _aggregated(
    semantic: float, quality: float | None, values: Sequence[float], aggregate: Aggregate
) -> float:
    if quality is None:
        return semantic
    if aggregate == "geometric":
        return math.sqrt(semantic * quality)
    return (semantic + quality) / 2.0 if aggregate == "mean" else _mean(values)


def index_verdicts(
    questions: Sequence[Question], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    """P(yes) by question id, of a grade question its tenth; ServiceError for the untrustworthy."""
    by_id = {question.id: question for question in questions}
    answers: dict[str, float] = {}
    for verdict in verdicts:
        if verdict.question_id not in by_id:
            raise ServiceError(
                f"a verdict answers question {verdict.question_id!r}, which was not asked; "
                "the judge and the question set disagree"
            )
        if verdict.question_id in answers:
            raise ServiceError(f"question {verdict.question_id!r} was answered twice")
        if not 0.0 <= verdict.p_yes <= 1.0:
            raise ServiceError(
                f"P(yes) must lie in [0, 1], judge {verdict.judge} gave {verdict.p_yes} for "
                f"question {verdict.question_id!r}"
            )
        _check_form(by_id[verdict.question_id], verdict)
        answers[verdict.question_id] = verdict.p_yes
    return answers


def _check_form(question: Question, verdict: Verdict) -> None:
    """A judge that knows no grades answers P(yes), which must not pass for one."""
    grade = verdict.grade
    if question.form == "yes_no" and grade is None:
        return
    if question.form == "grade" and grade is not None:
        if 0 <= grade <= BEST_GRADE and verdict.p_yes == grade / BEST_GRADE:
            return
    raise ServiceError(
        f"question {question.id!r} is answered by "
        f"{'a grade 0 to 10 and its tenth' if question.form == 'grade' else 'P(yes) alone'}, judge "
        f"{verdict.judge} gave grade {grade} and {verdict.p_yes}; deploy a verifier of this version"
    )


def _mean(values: Sequence[float]) -> float:
    # fsum: the reward must not depend on the order in which answers came back.
    return math.fsum(values) / len(values)
