"""Learnt deadlines: who waits says so, a silent process is found, a slow one is not."""

from __future__ import annotations

import asyncio

import pytest

from alphagrpo import deadlines as deadlines_module
from alphagrpo.config.deadlines import DeadlineConfig
from alphagrpo.deadlines import Deadlines, Whom
from alphagrpo.errors import ProcessSilent


async def lives() -> None:
    """A process that says so."""


async def hangs() -> None:
    """One that says nothing."""
    await asyncio.Event().wait()


async def takes(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "answer"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines_module, "FIRST_WORD_S", 0.05)


def deadlines(told: list[str], **settings: float) -> Deadlines:
    known = {"first_s": 0.3, "factor": 2.0, "least_s": 0.2, "ping_s": 0.05, **settings}
    return Deadlines(DeadlineConfig(**known), told.append)


def test_the_first_of_a_kind_has_the_configs_time_and_later_ones_a_multiple() -> None:
    limits = deadlines([], first_s=100.0, factor=4.0, least_s=1.0)
    whom = Whom("runner 0", "group", lives)
    assert limits.limit_s(whom) == 100.0
    asyncio.run(limits.kept(takes(0.3), whom))
    assert 1.2 <= limits.limit_s(whom) < 20.0
    assert limits.limit_s(Whom("runner 1", "group", lives)) == limits.limit_s(whom)
    assert limits.limit_s(Whom("runner 0", "pictures", lives, allowance_s=7.0)) == 107.0


async def test_the_slowest_counts_and_none_is_shorter_than_the_least() -> None:
    limits = deadlines([], factor=2.0, least_s=0.2)
    whom = Whom("runner 0", "group", lives)
    for seconds in (0.15, 0.0):
        assert await limits.kept(takes(seconds), whom) == "answer"
    assert limits.limit_s(whom) >= 0.3
    quick = Whom("runner 0", "quick", lives)
    await limits.kept(takes(0.0), quick)
    assert limits.limit_s(quick) == 0.2


async def test_whom_it_waits_for_is_told_at_doubling_intervals_once_for_all_calls() -> None:
    told: list[str] = []
    limits = deadlines(told, first_s=60.0)
    whom = Whom("runner 0", "group", lives)
    await asyncio.gather(*(limits.kept(takes(0.5), whom) for _ in range(3)))
    assert all(line.startswith("waiting for runner 0 (group) since") for line in told)
    assert all("the first of its kind" in line for line in told)
    # At 0.05, 0.15 and 0.35 seconds.
    assert 2 <= len(told) <= 3


async def test_usual_times_are_no_news() -> None:
    told: list[str] = []
    limits = deadlines(told, first_s=60.0)
    whom = Whom("runner 0", "group", lives)
    await limits.kept(takes(0.4), whom)
    told.clear()
    await limits.kept(takes(0.2), whom)
    assert told == []


async def test_a_process_that_does_not_say_that_it_lives_is_silent_before_its_deadline() -> None:
    limits = deadlines([], first_s=60.0)
    with pytest.raises(ProcessSilent, match=r"runner 0 must say within deadlines\.ping_s"):
        await asyncio.wait_for(limits.kept(hangs(), Whom("runner 0", "group", hangs)), 10)


async def test_one_that_lives_and_never_answers_is_silent_at_its_deadline() -> None:
    limits = deadlines([])
    with pytest.raises(ProcessSilent, match=r"runner 0 must answer a call \(group\) within"):
        await asyncio.wait_for(limits.kept(hangs(), Whom("runner 0", "group", lives)), 10)


async def test_an_answer_that_comes_while_it_is_asked_counts() -> None:
    limits = deadlines([], first_s=60.0, ping_s=60.0)
    answer = await asyncio.wait_for(limits.kept(takes(0.2), Whom("runner 0", "group", hangs)), 10)
    assert answer == "answer"


async def test_what_a_process_raises_is_raised_and_teaches_nothing() -> None:
    async def fails() -> None:
        raise ValueError("no")

    limits = deadlines([])
    whom = Whom("runner 0", "group", lives)
    with pytest.raises(ValueError, match="no"):
        await limits.kept(fails(), whom)
    assert limits.limit_s(whom) == 0.3


async def test_a_dead_process_is_no_silent_one() -> None:
    async def dead() -> None:
        raise ConnectionError("gone")

    limits = deadlines([], first_s=60.0)
    answer = await limits.kept(takes(0.2), Whom("runner 0", "group", dead))
    assert answer == "answer", "what became of it is said by the call"


async def test_who_is_cancelled_cancels_the_call() -> None:
    ended = asyncio.Event()

    async def call() -> None:
        try:
            await hangs()
        finally:
            ended.set()

    task = asyncio.create_task(deadlines([]).kept(call(), Whom("runner 0", "group", lives)))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    await asyncio.wait_for(ended.wait(), 1)
    assert task.cancelled()
