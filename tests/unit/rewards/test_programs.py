"""DVReward, reward programs, rectification and the format bonus."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphagrpo.config.programs import BUILT_IN_PROGRAMS
from alphagrpo.errors import ConfigError, NoQuestions, ServiceError
from alphagrpo.rewards.dvreward import score_verdicts
from alphagrpo.rewards.format import format_bonus
from alphagrpo.rewards.programs import (
    Holistic,
    RewardProgram,
    asks_the_set,
    configure,
    load_reward_program,
    register_reward_program,
    reward_program,
    reward_programs,
)
from alphagrpo.types import Question, QuestionSet, Score, Verdict
from tests.fakes import make_config

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
    assert score.value == pytest.approx(reward)
    assert len(score.verdicts) == 3


def test_hard_answers_in_place_of_confidences():
    score = score_verdicts(QUESTIONS, answers(0.8, 0.4, 0.51), binary=True)
    assert (score.semantic, score.quality) == (0.5, 1.0)
    assert score_verdicts(QUESTIONS, answers(0.5, 0.5, 0.5), binary=True).value == 0.0


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers())
def test_reward_lies_in_the_unit_interval_whatever_the_order(p_yes, seed):
    verdicts = list(answers(*p_yes))
    score = score_verdicts(QUESTIONS, verdicts)
    random.Random(seed).shuffle(verdicts)
    assert 0.0 <= score.value <= 1.0
    assert score_verdicts(QUESTIONS, verdicts).value == score.value


@pytest.mark.parametrize("program", BUILT_IN_PROGRAMS)
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
    assert set(reward_programs()) == set(BUILT_IN_PROGRAMS)
    for name in reward_programs():
        program = reward_program(name)
        assert isinstance(program, RewardProgram)
        assert program.name == name
    with pytest.raises(ConfigError, match="dvreward_binary, holistic, single_question"):
        reward_program("viescore")
    with pytest.raises(ConfigError, match="already"):
        register_reward_program(reward_program("dvreward"))


def test_single_question_asks_for_the_whole_prompt_once():
    program = reward_program("single_question")
    (question,) = program.questions(SET)
    assert SET.prompt in question.text
    score = program.score(SET, (Verdict(question_id=question.id, p_yes=0.7, judge="fake"),))
    assert score.value == score.semantic == 0.7
    assert score.quality is None
    assert (score.program, score.aggregate) == ("single_question", "single")
    assert score.questions == (question,)


def test_a_prompt_with_braces_is_quoted_as_it_is():
    prompt = "a sign that says {prompt} {0}"
    odd = QuestionSet(prompt=prompt, questions=QUESTIONS, revision="test@1")
    for name in ("single_question", "holistic"):
        assert prompt in reward_program(name).questions(odd)[0].text


def grades(content: int | None, clean: int | None) -> tuple[Verdict, ...]:
    return tuple(
        Verdict(question_id=key, p_yes=(value or 0) / 10, grade=value, judge="fake")
        for key, value in (("content", content), ("clean", clean))
    )


def test_holistic_is_the_root_of_two_grades() -> None:
    program = reward_program("holistic")
    content, clean = program.questions(SET)
    assert content.text == f'from 0 to 10 , how well does the picture show this : "{SET.prompt}" ?'
    assert clean.text == "from 0 to 10 , how clean is the picture ?"
    assert (content.kind, clean.kind) == ("semantic", "quality")
    assert content.form == clean.form == "grade"
    score = program.score(SET, grades(9, 4))
    assert (score.semantic, score.quality) == (0.9, 0.4)
    assert score.value == pytest.approx(math.sqrt(9 * 4) / 10)
    assert program.score(SET, grades(0, 10)).value == 0.0
    assert program.score(SET, grades(9, 4)[:1]) is None
    assert not asks_the_set(program)
    assert asks_the_set(reward_program("dvreward"))


def test_what_is_no_grade_is_an_error_and_never_a_number() -> None:
    program = reward_program("holistic")
    for bad in (
        grades(None, 4),  # a judge that knows P(yes) only
        (grades(9, 4)[0], Verdict(question_id="clean", p_yes=1.0, grade=11, judge="fake")),
        (Verdict(question_id="content", p_yes=0.4, grade=9, judge="fake"), grades(9, 4)[1]),
    ):
        with pytest.raises(ServiceError, match="grade"):
            program.score(SET, bad)
    with pytest.raises(ServiceError, match="alone"):
        score_verdicts(QUESTIONS, (replace(answers(0.5)[0], grade=5),))


def test_templates_are_part_of_the_revision() -> None:
    mine = Holistic(quality_template="grade how sharp it is")
    assert mine.questions(SET)[1].text == "grade how sharp it is"
    revisions = {p.score(SET, grades(5, 5)).revision for p in (mine, Holistic())}
    assert len(revisions) == 2
    assert all(revision.startswith("holistic@") for revision in revisions)


def test_scores_say_what_was_asked_and_how_it_was_put_together() -> None:
    program = configure(reward_program("dvreward"), aggregate="mean")
    score = program.score(SET, answers(0.8, 0.4, 0.25))
    assert (score.program, score.aggregate, score.revision) == ("dvreward", "mean", "test@1")
    assert score.questions == QUESTIONS


def test_semantic_questions_alone_have_no_quality() -> None:
    program = configure(reward_program("dvreward"), kinds="semantic")
    assert [q.id for q in program.questions(SET)] == ["s0", "s1"]
    score = program.score(SET, answers(0.8, 0.4))
    assert score.value == score.semantic == pytest.approx(0.6)
    assert score.quality is None
    assert score.aggregate == "semantic"
    assert program.score(SET, answers(0.8)) is None
    only = replace(SET, questions=QUESTIONS[:2])
    assert program.questions(only) == QUESTIONS[:2]
    with pytest.raises(NoQuestions, match="semantic"):
        program.questions(replace(SET, questions=QUESTIONS[2:]))
    with pytest.raises(ValueError, match="kinds"):
        configure(reward_program("dvreward"), kinds="quality").questions(SET)
    for name in ("holistic", "single_question"):
        with pytest.raises(ConfigError, match=r"reward\.kinds"):
            configure(reward_program(name), kinds="semantic")


class Darkness:
    """A program of someone's own, as the manual shows one."""

    name = "darkness"

    def questions(self, question_set: QuestionSet) -> tuple[Question, ...]:
        return (Question(id="dark", text="is it dark ?", kind="quality", tag="Lighting"),)

    def score(self, question_set: QuestionSet, verdicts: tuple[Verdict, ...]) -> Score | None:
        return None


