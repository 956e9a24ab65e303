from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from alphagrpo.data import load_heldout
from alphagrpo.errors import NoQuestions
from alphagrpo.eval.heldout import HeldOutJudges, differences, evaluate, summarise
from alphagrpo.eval.oracles import oracle_for, shapes_oracle
from alphagrpo.rewards.programs import reward_program
from alphagrpo.types import Prompt, QuestionSet
from tests.fakes import FakePool, FakeVerifier, make_prompts
from tests.synthetic_run import OracleDecomposer, OracleVerifier, RenderingPool

PROGRAM = reward_program("dvreward")


def run(pool: Any, prompts: Any, judges: HeldOutJudges, **options: Any) -> list[dict[str, Any]]:
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
    for sort in ("plain", "thought"):
        assert best[sort]["n"] == 12
        assert best[sort]["all_right"] == best[sort]["strict"] == 1.0
        assert best[sort]["per_question"] == 1.0
        assert worst[sort]["all_right"] < 0.5
        assert worst[sort]["dvreward"] < best[sort]["dvreward"]


def test_seeds_follow_the_prompt_and_not_its_place_or_the_batches() -> None:
    prompts = load_heldout("shapes:heldout", num_plain=6, num_thought=0)
    judges = HeldOutJudges(oracle=shapes_oracle)
    whole = run(RenderingPool(0.5), prompts, judges)
    backwards = run(RenderingPool(0.5), prompts[::-1], judges, batch_size=2)
    assert whole == backwards[::-1]
    assert whole[0]["version"] == 3


def test_pictures_are_kept_for_the_first_of_each_sort_and_progress_is_told() -> None:
    prompts = load_heldout("shapes:heldout", num_plain=4, num_thought=4)
    kept: dict[str, bytes] = {}
    told: list[tuple[int, int]] = []
    lines = run(
        RenderingPool(1.0),
        prompts,
        HeldOutJudges(),
        keep=kept.__setitem__,
        num_kept=2,
        batch_size=3,
        on_progress=lambda done, of: told.append((done, of)),
    )
    assert set(kept) == {lines[i]["picture"] for i in (0, 1, 4, 5)}
    assert all(png.startswith(b"\x89PNG") for png in kept.values())
    assert told == [(3, 8), (6, 8), (8, 8)]


def test_what_nobody_could_judge_is_null_and_never_zero() -> None:
    class Refusing:
        async def decompose(self, prompt: Prompt) -> QuestionSet:
            raise NoQuestions("a prompt needs a question, this has none; rewrite it")

    judges = HeldOutJudges(decomposer=Refusing(), verifier=FakeVerifier(), program=PROGRAM)
    lines = run(FakePool(), make_prompts(2), judges)
    assert [line["dvreward"] for line in lines] == [None, None]
    assert "NoQuestions" in lines[0]["invalid_reason"]
    figures = summarise(lines)["plain"]
    assert figures["all_right"] is None
    assert figures["dvreward"] is None
    assert figures["scored"] == 0


def test_differences_pair_by_prompt_and_leave_out_what_is_missing_on_a_side() -> None:
    def line(name: str, right: bool, reward: float | None) -> dict[str, Any]:
        return {
            "id": name, "sort": "plain", "per_question": None, "strict": None,
            "all_right": right, "dvreward": reward,
        }  # fmt: skip

    before = [line("a", False, 0.2), line("b", True, None), line("c", True, 0.5)]
    after = [line("c", True, 0.9), line("b", True, 0.5), line("a", True, 0.4), line("d", True, 1.0)]
    found = differences(before, after)["plain"]
    assert found["all_right"]["n"] == 3
    assert found["all_right"]["mean"] == pytest.approx(1 / 3)
    assert found["dvreward"]["n"] == 2
    assert found["dvreward"]["mean"] == pytest.approx(0.3)
    assert "per_question" not in found


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
    assert all(line["dvreward"] is not None for line in lines)
    assert events == ["decompose"] * 4 + ["drawn"]
