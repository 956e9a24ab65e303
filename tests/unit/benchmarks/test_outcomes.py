"""Outcomes: one character per prompt, paired by prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alphagrpo.eval.lines import CHAINS, Held, HeldOutLine, Opinion, Refinement, Side
from alphagrpo.json_records import to_json
from alphagrpo.record.jsonl import json_lines
from alphagrpo.types import Sort
from benchmarks.outcomes import named_by_defect, outcomes, paired, pooled


def line(sort: Sort, right: bool, tried: float | None, named: bool | None) -> HeldOutLine:
    opinion = Opinion(thought="", picture="a", all_right=right, strict=right, extra=False)
    side = Side(picture="a", all_right=right, per_question=0.5, dvreward=None)
    refinement = Refinement(
        kept=True,
        reflection="",
        defects=None,
        named=named,
        before=side,
        tried=replace(side, per_question=tried),
        held=Held.of(opinion),
    )
    rounds = (dict.fromkeys(CHAINS, refinement),)
    return HeldOutLine(id="a", sort=sort, prompt="a", opinion=opinion, rounds=rounds)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.jsonl"
    records = [
        line("plain", True, 0.75, True),
        line("thought", False, 0.5, None),
        line("plain", False, 0.25, None),
        line("plain", True, None, False),
    ]
    path.write_text(json_lines(map(to_json, records)))
    return path


def test_each_figure_has_one_character_per_prompt(lines: Path) -> None:
    digits = outcomes(lines)
    assert digits["plain"]["all_right"] == "101"
    assert digits["plain"]["extra"] == "000"
    assert digits["plain"]["refined"]["round1"]["gated"]["improved"] == "10-"
    assert digits["plain"]["refined"]["round1"]["last"]["harmed"] == "01-"
    assert digits["plain"]["refined"]["round1"]["last"]["named"] == "1-0"
    assert digits["thought"]["all_right"] == "0"
    assert list(digits) == ["plain", "thought"]


def result(seed: int, plain: str) -> dict[str, Any]:
    return {"seed": seed, "outcomes": {"plain": {"all_right": plain}}}


PATH = ("plain", "all_right")


def test_a_difference_is_over_all_prompts_of_all_seeds() -> None:
    pairs = [(result(1, "1110"), result(1, "1010")), (result(2, "0111"), result(2, "0001"))]
    difference = paired(pairs, PATH, PATH)
    assert difference is not None
    assert difference.mean == pytest.approx(3 / 8)
    assert difference.n == 8
    assert difference.low < 3 / 8 < difference.high


@pytest.mark.parametrize("other", ["10-", "10", ""])
def test_no_difference_of_outcomes_that_are_not_known(other: str) -> None:
    assert paired([(result(1, "111"), result(1, other))], PATH, PATH) is None
    assert paired([(result(1, "111"), {"seed": 1})], PATH, PATH) is None
    assert paired([], PATH, PATH) is None


def test_sorts_are_pooled_by_prompt_not_by_share() -> None:
    sorts = {"plain": {"all_right": "1110"}, "thought": {"all_right": "0-"}}
    one = {"outcomes": sorts, "evaluation": {"plain": 1}}
    whole = pooled(one)
    assert whole["outcomes"]["all"] == {"all_right": "11100-"}
    assert whole["evaluation"] == {"plain": 1, "all": {"all_right": 0.6}}
    assert pooled(result(1, "1")) == result(1, "1"), "one sort is all there is"


def test_reflections_are_told_apart_by_what_the_draft_shows() -> None:
    last = {"refined": {"round1": {"last": {"named": "101-0"}}}}
    one = {"outcomes": {"plain": {"extra": "11001", **last}}}
    assert named_by_defect([one, result(2, "1")], "plain") == {"extra": [1 / 3], "other": [1.0]}
