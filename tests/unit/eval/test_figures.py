"""Figures by sort: each over its own prompts, paired by prompt id, absent where nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from alphagrpo.eval.figures import (
    SortFigures,
    differences,
    probe_metrics,
    share_all_right,
    summarise,
)
from alphagrpo.eval.lines import HeldOutLine, Opinion
from alphagrpo.eval.paired import share_interval
from alphagrpo.types import Sort
from tests.shades import evaluate_shades


def line(name: str, sort: Sort = "plain", **measures: Any) -> HeldOutLine:
    opinion = Opinion(thought="", picture=name, **measures)
    return HeldOutLine(id=name, sort=sort, prompt=name, opinion=opinion)


async def test_figures_of_a_sort_are_over_its_own_prompts() -> None:
    shades = {"a": [60], "t": [10], "b": [30], "u": [95], "v": [20]}
    _, lines = await evaluate_shades(shades, sorts=dict.fromkeys("tuv", "thought"))
    figures = summarise(lines)
    plain, thought = figures["plain"], figures["thought"]
    assert list(figures) == ["plain", "thought"]
    assert (plain.n, plain.all_right, plain.per_question) == (2, 0.5, 0.75)
    assert (plain.strict, plain.extra) == (0.5, 0.0)
    assert plain.dvreward == pytest.approx(0.45)
    assert (thought.n, thought.all_right) == (3, pytest.approx(1 / 3))
    assert (thought.strict, thought.extra) == (0.0, pytest.approx(1 / 3))
    assert thought.all_right_interval == share_interval([0, 1, 0])


async def test_rounds_of_a_sort_are_over_its_own_prompts() -> None:
    shades = {"a": [40, 60], "t": [60, 20], "u": [60, 70]}
    _, lines = await evaluate_shades(shades, rounds=1, sorts={"t": "thought", "u": "thought"})
    figures = summarise(lines)
    plain, thought = figures["plain"].refined, figures["thought"].refined
    assert plain is not None
    assert thought is not None
    assert (plain["round1"]["last"].n, plain["round1"]["last"].all_right) == (1, 1.0)
    assert (thought["round1"]["last"].n, thought["round1"]["last"].all_right) == (2, 0.5)


def test_means_are_over_what_could_be_had_and_say_of_how_many() -> None:
    lines = [line("a", dvreward=0.2), line("b", dvreward=None), line("c", dvreward=0.6)]
    figures = summarise(lines)["plain"]
    assert (figures.n, figures.scored) == (3, 2)
    assert figures.dvreward == pytest.approx(0.4)
    assert figures.all_right is None
    assert "thought" not in summarise(lines)


def test_differences_pair_by_prompt_id_and_not_by_place() -> None:
    before = [
        line("a", all_right=False, dvreward=0.2),
        line("b", all_right=True, dvreward=None),
        line("c", all_right=True, dvreward=0.5),
    ]
    after = [
        line("c", all_right=True, dvreward=0.9),
        line("b", all_right=True, dvreward=0.5),
        line("a", all_right=True, dvreward=0.4),
        line("d", all_right=True, dvreward=1.0),
    ]
    plain = differences(before, after)["plain"]
    right, reward = plain["all_right"], plain["dvreward"]
    assert (right.n, right.mean) == (3, pytest.approx(1 / 3))
    # By place the same numbers would have the other spread: +0.7 and -0.1 instead of +0.2, +0.4.
    assert (reward.n, reward.mean) == (2, pytest.approx(0.3))
    assert reward.high - reward.low == pytest.approx(2 * 1.959963984540054 * 0.1)
    assert list(plain) == ["all_right", "dvreward"], "no figure without values on both sides"


def test_differences_are_by_sort() -> None:
    before = [line("a", all_right=False), line("t", "thought", all_right=True)]
    after = [line("a", all_right=True), line("t", "thought", all_right=False)]
    changes = differences(before, after)
    assert (changes["plain"]["all_right"].mean, changes["thought"]["all_right"].mean) == (1, -1)
    assert differences(before, []) == {}


def test_probes_go_into_the_metrics_by_sort_without_what_nobody_knows() -> None:
    figures: dict[Sort, SortFigures] = {
        "plain": SortFigures(n=3, all_right=0.5, per_question=0.75, strict=0.25),
        "thought": SortFigures(n=1, dvreward=0.125),
    }
    assert probe_metrics(figures) == {
        "heldout/plain_all_right": 0.5,
        "heldout/plain_per_question": 0.75,
        "heldout/thought_dvreward": 0.125,
    }


def test_the_share_of_all_prompts_weighs_sorts_by_their_prompts() -> None:
    some: dict[Sort, SortFigures] = {"plain": SortFigures(n=3, all_right=1.0)}
    assert share_all_right(some | {"thought": SortFigures(n=1, all_right=0.0)}) == 0.75
    assert share_all_right(some | {"thought": SortFigures(n=1)}) == 1.0
    assert share_all_right({"plain": SortFigures(n=3)}) is None
