"""The programs single and dsg over a scripted engine."""

from __future__ import annotations

import json

import pytest

from alphagrpo.errors import ConfigError, NoQuestions
from alphagrpo.judging.decomposition import Decomposition, make_program
from tests.unit.judging.fake_engine import FakeEngine, FakeTokenizer

GOOD = json.dumps(
    {
        "semantic": [
            {"q": "is there a fox ?", "tag": "Existence", "needs": []},
            {"q": "is the fox red ?", "tag": "Attribute", "needs": [0]},
        ],
        "quality": [{"q": "is the fox drawn well ?", "tag": "Aesthetics"}],
    }
)


async def test_single_asks_once_and_signs_with_program_and_model():
    engine = FakeEngine(answers=lambda _: GOOD)
    made = await Decomposition(engine, make_program("single", engine)).decompose("a red fox")
    assert engine.prompts == ["a red fox\n"]
    assert made.revision == "single@00000001"
    assert [q.id for q in made.questions] == ["s0", "s1", "q0"]
    assert made.questions[1].depends_on == ("s0",)


async def test_single_tries_again_warmer_and_gives_up_with_the_reason():
    answers = iter(["{", "[]", GOOD])
    engine = FakeEngine(answers=lambda _: next(answers))
    program = make_program("single", engine)
    assert len(await program.questions("a red fox")) == 3
    assert engine.temperatures == [0.0, 0.3, 0.3]
    engine.answers = lambda _: "{"
    with pytest.raises(NoQuestions, match="question set is JSON"):
        await program.questions("a red fox")


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * 31])
async def test_empty_and_long_prompts_cost_no_call(prompt):
    engine = FakeEngine(answers=lambda _: GOOD)
    decomposition = Decomposition(engine, make_program("single", engine), max_prompt_chars=30)
    with pytest.raises(NoQuestions, match="1 to 30 characters"):
        await decomposition.decompose(prompt)
    assert engine.prompts == []


def test_unknown_programs_are_refused():
    with pytest.raises(ConfigError, match="single"):
        make_program("triple", FakeEngine())  # type: ignore[arg-type]


def _dsg_answer(prompt: str, *, valid: bool = True, questions: int = 2) -> str:
    if "List every atomic fact" in prompt:
        return json.dumps({"facts": ["there is a fox", "the fox is red"]})
    if "For each fact give the numbers" in prompt:
        return json.dumps({"needs": [[], [1]]})
    if "Write for each numbered fact" in prompt:
        return json.dumps({"questions": ["is there a fox ?", "is it red ?"][:questions]})
    if "fair check" in prompt:
        return json.dumps({"reason": "because", "is_valid": valid})
    if "Which aspect" in prompt:
        return json.dumps(
            {"reason": "so", "aspect_tag": "Attribute" if "red" in prompt else "Existence"}
        )
    return json.dumps({"questions": [{"question": "is it drawn well ?", "aspect": "Geometry"}]})


async def test_dsg_keeps_dependencies_and_makes_every_call():
    engine = FakeEngine(answers=_dsg_answer, tokenizer=FakeTokenizer(chat_template="yes"))
    questions = await make_program("dsg", engine).questions("a {red} fox")
    assert [(q.id, q.tag, q.depends_on) for q in questions] == [
        ("s0", "Existence", ()),
        ("s1", "Attribute", ("s0",)),
        ("q0", "Geometry", ()),
    ]
    assert len(engine.prompts) == 3 + 2 * 2 + 1
    assert sum("{red}" in prompt for prompt in engine.prompts) == 6


@pytest.mark.parametrize(
    ("kind", "reason"), [({"valid": False}, "unfair"), ({"questions": 1}, "as many")]
)
async def test_dsg_refuses_a_prompt_after_its_attempts(kind, reason):
    engine = FakeEngine(answers=lambda prompt: _dsg_answer(prompt, **kind))
    with pytest.raises(NoQuestions, match=reason):
        await make_program("dsg", engine, max_attempts=2).questions("a red fox")
    assert sum("List every" in prompt for prompt in engine.prompts) == 2


async def test_dsg_answers_without_the_asked_fields_are_refused():
    engine = FakeEngine(answers=lambda _: "{}")
    with pytest.raises(NoQuestions, match="facts"):
        await make_program("dsg", engine, max_attempts=1).questions("a red fox")
