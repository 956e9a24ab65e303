"""Which prompt comes next, and what a decomposer that fails does to the order."""

from __future__ import annotations

import asyncio

import pytest

from alphagrpo.config.retrying import PauseConfig
from alphagrpo.errors import ConfigError, NoQuestions, ServiceUnavailable
from alphagrpo.prompt_iterator import PromptIterator
from alphagrpo.retries import Retries
from alphagrpo.turns import Cursor, SkippedTurn, Visit
from tests.fakes import FakeDecomposer, make_prompts


def iterator_of(
    decomposer: FakeDecomposer | None = None, count: int = 8, seed: int = 0, **options
) -> PromptIterator:
    options = {"lookahead": 2, **options}
    return PromptIterator(make_prompts(count), seed, decomposer or FakeDecomposer(), **options)


async def visits_of(
    iterator: PromptIterator,
    start: int | Cursor,
    count: int,
    skipped: list[SkippedTurn] | None = None,
) -> list[Visit]:
    cursor = Cursor(start) if isinstance(start, int) else start
    note = ([] if skipped is None else skipped).append
    visits = [visit async for visit in iterator.stream(cursor, count, note)]
    iterator.close()
    return visits


def order_of(iterator: PromptIterator, start: int, stop: int) -> list[str]:
    return [iterator.at(position)[0].id for position in range(start, stop)]


def test_each_pass_and_each_seed_has_an_order_of_its_own() -> None:
    iterator = iterator_of()
    first, second = order_of(iterator, 0, 8), order_of(iterator, 8, 16)
    assert sorted(first) == sorted(second) == sorted(p.id for p in make_prompts(8))
    assert first != second
    assert order_of(iterator_of(seed=1), 0, 8) != first
    assert [iterator.at(position)[1] for position in (0, 7, 8, 15, 16)] == [0, 0, 1, 1, 2]
    assert order_of(iterator, 0, 8) == first, "an earlier pass may be asked about again"


async def test_a_turn_says_where_the_next_one_begins() -> None:
    iterator = iterator_of()
    order = order_of(iterator, 0, 8)
    unanswerable = iterator_of(FakeDecomposer(unanswerable=[order[1]]))
    visits = await visits_of(unanswerable, 0, 3)
    assert [visit.prompt.id for visit in visits] == [order[0], order[2], order[3]]
    assert [visit.after for visit in visits] == [Cursor(1), Cursor(3), Cursor(4)]
    assert [visit.position for visit in visits] == [0, 2, 3]
    assert unanswerable.set_aside.keys() == {order[1]}


async def test_failures_in_a_row_count_and_an_answer_forgives_them() -> None:
    order = order_of(iterator_of(), 0, 8)
    every_other = iterator_of(FakeDecomposer(down_for=order[0::2]))
    visits = await visits_of(every_other, 0, 4)
    assert [visit.prompt.id for visit in visits] == order[1::2]
    in_a_row = iterator_of(FakeDecomposer(down_for=order[1:4]))
    with pytest.raises(ServiceUnavailable):
        await visits_of(in_a_row, 0, 3)
    assert not in_a_row.set_aside


async def test_one_failure_does_not_end_a_step_of_one_prompt() -> None:
    order = order_of(iterator_of(), 0, 8)
    (visit,) = await visits_of(iterator_of(FakeDecomposer(down_for=order[:1])), 0, 1)
    assert visit.prompt.id == order[1]
    with pytest.raises(ServiceUnavailable):
        await visits_of(iterator_of(FakeDecomposer(down_for=order[:2])), 0, 1)


async def test_a_turn_that_failed_comes_again_at_the_end_of_its_pass() -> None:
    order = order_of(iterator_of(), 0, 16)
    decomposer = FakeDecomposer(down_for=[order[1]])
    iterator, skipped = iterator_of(decomposer), []
    first = await visits_of(iterator, 0, 4, skipped)
    assert first[-1].after == Cursor(5, (1,))
    assert [(turn.prompt.id, turn.visit, turn.put_off) for turn in skipped] == [(order[1], 0, True)]
    assert "ServiceUnavailable: the fake decomposer is down" in skipped[0].reason
    decomposer.down_for.clear()
    rest = await visits_of(iterator, first[-1].after, 5, skipped)
    assert [visit.prompt.id for visit in rest] == [*order[5:8], order[1], order[8]]
    assert [(visit.visit, visit.again) for visit in rest[-2:]] == [(0, True), (1, False)]
    assert rest[-1].after == Cursor(9)
    assert len(skipped) == 1


