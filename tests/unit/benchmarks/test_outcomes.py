"""Outcomes: one character per prompt, paired by prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.outcomes import named_by_defect, outcomes, paired, pooled


def line(sort: str, right: bool, tried: float | None, named: bool | None) -> dict[str, Any]:
    held = {"all_right": right, "strict": right, "extra": False}
    chain = {
        **held,
        "named": named,
        "before": {"per_question": 0.5},
        "tried": {"per_question": tried},
    }
    return {"sort": sort, "oracle": [], **held, "rounds": [{"last": chain, "gated": chain}]}


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.jsonl"
    found = [
        line("plain", True, 0.75, True),
        line("thought", False, 0.5, None),
        line("plain", False, 0.25, None),
        line("plain", True, None, False),
        {"sort": "edit", "followed": True},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    return path


def test_each_figure_has_one_character_per_prompt(lines: Path) -> None:
    found = outcomes(lines)
    assert found["plain"]["all_right"] == "101"
    assert found["plain"]["extra"] == "000"
    assert found["plain"]["refined"]["round1"]["gated"]["improved"] == "10-"
    assert found["plain"]["refined"]["round1"]["last"]["harmed"] == "01-"
    assert found["plain"]["refined"]["round1"]["last"]["named"] == "1-0"
    assert found["thought"]["all_right"] == "0"
    assert set(found) == {"plain", "thought"}


def result(seed: int, plain: str) -> dict[str, Any]:
    return {"seed": seed, "outcomes": {"plain": {"all_right": plain}}}


PATH = ("plain", "all_right")


def test_a_difference_is_over_all_prompts_of_all_seeds() -> None:
    pairs = [(result(1, "1110"), result(1, "1010")), (result(2, "0111"), result(2, "0001"))]
    found = paired(pairs, PATH, PATH)
    assert found is not None
    assert found.mean == pytest.approx(3 / 8)
    assert found.n == 8
    assert found.low < 3 / 8 < found.high


@pytest.mark.parametrize("other", ["10-", "10", ""])
def test_no_difference_of_outcomes_that_are_not_known(other: str) -> None:
    assert paired([(result(1, "111"), result(1, other))], PATH, PATH) is None
    assert paired([(result(1, "111"), {"seed": 1})], PATH, PATH) is None
    assert paired([], PATH, PATH) is None


def test_sorts_are_pooled_by_prompt_not_by_share() -> None:
    sorts = {"plain": {"all_right": "1110"}, "thought": {"all_right": "0-"}}
    one = {"outcomes": sorts, "evaluation": {"plain": 1}}
    found = pooled(one)
    assert found["outcomes"]["all"] == {"all_right": "11100-"}
    assert found["evaluation"] == {"plain": 1, "all": {"all_right": 0.6}}
    assert pooled(result(1, "1")) == result(1, "1"), "one sort is all there is"


def test_reflections_are_told_apart_by_what_the_draft_shows() -> None:
    last = {"refined": {"round1": {"last": {"named": "101-0"}}}}
    one = {"outcomes": {"plain": {"extra": "11001", **last}}}
    assert named_by_defect([one, result(2, "1")], "plain") == {"extra": [1 / 3], "other": [1.0]}
