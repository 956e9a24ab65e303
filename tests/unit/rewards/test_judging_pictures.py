"""The one way to judge pictures: who is asked, how often, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from alphagrpo.errors import ConfigError, NoQuestions, ServiceError
from alphagrpo.rewards.judging import judge_picture, judge_pictures, own_questions, questions_for
from alphagrpo.rewards.programs import reward_program
from alphagrpo.types import Prompt, Question, QuestionSet, Score, Verdict
from tests.fakes import FakeDecomposer, FakeVerifier, make_questions

QUESTIONS = make_questions("1 red circle")
PROGRAM = reward_program("dvreward")


def picture(shade: int) -> np.ndarray:
    return np.full((4, 4, 3), shade, np.uint8)


def shade(pixels: np.ndarray, question: Question) -> float:
    return float(pixels[0, 0, 0]) / 100


class Bare:
    """A program of a user's own, which says nothing of its questions in its scores."""

    name = "bare"

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        return question_set.questions[:1]

    def score(self, question_set: QuestionSet, verdicts: Sequence[Verdict]) -> Score | None:
        value = verdicts[0].p_yes
        return Score(semantic=value, quality=None, value=value, verdicts=tuple(verdicts))


async def test_each_picture_is_asked_about_once_and_gets_its_own_score() -> None:
    verifier = FakeVerifier(shade)
    pictures = [picture(s) for s in (10, 70, 10, 40, 70)]
    scores = await judge_pictures(PROGRAM, QUESTIONS, pictures, verifier)
    assert verifier.calls == 3
    assert [score.value for score in scores] == pytest.approx([0.1, 0.7, 0.1, 0.4, 0.7])


async def test_what_is_known_is_not_asked_again_even_where_it_is_wrong() -> None:
    verifier = FakeVerifier(shade)
    (known,) = await judge_pictures(PROGRAM, QUESTIONS, [picture(90)], verifier)
    pictures = [picture(10), picture(20), picture(10)]
    scores = await judge_pictures(PROGRAM, QUESTIONS, pictures, verifier, known=[known, None, None])
    assert verifier.calls == 3
    assert [score.value for score in scores] == pytest.approx([0.9, 0.2, 0.1])


async def test_a_failure_is_a_reason_for_every_picture_like_it_and_for_no_other() -> None:
    verifier = FakeVerifier(shade, fail_calls=[0])
    pictures = [picture(10), picture(20), picture(10)]
    first, second, third = await judge_pictures(PROGRAM, QUESTIONS, pictures, verifier)
    assert first == third == "ServiceUnavailable: the fake verifier is down; wait"
    assert second.value == pytest.approx(0.2)


async def test_a_fault_that_is_no_services_ends_the_asking() -> None:
    def broken(pixels: np.ndarray, question: Question) -> float:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await judge_pictures(PROGRAM, QUESTIONS, [picture(1)], FakeVerifier(broken))


async def test_a_set_that_cannot_be_asked_is_refused_before_any_call() -> None:
    verifier = FakeVerifier(shade)
    nothing = QuestionSet(prompt="x", questions=(), revision="r")
    with pytest.raises(NoQuestions):
        await judge_pictures(PROGRAM, nothing, [picture(1)], verifier)
    assert verifier.calls == 0


async def test_a_score_names_its_questions_also_where_its_program_does_not() -> None:
    score = await judge_picture(Bare(), QUESTIONS, picture(30), FakeVerifier(shade))
    assert score.questions == QUESTIONS.questions[:1]
    assert [(q.id, v.p_yes) for q, v in score.answers()] == [("s0", 0.3)]


async def test_a_picture_without_all_its_verdicts_has_no_score() -> None:
    class Lazy(FakeVerifier):
        async def verify(self, pixels, questions):
            return (await super().verify(pixels, questions))[1:]

    with pytest.raises(ServiceError, match="2 questions"):
        await judge_picture(PROGRAM, QUESTIONS, picture(1), Lazy(shade))


async def test_the_decomposer_is_asked_by_programs_that_use_its_questions_only() -> None:
    decomposer, prompt = FakeDecomposer(), Prompt(id="p", text="1 red circle")
    assert await questions_for(PROGRAM, prompt, decomposer) == QUESTIONS
    assert await questions_for(Bare(), prompt, decomposer) == QUESTIONS
    assert decomposer.calls["p"] == 2
    own = await questions_for(reward_program("holistic"), prompt, decomposer)
    assert own == own_questions(prompt)
    assert (own.prompt, own.questions, own.revision) == ("1 red circle", (), "none")
    assert decomposer.calls["p"] == 2
    with pytest.raises(ConfigError, match="white space"):
        await questions_for(reward_program("holistic"), Prompt(id="p", text=" \n"), decomposer)