async def test_a_turn_that_fails_again_is_given_up() -> None:
    order = order_of(iterator_of(), 0, 16)
    iterator, skipped = iterator_of(FakeDecomposer(down_for=[order[1]])), []
    visits = await visits_of(iterator, 0, 8, skipped)
    assert [visit.prompt.id for visit in visits] == [order[0], *order[2:8], order[8]]
    assert [(turn.visit, turn.put_off) for turn in skipped] == [(0, True), (0, False)]
    assert visits[-1].after.put_off == ()


async def test_turns_that_the_loop_puts_off_come_in_prompt_order() -> None:
    order = order_of(iterator_of(), 0, 8)
    visits = await visits_of(iterator_of(), Cursor(7).putting_off([4]).putting_off([2, 4]), 3)
    assert [visit.prompt.id for visit in visits] == [order[7], order[2], order[4]]
    late = await visits_of(iterator_of(), Cursor(11, (2,)), 1)
    assert (late[0].prompt.id, late[0].after) == (order[2], Cursor(11)), "its pass is over already"


async def test_a_failed_decomposition_is_tried_again_after_growing_pauses() -> None:
    order, pauses = order_of(iterator_of(), 0, 8), []
    decomposer = FakeDecomposer(down_for=[order[0]])

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            decomposer.down_for.clear()

    retries = Retries(3, PauseConfig(first_s=2.0, most_s=5.0), sleep)
    iterator = iterator_of(decomposer, retries=retries)
    (visit,) = await visits_of(iterator, 0, 1)
    assert visit.prompt.id == order[0]
    assert pauses == [2.0, 4.0, 5.0]
    assert decomposer.calls[order[0]] == 4


async def test_a_prompt_without_questions_is_not_asked_about_twice() -> None:
    order = order_of(iterator_of(), 0, 8)
    decomposer = FakeDecomposer(unanswerable=[order[0]])
    skipped: list[SkippedTurn] = []
    iterator = iterator_of(decomposer, retries=Retries(3))
    await visits_of(iterator, 0, 14, skipped)
    assert decomposer.calls[order[0]] == 1
    assert [(turn.visit, turn.put_off) for turn in skipped] == [(0, False), (1, False)]
    assert skipped[0].reason == skipped[1].reason, "every turn of it is told, in the same words"
    assert skipped[0].reason.startswith("NoQuestions: a prompt needs one question")


async def test_what_failed_ahead_of_need_is_asked_for_once_more() -> None:
    order = order_of(iterator_of(count=20), 0, 4)
    decomposer = FakeDecomposer(down_for=order[1:4])
    iterator, skipped = iterator_of(decomposer, count=20, lookahead=4), []
    async for visit in iterator.stream(Cursor(), 4, skipped.append):
        if visit.position == 0:
            await asyncio.sleep(0.01)
            assert decomposer.calls[order[3]] == 1, "it has failed by now"
            decomposer.down_for.clear()
    iterator.close()
    assert skipped == []


async def test_a_set_that_the_reward_cannot_use_sets_its_prompt_aside() -> None:
    order = order_of(iterator_of(), 0, 8)
    refused = next(p.text for p in make_prompts(8) if p.id == order[0])

    def accept(question_set) -> None:
        if question_set.prompt == refused:
            raise NoQuestions("no quality question; reword it")

    iterator = iterator_of(accept=accept)
    visits = await visits_of(iterator, 0, 2)
    assert [visit.prompt.id for visit in visits] == order[1:3]
    assert iterator.set_aside == {order[0]: "no quality question; reword it"}


async def test_prompts_set_aside_stay_so_after_a_restore_and_are_not_asked_about() -> None:
    order = order_of(iterator_of(), 0, 8)
    before = iterator_of(FakeDecomposer(unanswerable=order[:1]))
    await visits_of(before, 0, 2)
    decomposer = FakeDecomposer()
    after = iterator_of(decomposer)
    after.load_state_dict(before.state_dict())
    visits = await visits_of(after, 0, 2)
    assert [visit.prompt.id for visit in visits] == order[1:3]
    assert decomposer.calls[order[0]] == 0


async def test_what_was_asked_ahead_is_used_and_is_forgotten_at_the_end() -> None:
    decomposer = FakeDecomposer()
    iterator = iterator_of(decomposer)
    async for _ in iterator.stream(Cursor(), 3):
        pass
    asked_ahead = decomposer.calls.copy()
    async for visit in iterator.stream(Cursor(3), 1):
        assert asked_ahead[visit.prompt.id] == decomposer.calls[visit.prompt.id] == 1
    iterator.close()
    await visits_of(iterator, 4, 1)
    assert decomposer.calls[iterator.at(4)[0].id] == 2


def test_no_prompts_and_prompts_of_one_id_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        iterator_of(count=0)
    with pytest.raises(ConfigError, match="unique"):
        PromptIterator([make_prompts(1)[0]] * 2, 0, FakeDecomposer(), lookahead=1)
