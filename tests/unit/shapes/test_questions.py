from __future__ import annotations

import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.shapes.grammar import Reading, Seen, parse_question
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.specs import Item, Spec, sample_scene, sample_spec
from alphagrpo.shapes.world import Scene, SceneObject


def test_reference_sets_are_complete_and_true_of_their_scenes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        spec = sample_spec(rng)
        questions = reference_questions(spec)
        reading = Reading.of_scene(sample_scene(spec, rng))
        kinds = [parse_question(q.text).type for q in questions]
        assert 5 <= len(questions) <= 8
        assert kinds.count("total") == 1
        assert {q.kind for q in questions} == {"semantic", "quality"}
        assert all(parse_question(q.text).holds(reading) for q in questions)
        ids = [q.id for q in questions]
        assert len(set(ids)) == len(ids)
        assert all(ids.index(need) < i for i, q in enumerate(questions) for need in q.depends_on)


def test_a_relation_asks_for_both_objects_and_how_they_lie() -> None:
    spec = Spec((Item(1, "red", "circle"), Item(1, "blue", "square")), "left of", absent="green")
    questions = [
        (q.text, q.tag, q.depends_on) for q in reference_questions(spec) if q.kind == "semantic"
    ]
    assert questions == [
        ("is there a red circle ?", "Existence", ()),
        ("is there a blue square ?", "Existence", ()),
        ("is the red circle left of the blue square ?", "Spatial", ("s0", "s1")),
        ("are there exactly two objects in total ?", "Count", ()),
        ("is there no green object ?", "Negative", ()),
    ]


SCENE = Scene(
    (
        SceneObject("circle", "red", 0, 0),
        SceneObject("circle", "blue", 0, 2),
        SceneObject("cross", "blue", 2, 1),
    ),
    "gray",
)


@pytest.mark.parametrize(
    ("question", "yes"),
    [
        ("is there a red circle ?", True),
        ("is there a red cross ?", False),
        ("is there an orange object ?", False),
        ("is there a blue object ?", True),
        ("are there exactly two circles ?", True),
        ("are there exactly three circles ?", False),
        ("is there exactly one blue circle ?", True),
        ("are there exactly two blue objects ?", True),
        ("are there exactly three objects in total ?", True),
        ("are there exactly two objects in total ?", False),
        ("is the cross blue ?", True),
        ("are the circles red ?", False),
        ("are the triangles red ?", False),
        ("is the red circle left of the blue cross ?", True),
        ("is the red circle right of the blue circle ?", False),
        ("is the red circle above the blue circle ?", False),
        ("is the blue cross below the red circle ?", True),
        ("is the background gray ?", True),
        ("is the background white ?", False),
        ("is there no triangle ?", True),
        ("is there no blue object ?", False),
        ("Are the shapes complete and clean?", True),
    ],
)
def test_answers_about_a_scene(question: str, yes: bool) -> None:
    assert parse_question(question).holds(Reading.of_scene(SCENE)) is yes


def test_something_unclear_is_no_object_and_spoils_the_total() -> None:
    reading = Reading((Seen("circle", "red", 0, 0), Seen(None, "red", 1, 1)), None, complete=False)
    assert not parse_question("are there exactly two objects in total ?").holds(reading)
    assert not parse_question("is there exactly one object in total ?").holds(reading)
    assert parse_question("are there exactly one red objects ?").holds(reading)
    assert not parse_question("is the background black ?").holds(reading)
    assert not parse_question("are the shapes complete and clean ?").holds(reading)


@pytest.mark.parametrize(
    "text", ["", "is there a pink circle ?", "what is this ?", "is there no ?"]
)
def test_questions_outside_the_grammar_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="grammar"):
        parse_question(text)
