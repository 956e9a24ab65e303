"""Question sets: the schema, the parser and what makes a set unusable."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import numpy as np
import pytest

from alphagrpo.errors import NoQuestions
from alphagrpo.judging.questions import (
    checked,
    parse_question_set,
    question_set_schema,
    questions_from_records,
    questions_to_records,
)
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.specs import sample_spec
from alphagrpo.types import Question
from miniature.question_json import questions_to_json

S0 = Question(id="s0", text="is there a fox ?", kind="semantic", tag="Existence")
S1 = Question(id="s1", text="is it red ?", kind="semantic", tag="Attribute", depends_on=("s0",))
Q0 = Question(id="q0", text="is it drawn well ?", kind="quality", tag="Aesthetics")


def test_the_miniature_worlds_answers_are_of_this_form():
    schema = question_set_schema(max_semantic=6, max_quality=4, max_chars=80, max_needs=2)
    rng = np.random.default_rng(1)
    for _ in range(100):
        questions = reference_questions(sample_spec(rng))
        text = questions_to_json(questions)
        jsonschema.validate(json.loads(text), schema)
        assert parse_question_set(text) == questions
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"semantic": [], "quality": []}, schema)


def test_records_survive_the_round_trip():
    graded = dataclasses.replace(Q0, id="q1", form="grade")
    asked = (S0, S1, Q0, graded)
    assert questions_from_records(json.loads(json.dumps(questions_to_records(asked)))) == asked


def test_records_from_before_there_were_grades_are_read():
    old = [{key: r[key] for key in r if key != "form"} for r in questions_to_records((S0, Q0))]
    assert questions_from_records(old) == (S0, Q0)
    with pytest.raises(TypeError, match="yes_no or grade"):
        questions_from_records([{**old[0], "form": "essay"}])


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"semantic": [',
        "[]",
        '{"semantic": [], "quality": []}',
        '{"semantic": [{"q": "is it ?", "tag": "Nonsense"}], "quality": []}',
        '{"semantic": "none", "quality": "none"}',
        '{"semantic":[{"q":"is it ?","tag":"Count","needs":[3]}],'
        '"quality":[{"q":"ok ?","tag":"Geometry"}]}',
    ],
)
def test_answers_that_are_no_set_are_refused(text):
    with pytest.raises(NoQuestions):
        parse_question_set(text)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ((S0, S1), "semantic and quality"),
        ((Q0,), "semantic and quality"),
        ((S0, S0, Q0), "unique ids"),
        ((dataclasses.replace(S0, text=" "), Q0), "empty"),
        ((dataclasses.replace(S0, tag="Geometry"), Q0), "aspects"),
        ((S1, Q0), "depends on its own"),
        ((dataclasses.replace(S0, depends_on=("s1",)), S1, Q0), "circular"),
        ((S0, dataclasses.replace(Q0, depends_on=("q9",))), "depends on its own"),
    ],
)
def test_sets_that_cannot_be_asked_are_refused(questions, message):
    with pytest.raises(NoQuestions, match=message):
        checked(questions)
