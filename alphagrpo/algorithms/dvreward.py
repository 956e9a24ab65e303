"""DVReward: from a picture's verdicts to one number, never from their absence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from alphagrpo.errors import NoQuestions, ServiceError
from alphagrpo.types import Question, QuestionKind, Score, Verdict

Aggregate = Literal["geometric", "mean", "sum_mean"]


def require_both_kinds(questions: Sequence[Question]) -> None:
    """Raise NoQuestions unless there is a semantic and a quality question.

    The mean over no question is not 0 and not 1: a prompt without one of the kinds has no DVReward
    and must be set aside when its questions are made.
    """
    for kind in get_args(QuestionKind):
        if not any(question.kind == kind for question in questions):
            raise NoQuestions(
                f"DVReward needs at least one {kind} question, the prompt has none among "
                f"{len(questions)}; decompose it again or set the prompt aside"
            )


def score_verdicts(
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    aggregate: Aggregate = "geometric",
    *,
    binary: bool = False,
    program: str = "dvreward",
) -> Score | None:
    """The DVReward of one picture (AlphaGRPO, DVReward; method: section 3.2).

    With S and Q the means of P(yes) over the semantic and the quality questions::

        geometric:  sqrt(S Q)        mean:  (S + Q) / 2        sum_mean:  mean over all questions

    All questions weigh the same; tags and dependencies do not enter. ``binary`` first makes each
    P(yes) 1 if it is above one half and else 0.

    Args:
        questions: what was asked.
        verdicts: the answers, in any order.
        aggregate: how both means become one number.
        binary: count hard answers in place of confidences.
        program: recorded in the score.

    Returns:
        The score, or None if any question has no verdict: a missing answer is neither 0 nor left
        out, which would favour pictures whose hard questions failed.

    Raises:
        NoQuestions: if either kind of question is missing altogether.
        ServiceError: for two verdicts on one question, a verdict on a question that was not asked,
            or a P(yes) outside [0, 1].
        ValueError: for an unknown aggregate.
    """
    if aggregate not in get_args(Aggregate):
        raise ValueError(
            f"aggregate must be one of {', '.join(get_args(Aggregate))}, got {aggregate!r}"
        )
    require_both_kinds(questions)
    answers = index_verdicts(questions, verdicts)
    if len(answers) < len(questions):
        return None
    values = {key: float(p > 0.5) if binary else p for key, p in answers.items()}
    semantic = _mean([values[q.id] for q in questions if q.kind == "semantic"])
    quality = _mean([values[q.id] for q in questions if q.kind == "quality"])
    if aggregate == "geometric":
        reward = math.sqrt(semantic * quality)
    elif aggregate == "mean":
        reward = (semantic + quality) / 2.0
    else:
        reward = _mean(list(values.values()))
    return Score(
        semantic=semantic,
        quality=quality,
        reward=reward,
        verdicts=tuple(verdicts),
        program=program,
    )


def index_verdicts(
    questions: Sequence[Question], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    """P(yes) by question id; raises ServiceError for verdicts that cannot be trusted."""
    asked = {question.id for question in questions}
    answers: dict[str, float] = {}
    for verdict in verdicts:
        if verdict.question_id not in asked:
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
        answers[verdict.question_id] = verdict.p_yes
    return answers


def _mean(values: Sequence[float]) -> float:
    # fsum: the reward must not depend on the order in which answers came back.
    return math.fsum(values) / len(values)