class Needy:
    def __init__(self, what: str) -> None: ...


def test_a_class_of_ones_own_is_found_by_its_path() -> None:
    program = load_reward_program(f"{__name__}:Darkness")
    assert program.questions(SET)[0].id == "dark"
    assert configure(program, aggregate="mean") is program
    assert load_reward_program("holistic") is reward_program("holistic")
    for path, says in (
        (f"{__name__}:Nobody", "Nobody"),
        ("alphagrpo.nowhere:Thing", "nowhere"),
        (f"{__name__}:Needy", "without arguments"),
        ("collections:Counter", "lacks"),
        ("odd", "choose one of"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_reward_program(path)
    with pytest.raises(ConfigError, match="no reward program"):
        reward_program(f"{__name__}:Darkness")  # what a request may name imports nothing


def test_the_manuals_program_works_as_written() -> None:
    manual = (Path(__file__).parents[3] / "docs/rewards.md").read_text(encoding="utf-8")
    space: dict[str, Any] = {"__name__": "manual"}
    source = re.findall(r"```python\n(.*?)```", manual, re.DOTALL)[0]
    exec(compile(source, "rewards.md", "exec", dont_inherit=True), space)
    program = space["Weakest"]()
    assert isinstance(program, RewardProgram)
    assert program.score(SET, answers(0.8, 0.4, 0.25)).value == 0.25
    assert program.score(SET, answers(0.8)) is None
    assert all(f"`{name}`" in manual for name in BUILT_IN_PROGRAMS)


def test_the_config_knows_the_names_and_the_paths() -> None:
    for name in (*BUILT_IN_PROGRAMS, "mypackage.myreward:MyReward"):
        assert make_config(reward={"program": name}).reward.program == name
    for name in ("odd", "my.module", "a:b:c", ":B", "os.system('x'):Y"):
        with pytest.raises(ConfigError, match="dvreward, dvreward_binary, holistic, single_quest"):
            make_config(reward={"program": name})
    assert make_config(reward={"kinds": "semantic"}).reward.kinds == "semantic"
    with pytest.raises(ConfigError, match=r"reward\.kinds"):
        make_config(reward={"kinds": "semantic", "program": "holistic"})


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
