"""Reward programs that judge the whole picture at once: what decomposition is compared with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from alphagrpo.rewards.dvreward import index_verdicts
from alphagrpo.types import Question, QuestionSet, Score, Verdict

WHOLE_TAG = "Whole"
"""Tag of questions about everything at once, which have no aspect of their own."""


@dataclass(frozen=True, slots=True)
class SingleQuestion:
    """One yes/no question about the whole prompt."""

    name: str = "single_question"
    template: str = 'does the picture show exactly this : "{prompt}" ?'
    """``{prompt}`` is replaced by the prompt's text, once."""
    asks_the_set: ClassVar[bool] = False

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        """The one question; the set's own are not asked."""
        text = _filled(self.template, question_set)
        return (Question(id="whole", text=text, kind="semantic", tag=WHOLE_TAG),)

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        """P(yes) of the one question; no quality, because it was not asked about."""
        questions = self.questions(question_set)
        answers = index_verdicts(questions, verdicts)
        if not answers:
            return None
        return Score(
            semantic=answers["whole"],
            quality=None,
            value=answers["whole"],
            verdicts=tuple(verdicts),
            program=self.name,
            aggregate="single",
            questions=questions,
            revision=template_revision(self.name, self.template),
        )


@dataclass(frozen=True, slots=True)
class Holistic:
    """Two grades from 0 to 10, as VIEScore has them (the release's baseline; method: section 3.3).

    With SC what the picture shows of the prompt and PQ how clean it is::

        reward = sqrt(SC PQ) / 10

    VIEScore takes the least of several grades for each of the two; here each is one question.
    """

    name: str = "holistic"
    semantic_template: str = 'from 0 to 10 , how well does the picture show this : "{prompt}" ?'
    """``{prompt}`` is replaced by the prompt's text, once; as in ``quality_template``."""
    quality_template: str = "from 0 to 10 , how clean is the picture ?"
    asks_the_set: ClassVar[bool] = False

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        """Both grade questions; the set's own are not asked."""
        return (
            Question(
                id="content",
                text=_filled(self.semantic_template, question_set),
                kind="semantic",
                tag=WHOLE_TAG,
                form="grade",
            ),
            Question(
                id="clean",
                text=_filled(self.quality_template, question_set),
                kind="quality",
                tag=WHOLE_TAG,
                form="grade",
            ),
        )

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        """Semantic SC / 10, quality PQ / 10, reward the root of their product."""
        questions = self.questions(question_set)
        answers = index_verdicts(questions, verdicts)
        if len(answers) < len(questions):
            return None
        semantic, quality = (answers[question.id] for question in questions)
        return Score(
            semantic=semantic,
            quality=quality,
            value=math.sqrt(semantic * quality),
            verdicts=tuple(verdicts),
            program=self.name,
            aggregate="geometric",
            questions=questions,
            revision=template_revision(self.name, self.semantic_template, self.quality_template),
        )


def template_revision(name: str, *templates: str) -> str:
    """``<program>@<8 hex digits over its templates>``: which wording a score is from."""
    return f"{name}@{hashlib.sha256(chr(0).join(templates).encode()).hexdigest()[:8]}"


def _filled(template: str, question_set: QuestionSet) -> str:
    # Not str.format: a prompt and a template may hold other braces.
    return template.replace("{prompt}", question_set.prompt, 1)
