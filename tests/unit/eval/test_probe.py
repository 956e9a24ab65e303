"""Few prompts that stand for all: as large a share of them right before training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from alphagrpo.data import sort_of
from alphagrpo.eval.lines import HeldOutLine, Opinion
from alphagrpo.eval.probe import probe_prompts, prompt_set
from alphagrpo.types import Prompt, Sort


def prompt(name: str, sort: Sort = "plain") -> Prompt:
    return Prompt(id=name, text=name, metadata={"sort": sort})


def lines(right: Iterable[bool | None], sort: Sort = "plain") -> list[HeldOutLine]:
    """One line per outcome; ids are ``<sort>0``, ``<sort>1`` and so on."""
    return [
        HeldOutLine(
            id=f"{sort}{i}",
            sort=sort,
            prompt="",
            opinion=Opinion(thought="", picture="", all_right=yes, dvreward=None if yes else i),
        )
        for i, yes in enumerate(right)
    ]


def prompts_of(before: Iterable[HeldOutLine]) -> list[Prompt]:
    return [prompt(line.id, line.sort) for line in before]


@pytest.mark.parametrize("num_right", [0, 8, 24, 40, 64])
def test_as_large_a_share_of_a_probe_was_right_as_of_all_prompts(num_right: int) -> None:
    for right in ([i < num_right for i in range(64)], [i >= 64 - num_right for i in range(64)]):
        before = lines(right)
        outcomes = dict(zip((line.id for line in before), right, strict=True))
        probed = probe_prompts(prompts_of(before), before, 16)
        assert len({one.id for one in probed}) == 16
        assert sum(outcomes[one.id] for one in probed) == num_right / 4


def test_each_sort_is_probed_by_its_own_outcomes() -> None:
    before = [*lines([True, False] * 8), *lines([False] * 12 + [True] * 4, "thought")]
    outcomes = {line.id: line.opinion.all_right for line in before}
    probed = probe_prompts(prompts_of(before), before, 4)
    assert [sort_of(one) for one in probed] == ["plain"] * 4 + ["thought"] * 4
    assert [sum(outcomes[one.id] for one in part) for part in (probed[:4], probed[4:])] == [2, 1]


def test_where_nobody_tells_right_from_wrong_the_reward_orders_the_prompts() -> None:
    before = lines([None] * 9)[::-1]
    probed = probe_prompts(prompts_of(before), before, 3)
    assert [one.id for one in probed] == ["plain1", "plain4", "plain7"]


def test_without_an_evaluation_before_prompts_are_spread_in_their_own_order() -> None:
    prompts = [prompt(f"p{i}") for i in range(8)]
    assert [one.id for one in probe_prompts(prompts, [], 2)] == ["p2", "p6"]


def test_a_probe_has_no_more_prompts_than_there_are() -> None:
    prompts = [prompt("a"), prompt("t", "thought"), prompt("b")]
    assert [one.id for one in probe_prompts(prompts, [], 48)] == ["a", "b", "t"]
    assert probe_prompts([], [], 48) == []


def test_a_set_of_prompts_has_a_number_whatever_their_order() -> None:
    numbers = {prompt_set(names) for names in itertools.permutations("abc")}
    assert len(numbers) == 1
    assert numbers != {prompt_set("abd")}
    assert numbers != {prompt_set("ab")}
