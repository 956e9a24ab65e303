from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from alphagrpo.data import load_heldout
from alphagrpo.errors import NoQuestions
from alphagrpo.eval.figures import summarise
from alphagrpo.eval.heldout import HeldOutJudges, evaluate, first_of_each_sort
from alphagrpo.eval.lines import HeldOutLine
from alphagrpo.eval.oracles import oracle_for, shapes_oracle
from alphagrpo.rewards.programs import reward_program
from alphagrpo.seeds import derive
from alphagrpo.types import SORTS, Prompt, QuestionSet
from tests.fakes import FakeDecomposer, FakePool, FakeVerifier, make_prompts
from tests.shades import evaluate_shades, shade_judges, shade_prompts
from tests.synthetic_run import OracleDecomposer, OracleVerifier, RenderingPool

PROGRAM = reward_program("dvreward")


def run(pool: Any, prompts: Any, judges: HeldOutJudges, **options: Any) -> list[HeldOutLine]:
    return asyncio.run(evaluate(pool, prompts, judges, version=3, seed=5, **options))


def world_judges() -> HeldOutJudges:
    return HeldOutJudges(
        oracle=shapes_oracle,
        decomposer=OracleDecomposer(),
        verifier=OracleVerifier(),
        program=PROGRAM,
    )


def test_a_perfect_policy_is_all_right_and_an_unskilled_one_is_not() -> None:
    prompts = load_heldout("shapes:heldout", num_plain=12, num_thought=12)
    best = summarise(run(RenderingPool(1.0), prompts, world_judges()))
    worst = summarise(run(RenderingPool(0.0), prompts, world_judges()))
    for sort in SORTS:
        assert best[sort].n == 12
        assert best[sort].all_right == best[sort].strict == 1.0
        assert best[sort].per_question == 1.0
        assert worst[sort].all_right < 0.5
        assert worst[sort].dvreward < best[sort].dvreward


def test_seeds_follow_the_prompt_and_not_its_place_or_the_batches() -> None:
    prompts = load_heldout("shapes:heldout", num_plain=6, num_thought=0)
    judges = HeldOutJudges(oracle=shapes_oracle)
    whole = run(RenderingPool(0.5), prompts, judges)
    backwards = run(RenderingPool(0.5), prompts[::-1], judges, batch_size=2)
    assert whole == backwards[::-1]
    assert whole[0].version == 3


def test_pictures_are_kept_for_the_first_of_each_sort_and_progress_is_reported() -> None:
    prompts = load_heldout("shapes:heldout", num_plain=4, num_thought=4)
    kept: dict[str, bytes] = {}
    progress: list[tuple[int, int]] = []
    lines = run(
        RenderingPool(1.0),
        prompts,
        HeldOutJudges(),
        keep=kept.__setitem__,
        num_kept=2,
        batch_size=3,
        on_progress=lambda done, of: progress.append((done, of)),
    )
    assert set(kept) == {lines[i].opinion.picture for i in (0, 1, 4, 5)}
    assert all(png.startswith(b"\x89PNG") for png in kept.values())
    assert progress == [(3, 8), (6, 8), (8, 8)]


def test_what_nobody_could_judge_is_null_and_never_zero() -> None:
    class Refusing:
        async def decompose(self, prompt: Prompt) -> QuestionSet:
            raise NoQuestions("a prompt needs a question, this has none; rewrite it")

    judges = HeldOutJudges(decomposer=Refusing(), verifier=FakeVerifier(), program=PROGRAM)
    lines = run(FakePool(), make_prompts(2), judges)
    assert [line.opinion.dvreward for line in lines] == [None, None]
    assert "NoQuestions" in lines[0].opinion.invalid_reason
    figures = summarise(lines)["plain"]
    assert figures.all_right is None
    assert figures.all_right_interval is None
    assert figures.dvreward is None
    assert figures.scored == 0


def test_the_first_of_each_sort_are_taken_sort_by_sort() -> None:
    prompts = shade_prompts("abcde", {"a": "thought", "c": "thought", "e": "thought"})
    assert [p.id for p in first_of_each_sort(prompts, 2)] == ["b", "d", "a", "c"]
    assert [p.id for p in first_of_each_sort(prompts, 9)] == ["b", "d", "a", "c", "e"]


async def test_a_line_says_what_was_drawn_and_what_both_judges_say_of_it() -> None:
    _, (line,) = await evaluate_shades({"a": [30]}, sorts={"a": "thought"})
    assert (line.id, line.sort, line.prompt) == ("a", "thought", "prompt a")
    assert (line.seed, line.version) == (derive("evaluation", 1, "a"), 3)
    opinion = line.opinion
    assert opinion.thought == "shade 30"
    assert [(answer.question, answer.yes) for answer in opinion.oracle] == [
        ("is it red ?", False),
        ("is it sharp ?", True),
    ]
    assert (opinion.per_question, opinion.all_right) == (0.5, False)
    assert [(a.kind, a.p_yes) for a in opinion.verdicts] == [("semantic", 0.3), ("quality", 0.3)]
    assert opinion.dvreward == pytest.approx(0.3)


async def test_refined_pictures_are_kept_of_the_same_prompts_as_first_ones() -> None:
    kept: dict[str, bytes] = {}
    _, lines = await evaluate_shades(
        {"a": [40, 60], "b": [41, 61], "t": [42, 62], "u": [43, 63]},
        rounds=1,
        sorts={"t": "thought", "u": "thought"},
        keep=kept.__setitem__,
        num_kept=1,
    )
    of_first = {lines[0].opinion.picture, lines[2].opinion.picture}
    assert set(kept) == of_first | {lines[i].rounds[0]["last"].tried.picture for i in (0, 2)}


async def test_each_prompt_is_decomposed_once_for_all_its_pictures() -> None:
    decomposer = FakeDecomposer()
    judges = shade_judges(decomposer=decomposer)
    await evaluate_shades({"a": [40, 30, 20, 10], "b": [50, 60, 70]}, rounds=2, judges=judges)
    assert decomposer.calls == {"a": 1, "b": 1}


def test_only_the_world_has_an_oracle() -> None:
    assert oracle_for("shapes:heldout") is shapes_oracle
    assert oracle_for("prompts.txt") is None
    prompt = load_heldout("shapes:heldout", num_plain=1, num_thought=0)[0]
    blank = np.full((48, 48, 3), 246, np.uint8)
    assert not shapes_oracle(prompt, blank).all_right


def test_prompts_are_decomposed_while_their_pictures_are_drawn() -> None:
    events: list[str] = []

    class Telling(OracleDecomposer):
        async def decompose(self, prompt: Prompt) -> QuestionSet:
            events.append("decompose")
            return await super().decompose(prompt)

    class Slow(RenderingPool):
        async def draw(self, requests: Any, version: int) -> Any:
            await asyncio.sleep(0.01)
            events.append("drawn")
            return await super().draw(requests, version)

    judges = HeldOutJudges(decomposer=Telling(), verifier=OracleVerifier(), program=PROGRAM)
    prompts = load_heldout("shapes:heldout", num_plain=4, num_thought=0)
    lines = run(Slow(1.0), prompts, judges)
    assert all(line.opinion.dvreward is not None for line in lines)
    assert events == ["decompose"] * 4 + ["drawn"]
