"""One call per picture: order, sharing, caching, and what is refused."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
import pytest

from alphagrpo.errors import BadImage, ConfigError, ServiceError, ServiceUnavailable
from alphagrpo.images import image_hash
from alphagrpo.judging.engine import ModelInfo
from alphagrpo.judging.templates import AUDITOR, GRADER
from alphagrpo.judging.verification import VerificationProgram
from alphagrpo.types import Question
from tests.unit.judging.fake_engine import FakeEngine, FakeTokenizer

PIXELS = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def _ask(*texts: str) -> list[Question]:
    return [
        Question(id=f"s{i}", text=text, kind="semantic", tag="Existence")
        for i, text in enumerate(texts)
    ]


async def test_verdicts_come_in_order_with_the_judge():
    shares = {"<image>a ?": 0.9, "<image>b ?": 0.2}
    program = VerificationProgram(FakeEngine(p_yes=shares.__getitem__))
    verdicts = await program.verify(PIXELS, _ask("b ?", "a ?"))
    assert [v.question_id for v in verdicts] == ["s0", "s1"]
    assert [v.p_yes for v in verdicts] == pytest.approx([0.2, 0.9])
    assert {v.judge for v in verdicts} == {program.judge}
    assert program.judge.startswith("fake@00000001.")


async def test_where_it_is_warmed_first_one_goes_alone():
    engine = FakeEngine()
    program = VerificationProgram(engine, warm_first=True)
    await program.verify(PIXELS, _ask("a ?", "b ?", "c ?"))
    assert engine.batches == [("<image>a ?",), ("<image>b ?", "<image>c ?")]
    assert set(engine.keys) == {image_hash(PIXELS)}


async def test_all_questions_go_at_once():
    engine = FakeEngine()
    await VerificationProgram(engine).verify(PIXELS, _ask("a ?", "b ?", "c ?"))
    assert engine.batches == [("<image>a ?", "<image>b ?", "<image>c ?")]


async def test_a_repeated_question_is_asked_once_and_remembered():
    engine = FakeEngine()
    program = VerificationProgram(engine)
    first = await program.verify(PIXELS, _ask("a ?", "a ?"))
    assert len(first) == 2
    assert len(engine.prompts) == 1
    await program.verify(PIXELS, _ask("a ?", "b ?"))
    assert engine.prompts == ["<image>a ?", "<image>b ?"]
    await program.verify(255 - PIXELS, _ask("a ?"))
    assert len(engine.prompts) == 3


async def test_answers_are_kept_by_picture_question_and_judge():
    engine = FakeEngine(p_yes=lambda _: 0.9)
    other = FakeEngine(p_yes=lambda _: 0.2)
    other.model = ModelInfo(name="fake", revision="00000002")
    program, newer = VerificationProgram(engine), VerificationProgram(other)
    # Judges that share a memory, as two revisions of one model behind a common cache would.
    newer.cache = program.cache
    (before,) = await program.verify(PIXELS, _ask("a ?"))
    (after,) = await newer.verify(PIXELS, _ask("a ?"))
    assert (before.p_yes, after.p_yes) == (pytest.approx(0.9), pytest.approx(0.2))
    assert before.judge != after.judge
    engine.p_yes = lambda _: 0.6
    darker = PIXELS // 2
    pictures, texts = (PIXELS, darker), ("a ?", "b ?")
    values = {
        (index, text): (await program.verify(pixels, _ask(text)))[0].p_yes
        for index, pixels in enumerate(pictures)
        for text in texts
    }
    assert values.pop((0, "a ?")) == pytest.approx(0.9)
    assert list(values.values()) == pytest.approx([0.6] * 3)
    assert engine.keys[-3:] == [image_hash(PIXELS), image_hash(darker), image_hash(darker)]


async def test_a_known_picture_is_not_warmed_again():
    engine = FakeEngine()
    program = VerificationProgram(engine, warm_first=True)
    await program.verify(PIXELS, _ask("a ?"))
    engine.batches.clear()
    await program.verify(PIXELS, _ask("a ?", "b ?", "c ?"))
    assert engine.batches == [("<image>b ?", "<image>c ?")]


async def test_every_spelling_of_both_answers_is_scored_and_summed():
    class FakeUnevenEngine(FakeEngine):
        """P(yes) lies in one spelling, P(no) in three."""

        def _scores(self, prompt, token_ids):
            shares = {"yes": 0.01, " yes": 0.39, "Yes": 0.0, "no": 0.05, " no": 0.1, "No": 0.05}
            words = {self.tokenizer.words.index(word): share for word, share in shares.items()}
            return {
                token: math.log(words[token]) if words[token] else -math.inf for token in token_ids
            }

    (verdict,) = await VerificationProgram(FakeUnevenEngine()).verify(PIXELS, _ask("a ?"))
    assert verdict.p_yes == pytest.approx(0.4 / 0.6)


async def test_memory_is_bounded_and_forgets_the_oldest():
    engine = FakeEngine()
    program = VerificationProgram(engine, cache_size=2)
    for text in ("a ?", "b ?", "c ?", "a ?"):
        await program.verify(PIXELS, _ask(text))
    assert len(program.cache) == 2
    assert len(engine.prompts) == 4
    await program.verify(PIXELS, _ask("c ?"))
    assert len(engine.prompts) == 4


async def test_one_failure_is_one_typed_error_and_nothing_is_made_up():
    def p_yes(prompt: str) -> float:
        if "b" in prompt:
            raise ServiceUnavailable("the engine is dead")
        return 0.5

    engine = FakeEngine(p_yes=p_yes)
    with pytest.raises(ServiceUnavailable, match="dead"):
        await VerificationProgram(engine).verify(PIXELS, _ask("a ?", "b ?", "c ?"))


async def test_a_broken_probability_is_an_error():
    engine = FakeEngine(p_yes=lambda _: float("nan"))
    with pytest.raises(ServiceError, match="broken"):
        await VerificationProgram(engine).verify(PIXELS, _ask("a ?"))


async def test_chat_models_get_the_picture_before_the_question():
    engine = FakeEngine(tokenizer=FakeTokenizer(chat_template="yes there is one"))
    program = VerificationProgram(engine)
    await program.verify(PIXELS, _ask("a ?"))
    system, user = json.loads(engine.prompts[0])
    assert system["content"][0]["text"] == AUDITOR
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert user["content"][1]["text"] == "a ?"
    assert program.judge != VerificationProgram(FakeEngine()).judge


CLEAN = Question(id="q0", text="how clean ?", kind="quality", tag="Whole", form="grade")


async def test_grades_are_chosen_among_eleven_and_remembered_apart_from_yes():
    engine = FakeEngine(answers={"<image>how clean ?": "10"}.__getitem__, p_yes=lambda _: 0.3)
    program = VerificationProgram(engine)
    same = Question(id="s0", text=CLEAN.text, kind="semantic", tag="Whole")
    told, graded = await program.verify(PIXELS, [same, CLEAN])
    assert (told.p_yes, told.grade) == (pytest.approx(0.3), None)
    assert (graded.p_yes, graded.grade) == (1.0, 10)
    assert graded.judge == told.judge == program.judge
    assert engine.choices == [tuple("0 1 2 3 4 5 6 7 8 9 10".split())]
    assert engine.temperatures == [0.0]
    assert engine.keys == [image_hash(PIXELS)] * 2
    assert await program.verify(PIXELS, [CLEAN, same]) == (graded, told)
    assert len(engine.prompts) == 2


async def test_a_grade_of_0_is_an_answer():
    program = VerificationProgram(FakeEngine(answers=lambda _: " 0 "))
    (verdict,) = await program.verify(PIXELS, [CLEAN])
    assert (verdict.p_yes, verdict.grade) == (0.0, 0)


@pytest.mark.parametrize("answer", ["", "11", "-1", "7.5", "seven", "7/10", "+7", "07", "٧", "1 0"])
async def test_what_is_no_grade_is_an_error_and_not_remembered(answer):
    engine = FakeEngine(answers=lambda _: answer)
    program = VerificationProgram(engine)
    for asked in (1, 2):
        with pytest.raises(ServiceError, match="whole number from 0 to 10"):
            await program.verify(PIXELS, [CLEAN])
        assert len(engine.prompts) == asked


async def test_chat_models_grade_under_instructions_of_their_own():
    tokenizer = FakeTokenizer(chat_template="yes there is one")
    engine = FakeEngine(tokenizer=tokenizer, answers=lambda _: "7")
    await VerificationProgram(engine).verify(PIXELS, [CLEAN])
    system, user = json.loads(engine.prompts[0])
    assert system["content"][0]["text"] == GRADER
    assert user["content"] == [{"type": "image"}, {"type": "text", "text": CLEAN.text}]


def test_chat_needs_a_chat_template():
    with pytest.raises(ConfigError, match="chat template"):
        VerificationProgram(FakeEngine(), template="chat")


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
async def test_pictures_of_another_form_are_refused(pixels):
    with pytest.raises(BadImage, match="uint8 array"):
        await VerificationProgram(FakeEngine()).verify(pixels, _ask("a ?"))


@pytest.mark.parametrize("texts", [("",), ("x" * 40,), ("a", "b", "c")])
async def test_questions_out_of_bounds_are_refused(texts):
    program = VerificationProgram(FakeEngine(), max_questions=2, max_question_chars=30)
    with pytest.raises(ConfigError):
        await program.verify(PIXELS, _ask(*texts))


async def test_callers_with_the_same_picture_share_what_is_under_way():
    gate = asyncio.Event()
    engine = FakeEngine(p_yes=lambda prompt: 0.9 if "a ?" in prompt else 0.2, gate=gate.wait)
    program = VerificationProgram(engine)
    first = asyncio.create_task(program.verify(PIXELS, _ask("a ?", "b ?")))
    await asyncio.sleep(0)
    second = asyncio.create_task(program.verify(PIXELS.copy(), _ask("c ?", "a ?")))
    other = asyncio.create_task(program.verify(255 - PIXELS, _ask("a ?")))
    await asyncio.sleep(0.001)
    gate.set()
    assert [v.p_yes for v in await first] == pytest.approx([0.9, 0.2])
    assert [(v.question_id, round(v.p_yes, 6)) for v in await second] == [("s0", 0.2), ("s1", 0.9)]
    await other
    assert engine.batches == [("<image>a ?", "<image>b ?"), ("<image>c ?",), ("<image>a ?",)]


async def test_a_caller_that_leaves_takes_no_answer_from_another():
    gate = asyncio.Event()
    engine = FakeEngine(gate=gate.wait)
    program = VerificationProgram(engine)
    first, second = (
        asyncio.create_task(program.verify(PIXELS, _ask(*texts)))
        for texts in (("a ?", "b ?"), ("b ?",))
    )
    await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.wait({first})
    gate.set()
    assert len(await second) == 1
    assert (len(engine.batches), engine.cancelled) == (1, [])
    gate.clear()
    alone = asyncio.create_task(program.verify(PIXELS, _ask("c ?", "d ?")))
    await asyncio.sleep(0.001)
    alone.cancel()
    await asyncio.wait({alone})
    await asyncio.sleep(0)
    assert engine.cancelled == [("<image>c ?", "<image>d ?")]


async def test_anothers_refused_question_does_not_refuse_ones_own():
    def p_yes(prompt: str) -> float:
        if "b" in prompt:
            raise ServiceError("too long")
        return 0.7

    gate = asyncio.Event()
    engine = FakeEngine(p_yes=p_yes, gate=gate.wait)
    program = VerificationProgram(engine)
    first, second = (
        asyncio.create_task(program.verify(PIXELS, _ask(*texts)))
        for texts in (("a ?", "b ?"), ("a ?",))
    )
    await asyncio.sleep(0.001)
    gate.set()
    with pytest.raises(ServiceError, match="too long"):
        await first
    assert (await second)[0].p_yes == pytest.approx(0.7)
