"""DVReward, reward programs, rectification and the format bonus."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphagrpo.algorithms import (
    RewardProgram,
    format_bonus,
    group_advantages,
    rectify,
    register_reward_program,
    reward_program,
    reward_programs,
    score_verdicts,
)
from alphagrpo.errors import ConfigError, NoQuestions, ServiceError
from alphagrpo.types import Question, QuestionSet, Verdict

QUESTIONS = (
    Question(id="s0", text="is there a red circle ?", kind="semantic", tag="Existence"),
    Question(id="s1", text="are there two shapes ?", kind="semantic", tag="Count"),
    Question(id="q0", text="are all edges clean ?", kind="quality", tag="Geometry"),
)
SET = QuestionSet(prompt="a red circle and a square", questions=QUESTIONS, revision="test@1")


def answers(*p_yes: float) -> tuple[Verdict, ...]:
    return tuple(
        Verdict(question_id=q.id, p_yes=p, judge="fake")
        for q, p in zip(QUESTIONS, p_yes, strict=False)
    )


@pytest.mark.parametrize(
    ("aggregate", "reward"),
    [("geometric", math.sqrt(0.6 * 0.25)), ("mean", 0.425), ("sum_mean", (0.8 + 0.4 + 0.25) / 3)],
)
def test_aggregates(aggregate, reward):
    score = score_verdicts(QUESTIONS, answers(0.8, 0.4, 0.25), aggregate)
    assert score.semantic == pytest.approx(0.6)
    assert score.quality == 0.25
    assert score.reward == pytest.approx(reward)
    assert len(score.verdicts) == 3


def test_hard_answers_in_place_of_confidences():
    score = score_verdicts(QUESTIONS, answers(0.8, 0.4, 0.51), binary=True)
    assert (score.semantic, score.quality) == (0.5, 1.0)
    assert score_verdicts(QUESTIONS, answers(0.5, 0.5, 0.5), binary=True).reward == 0.0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers())
def test_reward_lies_in_the_unit_interval_whatever_the_order(p_yes, seed):
    verdicts = list(answers(*p_yes))
    score = score_verdicts(QUESTIONS, verdicts)
    random.Random(seed).shuffle(verdicts)
    assert 0.0 <= score.reward <= 1.0
    assert score_verdicts(QUESTIONS, verdicts).reward == score.reward


@pytest.mark.parametrize("program", ["dvreward", "dvreward_binary", "single_question"])
def test_a_missing_verdict_is_absent_and_never_zero(program):
    assert reward_program(program).score(SET, ()) is None


def test_one_missing_verdict_of_several_is_absent_too():
    assert score_verdicts(QUESTIONS, answers(0.9, 0.9)) is None


@pytest.mark.parametrize("kept", ["semantic", "quality"])
def test_an_empty_kind_is_refused(kept):
    questions = tuple(q for q in QUESTIONS if q.kind == kept)
    with pytest.raises(NoQuestions, match="at least one"):
        score_verdicts(questions, ())
    with pytest.raises(NoQuestions, match="set the prompt aside"):
        reward_program("dvreward").questions(
            QuestionSet(prompt="x", questions=questions, revision="test@1")
        )


def test_untrustworthy_verdicts_are_refused():
    with pytest.raises(ServiceError, match="twice"):
        score_verdicts(QUESTIONS, answers(1, 1, 1) + answers(1))
    with pytest.raises(ServiceError, match="not asked"):
        score_verdicts(QUESTIONS, (Verdict(question_id="s9", p_yes=1.0, judge="fake"),))
    for value in (1.2, -0.1, math.nan):
        with pytest.raises(ServiceError, match=r"\[0, 1\]"):
            score_verdicts(QUESTIONS, answers(value, 1, 1))
    with pytest.raises(ValueError, match="aggregate"):
        score_verdicts(QUESTIONS, answers(1, 1, 1), "median")


def test_programs_are_found_by_name_and_unknown_names_list_them():
    assert {"dvreward", "dvreward_binary", "single_question"} <= set(reward_programs())
    for name in reward_programs():
        program = reward_program(name)
        assert isinstance(program, RewardProgram)
        assert program.name == name
    with pytest.raises(ConfigError, match="dvreward_binary, single_question"):
        reward_program("holistic")
    with pytest.raises(ConfigError, match="already"):
        register_reward_program(reward_program("dvreward"))


def test_single_question_asks_for_the_whole_prompt_once():
    program = reward_program("single_question")
    (question,) = program.questions(SET)
    assert SET.prompt in question.text
    score = program.score(SET, (Verdict(question_id=question.id, p_yes=0.7, judge="fake"),))
    assert score.reward == score.semantic == score.quality == 0.7
    assert score.program == "single_question"


def test_a_prompt_with_braces_is_quoted_as_it_is():
    prompt = "a sign that says {prompt} {0}"
    odd = QuestionSet(prompt=prompt, questions=QUESTIONS, revision="test@1")
    assert prompt in reward_program("single_question").questions(odd)[0].text


REFINED = torch.tensor([0.2, 0.5, 0.6, 0.9])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("off", [0.2, 0.5, 0.6, 0.9]),
        ("max", [0.5, 0.5, 0.6, 0.9]),
        ("group_min", [0.2, 0.2, 0.6, 0.9]),
    ],
)
def test_both_readings_of_rectification(mode, expected):
    assert torch.equal(rectify(REFINED, 0.5, mode), torch.tensor(expected))


@pytest.mark.parametrize("mode", ["max", "group_min"])
def test_a_group_that_did_not_improve_teaches_nothing(mode):
    rewards = rectify(REFINED, 0.95, mode)[None]
    advantages = group_advantages(rewards, torch.ones(1, 4).bool(), std="group")
    assert torch.equal(advantages.values, torch.zeros(1, 4))


def test_rectification_ignores_invalid_samples():
    rewards = torch.tensor([math.nan, 0.4, 0.3, 0.9])
    valid = torch.tensor([False, True, True, True])
    got = rectify(rewards, 0.5, "group_min", valid)
    assert torch.equal(got[1:], torch.tensor([0.3, 0.3, 0.9]))
    assert math.isnan(got[0])
    several = rectify(torch.stack([REFINED, REFINED]), torch.tensor([0.0, 0.95]), "max")
    assert torch.equal(several, torch.stack([REFINED, torch.full((4,), 0.95)]))
    with pytest.raises(ValueError, match="group_min"):
        rectify(rewards, 0.5, "min")


@pytest.mark.parametrize(
    ("text", "bonus"),
    [
        ("<think>a plan</think>", 1.0),
        ("<think></think>", 1.0),
        ("<think>a plan", 0.0),
        ("a plan</think>", 0.0),
        ("<think>a plan</think> done", 0.0),
        ("", 0.0),
    ],
)
def test_format_bonus(text, bonus):
    assert format_bonus(text) == bonus
